//! How long a session may go on, how much it may do and fetch, and what happens to what it runs when it may not.
//!
//! Owns the terms as bundles carry them, and which of them hold for a session. Touches its arguments only.
//! Invariant: where several policies apply to a session, the strictest of each term holds.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bundle::PolicyEntry;
use crate::decide::applicable;
use crate::{Session, World};

/// How long an open transaction may outlive its session's certificate or duration, where the bundle does not say.
const EXPIRY_GRACE: Duration = Duration::from_secs(600);

/// What a bundle says of every session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FleetTerms {
    /// Seconds that an open transaction may outlive its session's certificate or duration. Absent: ten minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiry_grace_seconds: Option<u64>,
    /// Seconds without word from the source of bundle and roster after which everything is refused. Absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_after_seconds: Option<u64>,
}

/// What one policy demands of the sessions that it applies to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SessionTerms {
    /// Seconds from the opening of a session to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_seconds: Option<u64>,
    /// Seconds without a command after which a session ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_seconds: Option<u64>,
    /// What happens to the command that runs when the session loses its standing.
    #[serde(default, skip_serializing_if = "OnRevocation::is_default")]
    pub on_revocation: OnRevocation,
    /// Rows that the answer to one command may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_per_command: Option<u64>,
    /// Bytes that the rows of the answer to one command may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_command: Option<u64>,
    /// Commands that one agent may run in a minute at one replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commands_per_minute: Option<u64>,
    /// Sessions that one agent may have open at one replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent_sessions: Option<u64>,
}

/// What happens to the command that runs when its session loses its standing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum OnRevocation {
    /// It comes to its end, then the session ends.
    #[default]
    Finish,
    /// It is interrupted, then the session ends.
    Cancel,
}

/// What holds for one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// From its opening to its end.
    pub duration: Option<Duration>,
    /// Without a command to its end.
    pub idle: Option<Duration>,
    /// How long its open transaction may outlive its certificate or duration.
    pub expiry_grace: Duration,
    /// What happens to what it runs.
    pub on_revocation: OnRevocation,
    /// How much one command may fetch.
    pub answer: Allowance,
    /// Commands a minute: one for each policy that says so, because each counts by itself.
    pub pace: Vec<Bound>,
    /// Sessions at once: one for each policy that says so.
    pub seats: Vec<Seats>,
}

/// How much the answer to one command may have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Rows.
    pub rows: Option<Bound>,
    /// Bytes of rows.
    pub bytes: Option<Bound>,
}

/// A bound, and the policy that sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// How much there may be.
    pub most: u64,
    /// Name of the policy.
    pub policy: Arc<str>,
}

/// How many sessions there may be with certain credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seats {
    /// How many, and who says so.
    pub bound: Bound,
    /// The credentials whose sessions count.
    pub credentials: Vec<String>,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            duration: None,
            idle: None,
            expiry_grace: EXPIRY_GRACE,
            on_revocation: OnRevocation::Finish,
            answer: Allowance::default(),
            pace: Vec::new(),
            seats: Vec::new(),
        }
    }
}

/// The terms of `session`: the strictest of the policies that apply to it, whether or not it is in good
/// standing. `None` when no policy does: then those from before hold on, so that who is taken out of
/// a policy does not thereby escape what it says of that.
#[must_use]
pub fn terms(world: &World, session: &Session) -> Option<Terms> {
    let member = world.roster.member(session.identity.namespace(), session.identity.name())?;
    let granting =
        applicable(&world.bundle, member).filter(|(_, policy)| policy.credentials.contains(&session.credential));
    let grace = world.bundle.sessions.expiry_grace_seconds.map_or(EXPIRY_GRACE, Duration::from_secs);
    granting.fold(None, |so_far, (_, policy)| {
        let mut terms = so_far.unwrap_or(Terms { expiry_grace: grace, ..Terms::default() });
        terms.narrow(policy);
        Some(terms)
    })
}

impl Terms {
    fn narrow(&mut self, policy: &PolicyEntry) {
        let one = policy.sessions;
        let bound = |most| Bound { most, policy: policy.name.as_str().into() };
        self.duration = shortest(self.duration, one.duration_seconds);
        self.idle = shortest(self.idle, one.idle_seconds);
        self.on_revocation = self.on_revocation.max(one.on_revocation);
        self.answer.rows = smaller(self.answer.rows.take(), one.rows_per_command.map(bound));
        self.answer.bytes = smaller(self.answer.bytes.take(), one.bytes_per_command.map(bound));
        self.pace.extend(one.commands_per_minute.map(bound));
        let seats = |most| Seats { bound: bound(most), credentials: policy.credentials.clone() };
        self.seats.extend(one.concurrent_sessions.map(seats));
    }
}

impl Allowance {
    /// Whether there is no bound at all.
    #[must_use]
    pub const fn is_unlimited(&self) -> bool {
        self.rows.is_none() && self.bytes.is_none()
    }
}

/// Of two that are the same, the first: policies come in the order of their names.
fn smaller(one: Option<Bound>, other: Option<Bound>) -> Option<Bound> {
    one.into_iter().chain(other).min_by_key(|bound| bound.most)
}

fn shortest(one: Option<Duration>, other: Option<u64>) -> Option<Duration> {
    one.into_iter().chain(other.map(Duration::from_secs)).min()
}

impl FleetTerms {
    /// After how long without word from their source bundle and roster are not decided with any more.
    #[must_use]
    pub fn stale_after(&self) -> Option<Duration> {
        self.stale_after_seconds.map(Duration::from_secs)
    }

    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl SessionTerms {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl OnRevocation {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
