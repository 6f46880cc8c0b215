//! A verdict with the names of what gave it.
//!
//! Owns its words, which are those of the records. Touches nothing. Invariant: the verdict is policy's own.

use std::time::SystemTime;

use sallyport_policy::{Action, Denial, Session, Verdict, World, decide};
use serde::Serialize;

/// The verdict in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// It may go on.
    Allow,
    /// People are asked first.
    Ask,
    /// It may not.
    Deny,
}

/// What was decided, by what, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Ruled {
    /// The verdict.
    pub verdict: Word,
    /// The policy whose rule decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The rule that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What the agent is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Ruled {
    /// What policy says of that action at that time; or of one that the protocol refuses by itself.
    #[must_use]
    pub fn on(world: &World, session: &Session, now: SystemTime, action: &Result<Action, Denial>) -> Self {
        // Standing first, as at the gate: a suspended agent is told that, whatever it sent.
        let verdict = match (sallyport_policy::standing(world, session), action) {
            (Ok(()), Ok(action)) => decide(world, session, now, action),
            (Ok(()), Err(denial)) => Verdict::Deny(denial.clone()),
            (Err(denial), _) => Verdict::Deny(denial),
        };
        match verdict {
            Verdict::Allow { rule } => {
                let names = rule.and_then(|rule| world.bundle.rule_names(rule));
                Self::new(Word::Allow, names, None)
            }
            Verdict::Ask(ask) => {
                let (policy, rule, message) = world.bundle.rule_that_asks(ask.rule).unwrap_or_default();
                let (people, wait) = (ask.terms.approvals, ask.terms.timeout_seconds);
                let people = if people == 1 { "one person".to_owned() } else { format!("{people} people") };
                let message = message.map(|message| format!(": {message}")).unwrap_or_default();
                let reason = format!("waits up to {wait} s for the approval of {people}{message}");
                Self::new(Word::Ask, Some((policy, rule)), Some(reason))
            }
            Verdict::Deny(denial) => Self::new(Word::Deny, denial.rule(), Some(denial.to_string())),
        }
    }

    fn new(verdict: Word, names: Option<(&str, &str)>, reason: Option<String>) -> Self {
        let (policy, rule) = names.map(|(policy, rule)| (policy.to_owned(), rule.to_owned())).unzip();
        Self { verdict, policy, rule, reason }
    }

    /// By what, for a person: a rule, or the reason where no rule did.
    #[must_use]
    pub fn by(&self) -> String {
        match (&self.policy, &self.rule, &self.reason) {
            (Some(policy), Some(rule), _) => format!("{policy}/{rule}"),
            (_, _, Some(reason)) => reason.clone(),
            _ => "it needs no rule".to_owned(),
        }
    }
}

impl std::fmt::Display for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Allow => "allow",
            Self::Ask => "ask",
            Self::Deny => "deny",
        })
    }
}
