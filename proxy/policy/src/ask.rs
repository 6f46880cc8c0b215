//! Asking people: on what terms a rule asks, what answers come to, and what a command is known by.
//!
//! Owns the meaning of an approval. Touches its arguments only. Invariant: an answer helps only the very question it
//! was given to, and never against a rule that denies: it is an input to a second decision.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::decide::RuleRef;
use crate::{Bundle, Denial, DenyReason, IdentityName, Verdict};

/// Bytes of a command, its parameters included, that a person can be expected to read.
const LONGEST_SHOWN: usize = 32 * 1024;
/// Bytes of one parameter that are shown.
pub const LONGEST_PARAMETER: usize = 4096;
/// Parameters of a command that are shown.
const MOST_PARAMETERS: usize = 128;

/// On what terms a rule asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AskTerms {
    /// How many different people have to approve.
    pub approvals: u32,
    /// Seconds that the command waits in line for its answer.
    pub timeout_seconds: u64,
    /// Seconds from the question until neither it nor its answer counts any more.
    pub validity_seconds: u64,
    /// Whose answers do not count.
    pub not_by: NotBy,
}

/// Whose answers do not count, beside the requester's own, which never does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NotBy {
    /// The requester's own; other programs may answer where RBAC lets them.
    Requester,
    /// Those of programs: people answer.
    ServiceAccounts,
}

/// What a verdict asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The first rule that asks.
    pub rule: RuleRef,
    /// The strictest of all that ask.
    pub terms: AskTerms,
}

/// An answer, as it stands beside a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The user that gave it.
    pub by: String,
    /// Approve, or deny.
    pub approves: bool,
    /// What the user had to say.
    pub comment: Option<String>,
}

/// What the answers to a question come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tally {
    /// More approvals are wanted.
    Pending {
        /// How many.
        wanted: u32,
    },
    /// Enough different people approve.
    Approved,
    /// Somebody denies.
    Denied {
        /// Who.
        by: String,
        /// Why.
        comment: Option<String>,
    },
}

/// Why a command that needs an approval was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotApproved {
    /// It cannot be shown whole.
    NotShown {
        /// The cause and the next step.
        cause: &'static str,
    },
    /// The question could not be put, or its approval not be used up.
    NobodyAsked {
        /// The cause and the next step.
        cause: String,
    },
    /// Nobody answered while it waited.
    Unanswered {
        /// The question's name.
        request: String,
        /// Seconds for which it still may be answered, and the answer used.
        seconds: u64,
    },
    /// Somebody said no.
    Denied {
        /// The question's name.
        request: String,
        /// Who.
        by: String,
        /// Why.
        comment: Option<String>,
    },
    /// Its client asked for it to be cancelled.
    Cancelled {
        /// The question's name, where it was put already.
        request: Option<String>,
    },
}

/// An approval that was used up for one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// The revision of the bundle that asked.
    pub revision: String,
    /// The rule that asked.
    pub rule: RuleRef,
    /// The terms under which the answers were counted.
    pub terms: AskTerms,
}

impl AskTerms {
    /// Both at once.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            approvals: self.approvals.max(other.approvals),
            timeout_seconds: self.timeout_seconds.min(other.timeout_seconds),
            validity_seconds: self.validity_seconds.min(other.validity_seconds),
            not_by: self.not_by.max(other.not_by),
        }
    }

    /// What `replies` come to for a question of `agent`. One denial denies, whoever may answer; nobody counts twice,
    /// and nobody answers a question of their own.
    #[must_use]
    pub fn tally(&self, agent: &IdentityName, requested_by: Option<&str>, replies: &[Reply]) -> Tally {
        let counts = |reply: &&Reply| Some(reply.by.as_str()) != requested_by && self.may_answer(agent, &reply.by);
        if let Some(denied) = replies.iter().filter(counts).find(|reply| !reply.approves) {
            return Tally::Denied { by: denied.by.clone(), comment: denied.comment.clone() };
        }
        let mut approvers: Vec<&str> = replies.iter().filter(counts).map(|reply| reply.by.as_str()).collect();
        approvers.sort_unstable();
        approvers.dedup();
        let approvals = u32::try_from(approvers.len()).unwrap_or(u32::MAX);
        // Terms of nothing would be no question at all.
        match self.approvals.max(1).saturating_sub(approvals) {
            0 => Tally::Approved,
            wanted => Tally::Pending { wanted },
        }
    }

    /// Whether a user of that name may answer a question of `agent`: never an agent, and no program of the agent's own
    /// namespace, which is where its pods are.
    fn may_answer(&self, agent: &IdentityName, user: &str) -> bool {
        if user.is_empty() || user.starts_with("sallyport:") || user.starts_with("system:node:") {
            return false;
        }
        match user.strip_prefix("system:serviceaccount:").map(|account| account.split_once(':')) {
            None => true,
            Some(None) => false,
            Some(Some((namespace, _))) => self.not_by == NotBy::Requester && namespace != agent.namespace(),
        }
    }
}

