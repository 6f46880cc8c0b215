//! The conditions that a verdict hangs on, for whoever has to explain it.
//!
//! Owns that list. Touches its arguments only. Invariant: it decides nothing, and each condition is judged as the decision
//! judges it.

use std::time::SystemTime;

use super::{Session, applicable, known_member, may_match};
use crate::bundle::{PolicyEntry, Rule};
use crate::condition::{Facts, Outcome};
use crate::{Action, World};

/// A condition of a rule that speaks of a command, and what it comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgedCondition<'w> {
    /// Policy of the rule.
    pub policy: &'w str,
    /// Its name.
    pub rule: &'w str,
    /// The condition as it was written.
    pub text: &'w str,
    /// Whether it holds.
    pub outcome: Outcome,
}

/// What the conditions come to that a verdict on that command hangs on, or could. Decides nothing.
#[must_use]
pub fn conditions<'w>(
    world: &'w World,
    session: &Session,
    now: SystemTime,
    action: &Action,
) -> Vec<JudgedCondition<'w>> {
    let Ok(member) = known_member(world, session) else { return Vec::new() };
    let facts = Facts::new(world, member, session, now, action);
    let judged = |(policy, rule): (&'w PolicyEntry, &'w Rule)| {
        let when = rule.when.as_ref().filter(|_| may_match(&rule.matcher, action))?;
        let outcome = when.holds(&facts);
        Some(JudgedCondition { policy: &policy.name, rule: &rule.name, text: when.text(), outcome })
    };
    applicable(&world.bundle, member)
        .filter(|(_, policy)| policy.credentials.contains(&session.credential))
        .flat_map(|(_, policy)| policy.rules.iter().map(move |rule| (policy, rule)))
        .filter_map(judged)
        .collect()
}
