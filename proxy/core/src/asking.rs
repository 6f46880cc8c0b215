//! Questions to people: what is asked, how it stands, and the desk where that happens.
//!
//! Owns the values that pass between the gate and the [`ApprovalDesk`]. Touches nothing. Invariant: a question
//! says everything that its answer is bound to; whoever has another question has no use for that answer.

use std::sync::Arc;
use std::time::SystemTime;

use sallyport_policy::{AskTerms, IdentityName, Reply, TargetRef};
use tokio::sync::watch;

use crate::ports::{Answer, ApprovalDesk};

/// May this agent run this very command on this target, once?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Who asks.
    pub agent: IdentityName,
    /// What it wants to run it on.
    pub target: TargetRef,
    /// The policy whose rule asks.
    pub policy: String,
    /// That rule.
    pub rule: String,
    /// The revision of the bundle it stands in.
    pub revision: String,
    /// The session that wants to run it.
    pub session: String,
    /// The command, whole.
    pub text: String,
    /// Its parameters, whole, as literals.
    pub parameters: Vec<String>,
    /// What the command is known by.
    pub digest: String,
    /// What the rule's author has to say.
    pub reason: Option<String>,
    /// On what terms it is asked.
    pub terms: AskTerms,
}

/// How a question stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sheet {
    /// It is on its way.
    Sent,
    /// It is put where people can answer it.
    Put(Standing),
    /// It could not be put.
    Failed {
        /// The cause and the next step, for the agent.
        told: String,
    },
}

/// A question that was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What people call it.
    pub name: String,
    /// Until when it may be answered, and its answer used.
    pub expires: SystemTime,
    /// The person who asked ahead of time, whose own answer does not count.
    pub requested_by: Option<String>,
    /// What was answered.
    pub replies: Vec<Reply>,
    /// Whether a command has used it up.
    pub spent: bool,
}

/// Why an approval could not be used up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeskFault {
    /// Another command was first, or the question is not what it was.
    #[error("this approval has been used up")]
    Spent,
    /// It is not known whether it is used up: then it counts as used, and nothing runs.
    #[error("{told}")]
    Failed {
        /// The cause and the next step, for the agent.
        told: String,
    },
}

/// A proxy without anybody to ask: one that has its world from files.
#[derive(Debug)]
pub struct NobodyThere;

const NOBODY: &str = "this proxy runs without a cluster and cannot ask anybody";

impl ApprovalDesk for NobodyThere {
    fn ask(&self, _question: Arc<Question>) -> watch::Receiver<Sheet> {
        watch::channel(Sheet::Failed { told: NOBODY.to_owned() }).1
    }

    fn consume(&self, _question: Arc<Question>, _name: String) -> Answer<'static, Result<(), DeskFault>> {
        Box::pin(async { Err(DeskFault::Failed { told: NOBODY.to_owned() }) })
    }
}
