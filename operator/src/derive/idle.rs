//! Rules that can never match what they list: statements that touch no table, limited to tables.
//!
//! Owns what is known of statements and the things they touch. Touches nothing. Invariant: it only tells; a statement
//! stands here only where no text of it ever comes to a table or function that a rule could name.

use sallyport_policy::{Effect, PolicyEntry, Rule};

/// Statements that touch channels, roles, databases and settings, and never anything else.
const ELSEWHERE: &[&str] = &["CreateDatabase", "Listen", "Notify", "SetRole"];

/// Statements of which it is never known what they touch. A rule that is limited to something never allows them, and
/// denies every one of them.
const UNKNOWN: &[&str] = &["AlterOther", "CreateOther", "Do", "Execute", "Other"];

/// Statements of which either is so.
const ELSEWHERE_OR_UNKNOWN: &[&str] =
    &["AlterRole", "AlterSystem", "CreateExtension", "CreateRole", "CreateSchema", "SetParameter"];

/// A rule that does not do all that it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idle {
    /// Its name.
    pub rule: String,
    /// Its statements that it can never match, sorted.
    pub statements: Vec<String>,
    /// Whether there are no others.
    pub wholly: bool,
}

/// The first rule of `entry` that lists statements which the rest of it excludes.
#[must_use]
pub fn first(entry: &PolicyEntry) -> Option<Idle> {
    entry.rules.iter().find_map(idle)
}

fn idle(rule: &Rule) -> Option<Idle> {
    let verbs = rule.matcher.verbs.as_ref().filter(|_| rule.matcher.objects.is_some())?;
    let denies = rule.effect == Effect::Deny;
    let never = |verb: &&String| {
        let verb = verb.as_str();
        // A deny that hangs on what is unknown denies: that is not idle, if hardly what its author meant.
        ELSEWHERE.contains(&verb) || (!denies && (UNKNOWN.contains(&verb) || ELSEWHERE_OR_UNKNOWN.contains(&verb)))
    };
    let statements: Vec<_> = verbs.iter().filter(never).cloned().collect();
    let wholly = statements.len() == verbs.len();
    (!statements.is_empty()).then(|| Idle { rule: rule.name.clone(), statements, wholly })
}

impl std::fmt::Display for Idle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rule, statements, wholly } = self;
        let all = statements.join(", ");
        let never = if *wholly { "can never match anything" } else { "can never match all that it lists" };
        write!(f, "rule {rule} {never}: it is limited to tables or functions and lists statements that ")?;
        write!(f, "touch none that could be known ({all}); put these into a rule without tables and functions. ")?;
        f.write_str("All rules are in force as they are")
    }
}

#[cfg(test)]
mod tests {
    use sallyport_crds::Statement;

    use super::*;

    #[test]
    fn every_statement_here_is_one_and_stands_once() {
        let mut all: Vec<_> = [ELSEWHERE, UNKNOWN, ELSEWHERE_OR_UNKNOWN].concat();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        for verb in all {
            assert!(Statement::ALL.iter().any(|statement| statement.verb() == verb), "{verb}");
        }
    }
}
