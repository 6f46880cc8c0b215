//! The program `sallyport`, which is also `kubectl sallyport` where it lies in the path as `kubectl-sallyport`.
//!
//! Owns the process: crypto provider, runtime, exit code. Touches arguments. Invariant: what could not be found out
//! is never told as an answer: it ends with 2.

use std::process::ExitCode;

use clap::Parser;
use sallyport_cli::Cli;

fn main() -> ExitCode {
    // First of all: whoever builds a TLS configuration after this finds the one provider.
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(sallyport_cli::run(cli)));
    match done {
        Ok(answer) => answer.into(),
        Err(error) => {
            eprintln!("sallyport: {error:#}");
            ExitCode::from(2)
        }
    }
}
