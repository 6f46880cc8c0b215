//! Texts that differ in their constants alone.
//!
//! Owns what they have in common. Touches its arguments only. Invariant: it tells texts together for people; nothing is
//! decided by it.

use std::sync::PoisonError;

use super::{LONGEST_TEXT, PARSER};

/// The text with a parameter in the place of each constant; none where the grammar cannot read it.
#[must_use]
pub fn without_constants(text: &str) -> Option<String> {
    if text.len() > LONGEST_TEXT || text.contains('\0') {
        return None;
    }
    let _alone = PARSER.lock().unwrap_or_else(PoisonError::into_inner);
    pg_query::normalize(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_all_that_is_taken_out() {
        let like = |text: &str| without_constants(text).unwrap();
        assert_eq!(like("select * from a where id = 7 and n = 'x'"), like("select * from a where id = 8 and n = 'y'"));
        assert_ne!(like("select * from a where id = 7"), like("select * from b where id = 7"));
        assert_eq!(without_constants("selekt 1"), None);
        assert_eq!(without_constants("select '\0'"), None);
    }
}
