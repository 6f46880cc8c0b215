//! What is recorded: the events of a session, in their order.
//!
//! Owns the facts of a record; `edges/` owns its bytes and where they go. Touches nothing. Invariant: no
//! credential of the target can stand in one, for no field could hold it.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::shown::{Column, Lines, Rows};

/// One event of a session.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// When.
    pub time: SystemTime,
    /// Which session: 32 hex digits.
    pub session: &'a str,
    /// Counts the events of a session from 0.
    pub sequence: u64,
    /// Who: the SPIFFE ID.
    pub agent: &'a str,
    /// The certificate's serial number in hex.
    pub serial: &'a str,
    /// `<namespace>/<name>` of the target.
    pub target: &'a str,
    /// What.
    pub event: Event<'a>,
}

/// What happened.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Event<'a> {
    /// A session was opened, or refused.
    Open {
        /// Where from.
        #[serde(skip_serializing_if = "Option::is_none")]
        client: Option<SocketAddr>,
        /// The target's credential that was asked for, by name.
        credential: &'a str,
        /// What else the client named (database, application name).
        facts: &'a [(&'static str, String)],
        /// What was decided.
        #[serde(flatten)]
        decision: Decision<'a>,
    },
    /// A command was judged. When allowed, this is written before any byte of it goes upstream.
    Command {
        /// Counts the commands of a session from 1; its outcome bears the same.
        command: u64,
        /// The command, whole.
        text: &'a str,
        /// Its parameters; `null` for those that are none.
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        parameters: &'a [Parameter],
        /// What was decided.
        #[serde(flatten)]
        decision: Decision<'a>,
    },
    /// A part of what the client of a command is shown, as it is shown: behind masks and limits. Written before any byte
    /// of it goes to the client.
    Result {
        /// Which.
        command: u64,
        /// Counts the parts of a command's results from 1.
        part: u64,
        /// Where a result begins: its columns.
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        columns: &'a [Column],
        /// Rows, each a list of values.
        #[serde(skip_serializing_if = "Option::is_none")]
        shown: Option<Rows<'a>>,
        /// Lines of a copy.
        #[serde(skip_serializing_if = "Option::is_none")]
        lines: Option<Lines<'a>>,
    },
    /// A part of what the client sends beside a command: the data of a copy, as it is sent. Written before any of it goes
    /// upstream.
    Data {
        /// Which.
        command: u64,
        /// Counts the parts of a command from 1.
        part: u64,
        /// Pieces of one stream.
        sent: Lines<'a>,
    },
    /// A command that was allowed came to its end.
    Outcome {
        /// Which.
        command: u64,
        /// `completed`, `failed`, or `unknown` when the connection broke first.
        outcome: &'static str,
        /// The target's own code for it (SQLSTATE), when it failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<&'a str>,
        /// Rows returned or changed, where the target says.
        #[serde(skip_serializing_if = "Option::is_none")]
        rows: Option<u64>,
        /// The limit that its answer was cut at, where it was: nothing beyond reached the agent.
        #[serde(skip_serializing_if = "Option::is_none")]
        limit: Option<&'static str>,
        /// The policy that sets the limit.
        #[serde(skip_serializing_if = "Option::is_none")]
        policy: Option<&'a str>,
        /// From the decision to the end, in microseconds.
        #[serde(rename = "durationMicros", serialize_with = "micros")]
        duration: Duration,
    },
    /// The session ended.
    Close {
        /// Why, for a person.
        reason: &'a str,
    },
}

/// What was decided, and under what.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision<'a> {
    /// `allow`, `deny`, or `ask` while people are asked: then the same command's number comes again with their answer.
    pub verdict: &'static str,
    /// The policy whose rule decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<&'a str>,
    /// The rule that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<&'a str>,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// The revision of the bundle that was in force.
    pub revision: &'a str,
    /// The access request that people answered, or were to answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<&'a str>,
    /// Who approved it.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub answered_by: &'a [String],
    /// What would have been decided if the policies that observe enforced, where that is something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would_have: Option<&'a WouldHave>,
}

/// A decision that was not made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WouldHave {
    /// As in [`Decision`].
    pub verdict: &'static str,
    /// The policy whose rule would have decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Why it would have been refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A parameter of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Parameter {
    /// In text form.
    Text(String),
    /// In text form, of a type that the client says it is: read as another one it could be another value.
    Typed {
        /// As people are shown it, whole.
        literal: String,
    },
    /// In binary form, or in none that the protocol knows.
    Binary(Binary),
    /// SQL NULL or its like.
    Null,
}

/// A parameter that did not come as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Binary {
    /// Bytes.
    #[serde(rename = "binaryBytes")]
    pub bytes: usize,
    /// As people are shown it, whole; none where that would be too long. No two parameters are shown alike, and none like one that
    /// came as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub literal: Option<String>,
}

fn micros<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}
