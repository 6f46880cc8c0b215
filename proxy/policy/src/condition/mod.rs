//! Conditions: when a rule counts, in the Common Expression Language over agent, target, session, command and time.
//!
//! Owns that part of CEL which conditions may use, its bounds, and what it means where a fact is not known. Touches its
//! arguments only: time is one of them, and the time zones are part of the program. Invariants: no text, however made,
//! can exhaust a stack, and no evaluation takes more steps than is said here; what is true or false in ignorance
//! is so however the unknown turns out.

mod check;
mod eval;
mod facts;
mod lex;
mod parse;
#[cfg(test)]
mod tests;
mod time;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::check::Expr;
pub(crate) use self::facts::Facts;
pub use self::facts::{SessionFacts, condition_facts};

/// Bytes of a condition's text at most.
pub const LONGEST_CONDITION: usize = 1024;

/// A condition that can be evaluated. It is compiled when it is read, once a bundle.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Condition(Arc<Compiled>);

struct Compiled {
    text: String,
    expr: Expr,
}

/// When a rule counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum When {
    /// While this holds.
    Holds(Condition),
    /// What its author wrote, and nobody can evaluate: it is never known whether it holds.
    Broken(String),
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It does.
    True,
    /// It does not.
    False,
    /// It hangs on what is not known, or cannot be computed.
    Unknown,
    /// Nobody can evaluate it.
    Broken,
}

/// Why a text is no condition, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ConditionError {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The cause and the next step.
    pub message: String,
}

impl Condition {
    /// Reads a condition: its grammar, its names and its types.
    ///
    /// # Errors
    /// When it is too long, deep or large, not of the language, or not true or false; with the place.
    pub fn parse(text: &str) -> Result<Self, ConditionError> {
        if text.len() > LONGEST_CONDITION {
            let message = format!("a condition has at most {LONGEST_CONDITION} bytes, this one {}", text.len());
            return Err(ConditionError { line: 1, column: 1, message });
        }
        let expr = check::check(text, &parse::parse(text)?)?;
        Ok(Self(Arc::new(Compiled { text: text.to_owned(), expr })))
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0.text
    }

    pub(crate) fn holds(&self, facts: &Facts<'_>) -> Outcome {
        match eval::truth(&self.0.expr, facts) {
            Some(true) => Outcome::True,
            Some(false) => Outcome::False,
            None => Outcome::Unknown,
        }
    }
}

impl When {
    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Holds(condition) => condition.text(),
            Self::Broken(text) => text,
        }
    }

    pub(crate) fn holds(&self, facts: &Facts<'_>) -> Outcome {
        match self {
            Self::Holds(condition) => condition.holds(facts),
            Self::Broken(_) => Outcome::Broken,
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::True => "true",
            Self::False => "false",
            Self::Unknown => "unknown",
            Self::Broken => "broken",
        })
    }
}

impl ConditionError {
    /// At a byte of the text.
    fn at(text: &str, at: usize, message: impl Into<String>) -> Self {
        let before = text.get(..at).unwrap_or(text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        Self { line: before.matches('\n').count() + 1, column: line.chars().count() + 1, message: message.into() }
    }
}

/// The text is all there is to it: the same text means the same.
impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}
impl Eq for Condition {}

impl std::fmt::Debug for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Condition").field(&self.0.text).finish()
    }
}

impl TryFrom<String> for Condition {
    type Error = ConditionError;
    fn try_from(text: String) -> Result<Self, ConditionError> {
        Self::parse(&text)
    }
}

impl From<Condition> for String {
    fn from(condition: Condition) -> Self {
        condition.0.text.clone()
    }
}
