//! The proxy as a library, so that tests run in their own process what the program runs.
//!
//! Owns the table of parts; [`app`] wires them. Touches the outside world in `edges/` and where sockets,
//! files and metrics are named below. Invariant: decisions are made in the core, nowhere here.

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

mod admin;
mod app;
mod chain;
mod config;
mod copying;
mod doorway;
mod edges;
mod listen;
mod meter;
mod reading;
mod registry;
mod stored;
mod tls;
mod trust;
mod upstream;
mod verify;

pub use app::{Running, run, start, start_logging, termination};
pub use config::{
    Arguments, Cli, Command, Config, ConfigErrors, CopyArguments, RecordsArguments, Source, VerifyArguments,
};
pub use copying::{receive_recordings, send_recordings};
pub use edges::files::read_roster;
pub use edges::namespaces::member;
pub use edges::recordings::Recordings;
pub use edges::vault::DirectoryVault;
pub use reading::{print_records, shown};
pub use sallyport_core::PolicyFeed;
pub use stored::{Line, lines};
pub use verify::{verify, verify_against};
