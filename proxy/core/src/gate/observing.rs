//! The gate's part in observing: what policies that only observe would have made of a command.
//!
//! Owns that reckoning and its words in the records. Touches the meter. Invariant: it is made after the decision, and
//! changes nothing of it.

use std::time::SystemTime;

use sallyport_policy::{Denial, Verdict, World, would_have};

use super::Gate;
use crate::ports::Event as Count;
use crate::protocol::Described;
use crate::record::WouldHave;

impl Gate {
    /// What would have been decided otherwise, for the records.
    pub(super) fn otherwise(
        &self,
        world: &World,
        described: &Described<'_>,
        now: SystemTime,
        decided: &Verdict,
    ) -> Option<WouldHave> {
        let action = described.action.as_ref().ok()?;
        // What no policy's rules were asked about.
        let own = |denial: &Denial| denial.ends_session() || denial.is_our_own() || denial.limit().is_some();
        if !self.observed || matches!(decided, Verdict::Deny(denial) if own(denial)) {
            return None;
        }
        let owned = |name: Option<&str>| name.map(str::to_owned);
        let would = match would_have(world, &self.session, now, action, decided)? {
            Verdict::Deny(denial) => WouldHave {
                verdict: "deny",
                policy: owned(denial.policy()),
                rule: owned(denial.rule().map(|(_, rule)| rule)),
                reason: Some(denial.to_string()),
            },
            Verdict::Ask(ask) => {
                let (policy, rule) = world.bundle.rule_names(ask.rule).unzip();
                WouldHave { verdict: "ask", policy: owned(policy), rule: owned(rule), reason: None }
            }
            Verdict::Allow { rule } => {
                let (policy, rule) = rule.and_then(|rule| world.bundle.rule_names(rule)).unzip();
                WouldHave { verdict: "allow", policy: owned(policy), rule: owned(rule), reason: None }
            }
        };
        if described.entry.as_ref().is_some_and(|entry| entry.runs) {
            self.ports.meter.count(Count::WouldHave(would.verdict));
        }
        Some(would)
    }
}
