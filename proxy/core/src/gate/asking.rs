//! The gate's part in asking people: what is asked of a command, what an answer is worth, and what is recorded of both.
//!
//! Owns the making of questions and of approvals that were used up. Touches the records. Invariant: an approval
//! goes into a second decision, made like the first against the world in force then; by itself it permits nothing.

use std::sync::Arc;

use bytes::BytesMut;
use sallyport_policy::{Approval, Ask, Denial, DenyReason, NotApproved, World, can_be_shown, command_digest};

use super::{Gate, Refused, Ruling};
use crate::asking::{Question, Standing};
use crate::ports::Event as Count;
use crate::protocol::{Conversation, Described, Entry};
use crate::record::{Decision, Event, Parameter};
use crate::sluice::Sluice;

/// A command that waits for people.
#[derive(Debug)]
pub(crate) struct Asked<C> {
    pub(crate) command: C,
    pub(crate) question: Arc<Question>,
    ask: Ask,
    before: Before,
}

/// What has become of a command before it is decided on (again).
#[derive(Debug, Clone, Default)]
pub(crate) struct Before {
    /// Its number in the records, once it stands there.
    pub(super) number: Option<u64>,
    /// The approval that was used up for it.
    pub(super) approval: Option<Approval>,
    /// The question it was given to.
    pub(super) request: Option<String>,
    /// By whom.
    pub(super) answered_by: Vec<String>,
}

impl Before {
    /// Whether the command was not decided on yet.
    pub(super) const fn is_first(&self) -> bool {
        self.number.is_none()
    }
}

impl<C> Asked<C> {
    /// The command as it was, to be decided on again.
    pub(crate) fn again(self) -> (C, Before) {
        let before = Before { number: self.before.number, ..Before::default() };
        (self.command, before)
    }

    /// The same, after its approval was used up: only the desk's word for that may lead here.
    pub(crate) fn approved(self, standing: &Standing) -> (C, Before) {
        let approval =
            Approval { revision: self.question.revision.clone(), rule: self.ask.rule, terms: self.ask.terms };
        let answered_by = standing.replies.iter().map(|reply| reply.by.clone()).collect();
        let request = Some(standing.name.clone());
        (self.command, Before { number: self.before.number, approval: Some(approval), request, answered_by })
    }
}

impl Gate {
    /// What a verdict that asks comes to.
    pub(super) fn ask(&mut self, world: &World, described: &Described<'_>, ask: Ask, before: &Before) -> Ruling {
        let Some(entry) = described.entry.as_ref().filter(|entry| entry.runs) else {
            // It runs nothing by itself; what it prepares is decided on when it is to run.
            return Ruling::Granted(None, None);
        };
        let (policy, rule, reason) = world.bundle.rule_that_asks(ask.rule).unwrap_or_default();
        let question = shown(entry).map(|(text, parameters)| Question {
            agent: self.session.identity.clone(),
            target: world.bundle.target.clone(),
            policy: policy.to_owned(),
            rule: rule.to_owned(),
            revision: world.bundle.revision.clone(),
            session: self.names.session.clone(),
            digest: command_digest(&text, &parameters),
            text,
            parameters,
            reason: reason.map(str::to_owned),
            terms: ask.terms,
        });
        match question {
            Ok(question) => Ruling::Asked(Arc::new(question), ask),
            Err(cause) => {
                let why = NotApproved::NotShown { cause };
                self.denied(world, described, refusal(policy, rule, why), before)
            }
        }
    }

    /// A command begins to wait.
    pub(super) fn waiting<C>(&mut self, command: C, question: Arc<Question>, ask: Ask, before: Before) -> Asked<C> {
        let number = before.number.unwrap_or_else(|| self.number());
        Asked { command, question, ask, before: Before { number: Some(number), ..Before::default() } }
    }

    /// Records that a command waits for that question.
    ///
    /// # Errors
    /// When it must be recorded and there is no room: nobody shall answer what is not recorded.
    pub(crate) fn note_question<C: Conversation>(
        &mut self,
        conversation: &C,
        asked: &Asked<C::Command>,
        name: &str,
    ) -> Result<(), Denial> {
        self.ports.meter.count(Count::Asked);
        let question = &asked.question;
        let decision = Decision {
            verdict: "ask",
            policy: Some(&question.policy),
            rule: Some(&question.rule),
            reason: None,
            revision: &question.revision,
            request: Some(name),
            answered_by: &[],
            would_have: None,
        };
        let must = self.feed.load().as_deref().is_none_or(|world| world.bundle.recording.must_hold());
        match self.record_command(&conversation.describe(&asked.command), asked.before.number, decision) {
            Err(_) if must => Err(DenyReason::NoRoomToRecord.into()),
            _ => Ok(()),
        }
    }

    /// Refuses a command that has waited.
    pub(crate) fn refuse_asked<'u, C: Conversation>(
        &mut self,
        conversation: &C,
        asked: Asked<C::Command>,
        denial: Denial,
        (sluice, output): (&'u mut Sluice, &'u mut BytesMut),
    ) -> Refused<'u, C::Command> {
        self.ports.meter.count(Count::Denied);
        let (policy, rule) = denial.rule().unzip();
        let (reason, request) = (denial.to_string(), denial.request());
        let decision = Decision {
            verdict: "deny",
            policy,
            rule,
            reason: Some(&reason),
            revision: &asked.question.revision,
            request,
            answered_by: &[],
            would_have: None,
        };
        // Refused either way: a refusal that cannot be recorded is counted, not forgiven.
        let _counted = self.record_command(&conversation.describe(&asked.command), asked.before.number, decision);
        Refused { command: asked.command, denial, upstream: sluice.admit(None, output) }
    }

    fn record_command(
        &mut self,
        described: &Described<'_>,
        number: Option<u64>,
        decision: Decision<'_>,
    ) -> Result<(), crate::ports::RecordFault> {
        let (Some(entry), Some(command)) = (&described.entry, number) else { return Ok(()) };
        self.record(Event::Command { command, text: &entry.text, parameters: &entry.parameters, decision })
    }
}

/// The refusal of a command that a rule asks about.
pub(crate) fn refusal(policy: &str, rule: &str, why: NotApproved) -> Denial {
    DenyReason::NotApproved { policy: policy.to_owned(), rule: rule.to_owned(), why: Box::new(why) }.into()
}

/// A command as people are shown it: whole, or not at all.
fn shown(entry: &Entry<'_>) -> Result<(String, Vec<String>), &'static str> {
    let literal = |parameter: &Parameter| match parameter {
        Parameter::Text(text) => Some(format!("'{}'", text.replace('\'', "''"))),
        Parameter::Typed { literal } => Some(literal.clone()),
        Parameter::Null => Some("NULL".to_owned()),
        Parameter::Binary(binary) => binary.literal.clone(),
    };
    let parameters = entry.parameters.iter().map(literal).collect::<Option<Vec<_>>>();
    match parameters {
        Some(parameters) if can_be_shown(&entry.text, &parameters) => Ok((entry.text.clone().into_owned(), parameters)),
        _ => Err("what is too long to be shown whole is too long to be approved: send it in parts"),
    }
}
