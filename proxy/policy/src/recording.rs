//! What is recorded, how safely, and what happens where it cannot be.
//!
//! Owns these demands as bundles carry them. Touches nothing. Invariant: what a bundle does not say is the
//! stricter of the two: a command that cannot be recorded is refused.

use serde::{Deserialize, Serialize};

/// What is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Recording {
    /// How much.
    pub level: RecordingLevel,
    /// What a record must have come through before its command runs.
    #[serde(default, skip_serializing_if = "Durability::is_default")]
    pub durability: Durability,
    /// What happens to a command whose record cannot be written.
    #[serde(default, skip_serializing_if = "OnFailure::is_default")]
    pub on_failure: OnFailure,
    /// When a file is followed by the next.
    #[serde(default, skip_serializing_if = "Span::is_default")]
    pub rotation: Span,
    /// How much is kept where it was written. Absent: all.
    #[serde(default, skip_serializing_if = "Span::is_default")]
    pub retention: Span,
    /// Where closed files are copied to. Absent: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<Store>,
}

/// An S3-compatible store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Store {
    /// `https://host` or `http://host`, with a port where it is not the usual.
    pub endpoint: String,
    /// The region that requests are signed for.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// What the names of the target's objects begin with, up to the last slash.
    pub prefix: String,
}

/// A bound by size, by age, or by whichever comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Span {
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

/// How much is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecordingLevel {
    /// Sessions and refusals are recorded where that is possible, commands are not.
    None,
    /// Every command before it runs, and its outcome; no record, no command.
    Commands,
    /// That, and what its client is shown of its result, or copies in, before it is; no record, no result.
    Full,
}

/// What a record must have come through before its command runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Durability {
    /// The kernel has it: it outlives the proxy, not the machine.
    #[default]
    Written,
    /// The disk has it.
    Synced,
}

/// What happens to a command whose record cannot be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnFailure {
    /// It is refused.
    #[default]
    Refuse,
    /// It runs; the lost record is counted, and the recording names the gap.
    Continue,
}

impl Recording {
    /// That much, with everything else as it is where nothing is said.
    #[must_use]
    pub const fn at(level: RecordingLevel) -> Self {
        let unbounded = Span { bytes: None, seconds: None };
        Self {
            level,
            durability: Durability::Written,
            on_failure: OnFailure::Refuse,
            rotation: unbounded,
            retention: unbounded,
            store: None,
        }
    }
}

impl Recording {
    /// Whether nothing may happen without its record.
    #[must_use]
    pub fn must_hold(&self) -> bool {
        self.level != RecordingLevel::None && self.on_failure == OnFailure::Refuse
    }
}

impl Span {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Durability {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl OnFailure {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
