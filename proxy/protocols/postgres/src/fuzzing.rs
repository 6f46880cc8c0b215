//! What hostile bytes are thrown at: the bodies of the targets in `fuzz/`, and the tests that run them.
//!
//! Owns the list of the targets. Touches memory only; its tests read the kept corpora. Invariant: a broken law panics,
//! nothing else does.

pub use crate::session::fuzzing::{client_bytes, mask, server_bytes, session};
pub use crate::sql::fuzzing::sql;

#[cfg(test)]
mod tests;
