//! The protocol contract: what serving promises of every protocol, shown with a toy one over in-memory pipes.
//!
//! Owns the claims, one test each, sorted by what they speak of. Touches memory only. Invariant: no test
//! sleeps in real time; deadlines pass in paused time, so a claim about one is exact.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    missing_debug_implementations,
    reason = "a failing test should stop where it fails; support is shared by modules of a test only"
)]

mod asking;
mod binding;
mod certificates;
mod commands;
mod conditions;
mod deadlines;
mod durability;
mod endings;
mod feed;
mod hours;
mod limits;
mod memory;
mod observe;
mod opening;
mod results;
#[path = "../support/mod.rs"]
mod support;
mod world;
