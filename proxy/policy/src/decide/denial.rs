//! Refusals: what is told of each, and what it means for the session.
//!
//! Owns the causes and their words. Touches nothing. Invariant: the words name who can help, and nothing that the agent
//! could use to get around what refused it.

use crate::ask::NotApproved;

/// A refusal with its cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Why.
    pub reason: DenyReason,
}

/// Why something was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DenyReason {
    /// The roster does not have the identity.
    UnknownIdentity,
    /// It is suspended.
    Suspended,
    /// The certificate was issued before the identity's `minNotBefore`, or for one of the same name before it.
    Revoked,
    /// The identity is bound to pods, and the connection comes from none of them.
    OutsideBinding,
    /// The certificate has expired.
    CertificateExpired,
    /// The authority that issued the certificate is not trusted any more.
    Distrusted,
    /// The certificate is not valid yet by this proxy's clock.
    CertificateNotYetValid {
        /// How long that is to come.
        seconds: u64,
    },
    /// The session has lasted as long as its policies let it.
    SessionTooLong {
        /// How long that is.
        seconds: u64,
    },
    /// The session has been without a command for as long as its policies let it.
    SessionIdle {
        /// How long that is.
        seconds: u64,
    },
    /// The agent has as many sessions open here as a policy lets it.
    TooManySessions {
        /// How many that is.
        most: u64,
        /// The policy.
        policy: String,
    },
    /// The agent has run as many commands here as a policy lets it in a minute.
    TooManyCommands {
        /// How many that is.
        most: u64,
        /// The policy.
        policy: String,
        /// When there is room for the next.
        seconds: u64,
    },
    /// What is decided with has not been confirmed by its source for too long.
    Stale {
        /// For how long.
        seconds: u64,
    },
    /// It must be recorded, and there is no room.
    NoRoomToRecord,
    /// No policy grants this credential to this identity.
    CredentialNotGranted {
        /// Those it may use, sorted.
        granted: Vec<String>,
    },
    /// A rule denies it.
    Rule {
        /// Its policy.
        policy: String,
        /// Its name.
        rule: String,
        /// What its author wants the agent to read.
        message: Option<String>,
    },
    /// A rule that denies may apply, and what it hangs on is not known.
    Undecidable {
        /// Its policy.
        policy: String,
        /// Its name.
        rule: String,
    },
    /// A rule that denies may apply: its condition cannot be evaluated at all.
    BrokenCondition {
        /// Its policy.
        policy: String,
        /// Its name.
        rule: String,
    },
    /// A rule asks people about it, and it was not approved.
    NotApproved {
        /// Its policy.
        policy: String,
        /// Its name.
        rule: String,
        /// Why not.
        why: Box<NotApproved>,
    },
    /// It would copy a column that is masked, or do with it what its mask forbids.
    Masked {
        /// The policy whose mask it is.
        policy: String,
        /// The column, as the mask names it.
        column: String,
        /// Whether it would be copied.
        copied: bool,
    },
    /// No rule allows it.
    NotAllowed {
        /// The operation that no rule allows, for a person.
        operation: String,
        /// Policy and name of the first rule that would, if its condition were known to hold.
        unless: Option<(String, String)>,
    },
    /// The command could not be read, or does what is never let through; said by the protocol.
    NotUnderstood {
        /// The cause and the next step.
        cause: String,
    },
}

impl From<DenyReason> for Denial {
    fn from(reason: DenyReason) -> Self {
        Self { reason }
    }
}

impl Denial {
    /// A refusal that the protocol itself has cause for.
    #[must_use]
    pub fn not_understood(cause: impl Into<String>) -> Self {
        DenyReason::NotUnderstood { cause: cause.into() }.into()
    }

    /// Policy and rule that refused, where one did.
    #[must_use]
    pub fn rule(&self) -> Option<(&str, &str)> {
        match &self.reason {
            DenyReason::Rule { policy, rule, .. }
            | DenyReason::Undecidable { policy, rule }
            | DenyReason::BrokenCondition { policy, rule }
            | DenyReason::NotApproved { policy, rule, .. } => Some((policy, rule)),
            _ => None,
        }
    }

    /// The policy that refused, where one did.
    #[must_use]
    pub fn policy(&self) -> Option<&str> {
        match &self.reason {
            DenyReason::TooManySessions { policy, .. }
            | DenyReason::TooManyCommands { policy, .. }
            | DenyReason::Masked { policy, .. } => Some(policy),
            _ => self.rule().map(|(policy, _)| policy),
        }
    }

