//! One door for every protocol: the serve loop, the gate, and the ports they stand on.
//!
//! Owns the way of a session from accept to close. Touches the sockets and ports it is given: never the
//! cluster, files, the environment, or a protocol by name. Invariant: no byte goes upstream without a
//! value that only [`gate`] can make.

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

pub mod asking;
pub mod fault;
pub mod feed;
pub mod gate;
mod hours;
pub mod identify;
pub mod ports;
pub mod protocol;
pub mod record;
pub mod serve;
pub mod sessions;
pub mod shown;
mod sluice;
mod usage;
mod wire;

pub use fault::Fault;
pub use feed::PolicyFeed;
pub use gate::{Granted, GrantedOpening, Refused};
pub use identify::Principal;
pub use protocol::Protocol;
