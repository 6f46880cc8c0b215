//! The program `sallyport-proxy`: a door in front of one target.
//!
//! Owns the process: crypto provider, runtime, logging, exit code. Touches arguments and signals.
//! Invariant: a configuration that cannot be honoured in full ends the process with every cause listed.

use std::process::ExitCode;

use clap::Parser;
use sallyport_proxy::{Cli, Command, Config};

fn main() -> ExitCode {
    // First of all: whoever builds a TLS configuration after this finds the one provider.
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match Cli::parse().command {
        Command::Serve(arguments) => match Config::resolve(*arguments) {
            Ok(config) => serve(config),
            Err(errors) => {
                eprintln!("{errors}");
                ExitCode::from(2)
            }
        },
        Command::Records(arguments) => report(sallyport_proxy::print_records(&arguments)),
        Command::Copy(arguments) => report(sallyport_proxy::send_recordings(&arguments)),
        Command::Verify(arguments) => match sallyport_proxy::verify(&arguments) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => report(Err(error)),
        },
    }
}

fn serve(config: Config) -> ExitCode {
    sallyport_proxy::start_logging(&config);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(Err(error.into())),
    };
    report(runtime.block_on(sallyport_proxy::run(config, sallyport_proxy::termination())))
}

fn report(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sallyport-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}
