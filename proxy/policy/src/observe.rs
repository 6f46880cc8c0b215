//! Policies that only observe: they refuse nothing, and what they would have done is told.
//!
//! Owns what such a policy means beside those that enforce. Touches its arguments only. Invariants: where a policy
//! that enforces applies to a session, no other has a say in its verdicts; who is not in good standing is
//! refused whatever the mode.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::bundle::PolicyEntry;
use crate::condition::Facts;
use crate::decide::{applicable, judge};
use crate::{Action, Member, Session, Verdict, World};

/// Whether a policy decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// It does.
    #[default]
    Enforce,
    /// It is only told what it would have decided.
    Observe,
}

/// Which policies of a session's decide.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Deciding {
    /// All of them.
    #[default]
    All,
    /// Those that enforce; others observe beside them.
    Some,
    /// None: all of them observe.
    None,
}

impl Mode {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Which of the policies that apply to a session of `member` decide.
pub(crate) fn deciding(world: &World, member: &Member, session: &Session) -> Deciding {
    let mut modes = applicable(&world.bundle, member)
        .filter(|(_, policy)| policy.credentials.contains(&session.credential))
        .map(|(_, policy)| policy.mode);
    let first = modes.next();
    match (first, modes.all(|mode| Some(mode) == first)) {
        (Some(Mode::Enforce) | None, true) => Deciding::All,
        (Some(Mode::Observe), true) => Deciding::None,
        (_, false) => Deciding::Some,
    }
}

/// What would be decided if the policies that observe enforced, where that is not what is decided.
#[must_use]
pub fn would_have(
    world: &World,
    session: &Session,
    now: SystemTime,
    action: &Action,
    decided: &Verdict,
) -> Option<Verdict> {
    let member = world.roster.member(session.identity.namespace(), session.identity.name())?;
    if deciding(world, member, session) == Deciding::All {
        return None;
    }
    let all = |_: &PolicyEntry| true;
    let would = judge(world, member, session, &Facts::new(world, member, session, now, action), all);
    (std::mem::discriminant(&would) != std::mem::discriminant(decided)).then_some(would)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::bundle::{Effect, Matcher, Rule, Subject};
    use crate::fixture::world;
    use crate::{Denial, DenyReason, IdentityName, Operation, Roster, SessionFacts, decide};

    fn policy(name: &str, mode: Mode, rules: &[(Effect, &str)]) -> PolicyEntry {
        let rule = |(effect, verb): &(Effect, &str)| Rule {
            name: (*verb).to_owned(),
            effect: *effect,
            message: None,
            matcher: Matcher { verbs: Some(vec![(*verb).to_owned()]), ..Matcher::default() },
            when: None,
        };
        PolicyEntry {
            name: name.to_owned(),
            subjects: vec![Subject::Agent { namespace: "ci".into(), name: "bot".into() }],
            credentials: vec!["default".into()],
            mode,
            rules: rules.iter().map(rule).collect(),
            ..PolicyEntry::default()
        }
    }

    fn session() -> Session {
        let identity = IdentityName::new("cluster.local", "ci", "bot").unwrap();
        Session {
            identity,
            not_before: 0,
            uid: None,
            address: None,
            credential: "default".into(),
            facts: SessionFacts::default(),
        }
    }

    /// Whether it is let through, and whether it would have been otherwise.
    fn judged(policies: &[PolicyEntry], verb: &'static str) -> (bool, Option<bool>) {
        let (world, session) = (world(policies.to_vec()), session());
        let action = Action { operations: vec![Operation::bare(verb)], ..Action::default() };
        let lets = |verdict: &Verdict| matches!(verdict, Verdict::Allow { .. });
        let decided = decide(&world, &session, SystemTime::UNIX_EPOCH, &action);
        (lets(&decided), would_have(&world, &session, SystemTime::UNIX_EPOCH, &action, &decided).as_ref().map(lets))
    }

    #[test]
    fn alone_it_refuses_nothing_and_tells_what_it_would_have_refused() {
        let alone = [policy("watch", Mode::Observe, &[(Effect::Allow, "select"), (Effect::Deny, "drop")])];
        assert_eq!(judged(&alone, "select"), (true, None));
        assert_eq!(judged(&alone, "drop"), (true, Some(false)));
        assert_eq!(judged(&alone, "insert"), (true, Some(false)));
    }

    #[test]
    fn beside_one_that_enforces_it_changes_no_verdict_and_tells_what_it_would_have() {
        let enforced = policy("work", Mode::Enforce, &[(Effect::Allow, "select"), (Effect::Allow, "drop")]);
        let watching = policy("watch", Mode::Observe, &[(Effect::Allow, "insert"), (Effect::Deny, "drop")]);
        for verb in ["select", "insert", "drop", "update"] {
            let alone = judged(std::slice::from_ref(&enforced), verb);
            let both = judged(&[watching.clone(), enforced.clone()], verb);
            assert_eq!(alone.0, both.0, "{verb}");
            assert_eq!(alone.1, None);
            let wanted = match verb {
                "insert" => Some(true),
                "drop" => Some(false),
                _ => None,
            };
            assert_eq!(both.1, wanted, "{verb}");
        }
    }

    #[test]
    fn what_it_would_have_done_is_what_is_done_once_it_enforces() {
        let of = |mode| {
            [
                policy("a", mode, &[(Effect::Allow, "insert"), (Effect::Deny, "drop")]),
                policy("b", Mode::Enforce, &[(Effect::Allow, "drop")]),
            ]
        };
        for verb in ["select", "insert", "drop"] {
            let (lets, would) = judged(&of(Mode::Observe), verb);
            assert_eq!(would.unwrap_or(lets), judged(&of(Mode::Enforce), verb).0, "{verb}");
        }
    }

    #[test]
    fn one_of_another_credential_or_agent_has_no_say() {
        let mut watching = policy("watch", Mode::Observe, &[]);
        watching.credentials = vec!["owner".into()];
        let enforced = policy("work", Mode::Enforce, &[(Effect::Allow, "select")]);
        assert_eq!(judged(&[watching.clone(), enforced.clone()], "drop"), (false, None));
        // And an observing one stays alone where only another's agent is held to rules.
        let mut other = enforced;
        other.subjects = vec![Subject::Agent { namespace: "ci".into(), name: "other".into() }];
        watching.credentials = vec!["default".into()];
        assert_eq!(judged(&[watching, other], "drop"), (true, Some(false)));
    }

    #[test]
    fn standing_is_asked_of_everybody() {
        let mut world = world(vec![policy("watch", Mode::Observe, &[])]);
        let mut roster = Roster::default();
        roster.insert(Member { namespace: "ci".into(), name: "bot".into(), suspended: true, ..Member::default() });
        world.roster = Arc::new(roster);
        let verdict = decide(&world, &session(), SystemTime::UNIX_EPOCH, &Action::none());
        assert_eq!(verdict, Verdict::Deny(Denial { reason: DenyReason::Suspended }));
    }
}
