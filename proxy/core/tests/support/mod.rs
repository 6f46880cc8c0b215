//! What the contract suite stands on: a toy protocol, certificates, fake ports and a stage for them.
//!
//! Owns the fakes. Touches memory only. Invariant: every connection is an in-memory pipe and all time is
//! paused, so that a test ends as soon as nothing moves, however long the deadline it speaks of.

pub mod certificates;
pub mod desk;
pub mod ports;
pub mod stage;
pub mod toy;
