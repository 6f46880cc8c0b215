//! The world: what a proxy decides with, one immutable value that is swapped whole.
//!
//! Owns the pairing of bundle and roster. Touches nothing. Invariant: a decision never sees half of a change.

use std::sync::Arc;

use crate::{Bundle, Roster};

/// Bundle and roster as they are in force together.
#[derive(Debug, Clone)]
pub struct World {
    /// The compiled policies of the target.
    pub bundle: Arc<Bundle>,
    /// The identities known.
    pub roster: Arc<Roster>,
    /// Counts up with every swap, so that a holder of a decision sees that it is old.
    pub generation: u64,
}
