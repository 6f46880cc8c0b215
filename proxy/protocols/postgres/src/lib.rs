//! PostgreSQL: what agents and servers say to each other, judged statement by statement.
//!
//! Owns the protocol. Touches the sockets it is given. Invariant: nothing reaches the server that was not judged.

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

mod cancel;
mod codec;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod login;
mod mask;
mod protocol;
mod refuse;
mod session;
mod settings;
pub mod sql;

pub use codec::startup::CancelKey;
pub use mask::{Place, foreseen, read_relations};
pub use protocol::{Postgres, Wish, session_facts};
pub use session::rehearsal::{Rehearsal, Rehearsed};
pub use session::{Command, Conversation};
