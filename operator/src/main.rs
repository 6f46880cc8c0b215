//! The operator's process: configuration, logging, signals, and [`sallyport_operator::run`].
//!
//! Touches the process alone. Invariant: a configuration that cannot be used ends it at once, with every error.

use clap::Parser;
use sallyport_operator::{Arguments, Config};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let config = Config::resolve(&arguments)?;
    let filter = tracing_subscriber::EnvFilter::try_new(&arguments.log)?;
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
    tracing::info!(?config, "configuration");
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::debug!("a crypto provider was installed already");
    }
    let client = kube::Client::try_default().await?;
    sallyport_operator::run(config, client, stopped()?).await
}

/// Cancelled by SIGTERM or SIGINT.
fn stopped() -> std::io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopping.cancel();
    });
    Ok(stop)
}