    /// The limit that was reached, where one was, by its name in the policy.
    #[must_use]
    pub const fn limit(&self) -> Option<&'static str> {
        match &self.reason {
            DenyReason::TooManySessions { .. } => Some("concurrentSessions"),
            DenyReason::TooManyCommands { .. } => Some("commandsPerMinute"),
            _ => None,
        }
    }

    /// Whether the session itself is over, not only this command.
    #[must_use]
    pub const fn ends_session(&self) -> bool {
        matches!(
            self.reason,
            DenyReason::UnknownIdentity
                | DenyReason::Suspended
                | DenyReason::Revoked
                | DenyReason::OutsideBinding
                | DenyReason::CredentialNotGranted { .. }
                | DenyReason::CertificateNotYetValid { .. }
        ) || self.asks_to_reconnect()
    }

    /// Whether the session ends for no other cause than its time or its authority's: a new one, with the newest certificate, is welcome.
    #[must_use]
    pub const fn asks_to_reconnect(&self) -> bool {
        matches!(
            self.reason,
            DenyReason::CertificateExpired
                | DenyReason::Distrusted
                | DenyReason::SessionTooLong { .. }
                | DenyReason::SessionIdle { .. }
        )
    }

    /// Whether the cause is a state of this proxy's, which no policy speaks of.
    #[must_use]
    pub const fn is_our_own(&self) -> bool {
        matches!(self.reason, DenyReason::Stale { .. } | DenyReason::NoRoomToRecord)
    }
}

impl std::fmt::Display for Denial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.reason {
            DenyReason::UnknownIdentity => f.write_str("this identity is not known here"),
            DenyReason::Suspended => f.write_str("this identity is suspended"),
            DenyReason::Revoked => f.write_str("this certificate was revoked: use a newer one"),
            // Not which: whoever holds a copy would learn where to go.
            DenyReason::OutsideBinding => {
                f.write_str("this identity is bound to pods, and this connection comes from none of them")
            }
            DenyReason::Distrusted => {
                f.write_str("the authority of this certificate is not trusted any more: connect again with a newer one")
            }
            DenyReason::CertificateExpired => {
                f.write_str("this certificate has expired: connect again with the new one")
            }
            DenyReason::CertificateNotYetValid { seconds } => write!(
                f,
                "this certificate is not valid for another {seconds} s by this proxy's clock: wait, or set the clocks right"
            ),
            DenyReason::SessionTooLong { seconds } => {
                write!(f, "this session has lasted its {seconds} s: connect again")
            }
            DenyReason::SessionIdle { seconds } => {
                write!(f, "this session has been idle for {seconds} s: connect again")
            }
            DenyReason::TooManySessions { most, policy } => write!(
                f,
                "this agent has as many sessions open here as policy {policy} lets it ({most}): close one, or try again later"
            ),
            DenyReason::TooManyCommands { most, policy, seconds } => write!(
                f,
                "this agent has run as many commands here as policy {policy} lets it ({most} a minute): try again in {seconds} s"
            ),
            DenyReason::Stale { seconds } => write!(
                f,
                "this proxy has not heard from the cluster for {seconds} s and refuses everything until it does: try again later"
            ),
            DenyReason::NoRoomToRecord => {
                f.write_str("this must be recorded and there is no room to record it: tell the target's owner")
            }
            DenyReason::CredentialNotGranted { granted } if granted.is_empty() => {
                f.write_str("no policy grants this identity anything here")
            }
            DenyReason::CredentialNotGranted { granted } => {
                write!(f, "this credential is not granted: connect with one of {}", granted.join(", "))
            }
            DenyReason::Rule { policy, rule, message: Some(message) } => {
                write!(f, "refused by policy {policy}, rule {rule}: {message}")
            }
            DenyReason::Rule { policy, rule, message: None } => write!(f, "refused by policy {policy}, rule {rule}"),
            DenyReason::Undecidable { policy, rule } => {
                write!(f, "refused by policy {policy}, rule {rule}: what it depends on cannot be derived")
            }
            DenyReason::BrokenCondition { policy, rule } => {
                write!(
                    f,
                    "refused by policy {policy}, rule {rule}: its condition cannot be read: tell the policy's owner"
                )
            }
            DenyReason::NotApproved { policy, rule, why } => {
                write!(f, "needs an approval by policy {policy}, rule {rule}: {why}")
            }
            DenyReason::Masked { policy, column, copied: true } => write!(
                f,
                "{column} is masked by policy {policy}: it may be shown, and not be copied or renamed to where no mask would find it"
            ),
            DenyReason::Masked { policy, column, copied: false } => write!(
                f,
                "{column} is masked by policy {policy}, strictly: it may be shown, and not be compared, ordered by or computed with"
            ),
            DenyReason::NotAllowed { operation, unless: None } => write!(f, "no rule allows {operation}"),
            DenyReason::NotAllowed { operation, unless: Some((policy, rule)) } => write!(
                f,
                "no rule allows {operation} now: rule {rule} of policy {policy} has a condition, which does not hold or cannot be derived"
            ),
            DenyReason::NotUnderstood { cause } => f.write_str(cause),
        }
    }
}
