//! The types of a prepared statement's parameters, as far as they are certain.
//!
//! Owns what a Parse has said and what the server has described. Touches nothing. Invariant: a type is told only where the server
//! reads the parameter by that very type; of whatever else only the bytes are certain.
//!
//! A type that the Parse gives is the one that the server uses; what it leaves open (0, or `unknown`, which the server resolves
//! as well) the server infers from the text when it prepares it, once, and tells in answer to a Describe. That answer is
//! kept with the statement that was described, not with its name: the same name may stand for another one by then.

use std::sync::{Arc, OnceLock};

use crate::codec::frontend;

/// Parameters of which a description is kept.
const MOST: usize = 1024;
/// Bytes of a ParameterDescription's body that is kept.
pub(super) const LONGEST: usize = 2 + 4 * MOST;
/// The type `unknown`.
const UNKNOWN: u32 = 705;

/// Of one prepared statement.
#[derive(Debug, Clone, Default)]
pub(crate) struct Types {
    given: Arc<[u32]>,
    described: Description,
}

/// What the server says of one statement; written once, for its types never change.
pub(super) type Description = Arc<OnceLock<Box<[u32]>>>;

impl Types {
    /// As a Parse gives them.
    pub(super) fn given(bytes: &[u8]) -> Self {
        Self { given: frontend::types(bytes).collect(), described: Description::default() }
    }

    /// Bytes held on to.
    pub(super) fn weight(&self) -> usize {
        self.given.len() * size_of::<u32>()
    }

    /// Of the parameter of that number, counted from zero.
    pub(super) fn of(&self, number: usize) -> Option<u32> {
        let given = self.given.get(number).copied().filter(|of| !matches!(*of, 0 | UNKNOWN));
        given.or_else(|| self.described.get()?.get(number).copied())
    }

    /// What a client says that a text is to be read as, where that is anything but text.
    pub(super) fn claimed(&self, number: usize) -> Option<u32> {
        self.given.get(number).copied().filter(|_| !self.may_be_text(number))
    }

    /// Whether a client leaves it to the server of what type that parameter is, or says that it is text of any length.
    pub(super) fn may_be_text(&self, number: usize) -> bool {
        self.given.get(number).is_none_or(|of| matches!(*of, 0 | UNKNOWN | 25 | 1043))
    }

    /// Where the server's description of this statement goes.
    pub(super) fn description(&self) -> Description {
        Arc::clone(&self.described)
    }
}

/// Takes a ParameterDescription, where it is whole.
pub(super) fn describe(description: &Description, body: &[u8]) {
    let Some((count, types)) = body.split_first_chunk() else { return };
    let count = usize::from(u16::from_be_bytes(*count));
    if count <= MOST && types.len() == count * size_of::<u32>() {
        // The same statement, described again, is described the same.
        let _same = description.set(frontend::types(types).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_parse_gives_counts_and_the_description_fills_what_it_leaves_open() {
        let given = [23_u32, 0, 705].iter().flat_map(|of| of.to_be_bytes()).collect::<Vec<_>>();
        let types = Types::given(&given);
        let all = |types: &Types| (0..5).map(|number| types.of(number)).collect::<Vec<_>>();
        assert_eq!(all(&types), [Some(23), None, None, None, None]);
        let told = |types: &[u32]| {
            let mut body = u16::try_from(types.len()).unwrap().to_be_bytes().to_vec();
            body.extend(types.iter().flat_map(|of| of.to_be_bytes()));
            body
        };
        // Not whole, or of more than is kept.
        describe(&types.description(), &told(&[23, 25, 16])[..10]);
        describe(&types.description(), &told(&vec![23; MOST + 1]));
        assert_eq!(types.of(1), None);
        let copy = types.clone();
        describe(&types.description(), &told(&[20, 25, 16, 17]));
        assert_eq!(all(&copy), [Some(23), Some(25), Some(16), Some(17), None]);
        describe(&types.description(), &told(&[23, 17, 17, 17]));
        assert_eq!(types.of(1), Some(25));
    }
}
