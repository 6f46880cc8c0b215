//! What a person asks of Sallyport: what would happen, what did happen, and whether that is true.
//!
//! Owns the commands. Touches the cluster in [`cluster`] and files in [`source`] and [`recordings`]; the rest is told
//! to a writer. Invariant: nothing here decides or describes by itself: policy, protocol, operator and proxy do, with
//! the very code that they use in earnest.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "a failing test should stop where it fails"
    )
)]

mod arguments;
mod cluster;
mod draft;
mod explain;
mod preview;
mod recordings;
mod replay;
mod requests;
mod ruled;
mod sessions;
mod source;
mod told;
mod veiled;
mod verify;

use std::io::{self, Write};
use std::process::ExitCode;

use sallyport_crds::Answer as Said;

pub use arguments::{Cli, Command};
pub use explain::{Circumstances, Explained, ExplainedCondition, explain};
pub use ruled::{Ruled, Word};

/// How a command ended that could be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It would be allowed; it is sound; nothing changes.
    Yes,
    /// It would be refused; it is not sound; something changes.
    No,
    /// A human would be asked.
    Ask,
}

impl From<Answer> for ExitCode {
    fn from(answer: Answer) -> Self {
        Self::from(match answer {
            Answer::Yes => 0,
            Answer::No => 1,
            Answer::Ask => 3,
        })
    }
}

/// Does what the arguments say, and tells it on standard output.
///
/// # Errors
/// When there is no answer: the arguments do not fit together, or something cannot be reached or read.
pub async fn run(cli: Cli) -> anyhow::Result<Answer> {
    let mut out = io::stdout().lock();
    let answered = match cli.command {
        Command::Explain(arguments) => explain::run(&cli.reach, &arguments, &mut out).await,
        Command::Sessions(arguments) => sessions::run(&cli.reach, &arguments, &mut out).await,
        Command::Replay(arguments) => replay::run(&cli.reach, &arguments, &mut out).await,
        Command::Verify(arguments) => verify::run(&cli.reach, &arguments, &mut out).await,
        Command::Preview(arguments) => preview::run(&cli.reach, &arguments, &mut out).await,
        Command::Requests(arguments) => requests::list(&cli.reach, &arguments, &mut out).await,
        Command::Approve(arguments) => requests::answer(&cli.reach, &arguments, Said::Approve, &mut out).await,
        Command::Deny(arguments) => requests::answer(&cli.reach, &arguments, Said::Deny, &mut out).await,
        Command::Completions { shell } => {
            arguments::completions(shell, &mut out);
            Ok(Answer::Yes)
        }
    };
    match answered.and_then(|answer| Ok(out.flush().map(|()| answer)?)) {
        // `sallyport sessions | head` is done when head is.
        Err(error) if broken_pipe(&error) => Ok(Answer::Yes),
        other => other,
    }
}

fn broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
