//! The benchmarks behind `make bench`: tables of ratios, each measured in one run beside what a user would
//! pick instead. It starts real servers on loopback and prints; it fails only when something does not run.

use std::process::ExitCode;

mod convergence;
mod throughput;

#[tokio::main]
async fn main() -> ExitCode {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(4);
    let tables = async {
        convergence::table().await?;
        throughput::table(seconds).await
    };
    match tables.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
