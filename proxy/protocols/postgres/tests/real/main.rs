//! The protocol in the core's serve loop, in front of a real PostgreSQL.
//!
//! Owns the claims that only a real server can judge. Touches loopback. Invariant: what a claim says of the
//! server's state is asked of the server itself, past the proxy.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod asking;
mod commands;
mod evasions;
mod hours;
mod limits;
mod masks;
mod opening;
mod raw;
mod stage;
mod values;
