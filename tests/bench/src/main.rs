//! The benchmarks behind `make bench`: tables of ratios, each measured in one run beside what a user would
//! pick instead. It starts real servers on loopback and prints; it fails only when something does not run. `sallyport-bench SECONDS TABLE` prints one of them.

use std::process::ExitCode;

mod answer;
mod convergence;
mod everything;
mod revocation;
mod scale;
mod scene;
mod throughput;

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(4);
    let only = arguments.next();
    let wanted = |table: &str| only.as_deref().is_none_or(|only| only == table);
    let tables = async {
        if wanted("scale") {
            let many = std::env::var("IDENTITIES").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000);
            scale::table(many).await?;
        }
        if wanted("convergence") {
            convergence::table().await?;
        }
        if wanted("revocation") {
            revocation::table().await?;
        }
        if wanted("throughput") {
            throughput::table(seconds).await?;
        }
        if wanted("everything") {
            everything::table(seconds).await?;
        }
        if wanted("answer") {
            answer::table().await?;
        }
        anyhow::Ok(())
    };
    match tables.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