impl Verdict {
    /// The same verdict where an approval was used up for this very command: what it asked is answered, if
    /// that is what was asked. A denial stays one.
    #[must_use]
    pub fn answered(self, revision: &str, approval: Option<&Approval>) -> Self {
        match (self, approval) {
            (Self::Ask(ask), Some(approval))
                if approval.revision == revision && approval.rule == ask.rule && approval.terms == ask.terms =>
            {
                Self::Allow { rule: Some(ask.rule) }
            }
            (verdict, _) => verdict,
        }
    }
}

impl Bundle {
    /// Policy, rule and its author's message that a reference of a verdict under this very bundle means.
    #[must_use]
    pub fn rule_that_asks(&self, at: RuleRef) -> Option<(&str, &str, Option<&str>)> {
        let (policy, rule) = self.rule_at(at)?;
        Some((&policy.name, &rule.name, rule.message.as_deref()))
    }
}

impl Denial {
    /// The access request that it speaks of, where it speaks of one.
    #[must_use]
    pub fn request(&self) -> Option<&str> {
        match &self.reason {
            DenyReason::NotApproved { why, .. } => why.request(),
            _ => None,
        }
    }
}

/// What a command is known by: the SHA-256 of its text and, where it has any, a zero byte and its parameters as they
/// are shown, as a JSON list.
#[must_use]
pub fn command_digest(text: &str, parameters: &[String]) -> String {
    let mut digest = Sha256::new();
    digest.update(text.as_bytes());
    if !parameters.is_empty() {
        // No text holds a zero byte that PostgreSQL would take; where one does, the list after it still differs.
        digest.update([0]);
        digest.update(serde_json::to_vec(parameters).unwrap_or_default());
    }
    let hex: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Whether a person can be shown the whole of it. What is too long to show is too long to approve.
#[must_use]
pub fn can_be_shown(text: &str, parameters: &[String]) -> bool {
    let all = parameters.iter().map(String::len).fold(text.len(), usize::saturating_add);
    !text.contains('\0')
        && all <= LONGEST_SHOWN
        && parameters.len() <= MOST_PARAMETERS
        && parameters.iter().all(|parameter| parameter.len() <= LONGEST_PARAMETER && !parameter.contains('\0'))
}

impl NotApproved {
    /// The question's name, where it was put.
    #[must_use]
    pub fn request(&self) -> Option<&str> {
        match self {
            Self::NotShown { .. } | Self::NobodyAsked { .. } => None,
            Self::Unanswered { request, .. } | Self::Denied { request, .. } => Some(request),
            Self::Cancelled { request } => request.as_deref(),
        }
    }
}

impl std::fmt::Display for NotApproved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotShown { cause } => f.write_str(cause),
            Self::NobodyAsked { cause } => f.write_str(cause),
            Self::Unanswered { request, seconds } => write!(
                f,
                "nobody has answered access request {request} yet: once it is approved, within {seconds} s, the same command passes, once: send it again then"
            ),
            Self::Denied { request, by, comment } => {
                write!(f, "access request {request} was denied by {by}")?;
                comment.as_ref().map_or(Ok(()), |comment| write!(f, ": {comment}"))
            }
            Self::Cancelled { .. } => f.write_str("cancelled while it waited for an approval"),
        }
    }
}
