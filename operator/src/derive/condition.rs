//! Conditions of rules: from what their author wrote to what a bundle carries.
//!
//! Owns what becomes of one that cannot be read. Touches nothing. Invariant: such a rule stays in the bundle and weakens
//! nothing: it never allows, and what it denies or asks about it denies and asks about whenever it matches.

use sallyport_crds::{AccessPolicySpec, AccessRule};
use sallyport_policy::{Condition, ConditionError, LONGEST_CONDITION, When};

/// A rule whose condition cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Its name.
    pub rule: String,
    /// Why, and where.
    pub error: ConditionError,
    /// Rules beside it of which the same is so.
    pub others: usize,
}

/// When the rule counts.
pub(super) fn compiled(rule: &AccessRule) -> Option<When> {
    let text = rule.when.as_ref()?;
    Some(match Condition::parse(text) {
        Ok(condition) => When::Holds(condition),
        // The schema bounds it; of an older object as much is shown.
        Err(_) => When::Broken(text.chars().take(LONGEST_CONDITION).collect()),
    })
}

/// The first rule whose condition cannot be read.
#[must_use]
pub fn first_unreadable(spec: &AccessPolicySpec) -> Option<Unreadable> {
    let read = |rule: &AccessRule| Condition::parse(rule.when.as_ref()?).err().map(|error| (rule.name.clone(), error));
    let mut unreadable = spec.rules.iter().filter_map(read);
    let (rule, error) = unreadable.next()?;
    Some(Unreadable { rule, error, others: unreadable.count() })
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rule, error, others } = self;
        write!(f, "rule {rule}: when, {error}")?;
        if *others > 0 {
            write!(f, " (and {others} more)")?;
        }
        f.write_str(". Until it can be read, such a rule allows nothing and denies or asks about all that it matches; the other rules are in force")
    }
}
