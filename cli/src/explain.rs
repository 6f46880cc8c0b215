//! `explain`: what would happen to a statement, and by which rule.
//!
//! Owns the question and how its answer is told. Touches what [`crate::source`] reads, and a writer. Invariant: the
//! proxy's own code says what a text does and what policy says of it; an operation's verdict is the one it has alone.

use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use anyhow::bail;
use jiff::Timestamp;
use sallyport_policy::{
    Action, Fact, JudgedCondition, Operation, Outcome, SessionFacts, World, can_be_shown, conditions,
};
use sallyport_postgres::{Rehearsal, session_facts};
use sallyport_proxy::shown;
use serde::Serialize;

use crate::Answer;
use crate::arguments::{AgentName, ExplainArguments, Output, Reach};
use crate::cluster::Cluster;
use crate::ruled::{Ruled, Word};
use crate::source;
use crate::veiled::{self, ExplainedDetector, ExplainedMasks};

/// What would happen to a text.
#[derive(Debug, Serialize)]
pub struct Explained {
    /// `<namespace>/<name>` of the target.
    pub target: String,
    /// The bundle's revision.
    pub revision: String,
    /// The agent's SPIFFE ID.
    pub agent: String,
    /// The credential of the session.
    pub credential: String,
    /// Of all of it.
    #[serde(flatten)]
    pub ruled: Ruled,
    /// The moment that conditions were judged at; absent where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// The conditions of the rules that speak of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<ExplainedCondition>,
    /// Statement by statement.
    pub statements: Vec<ExplainedStatement>,
    /// What is searched for and hidden in every text of the answer, by whatever statement.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub detectors: Vec<ExplainedDetector>,
}

/// What the conditions of rules are judged by, beside the agent and the statement.
#[derive(Debug, Clone)]
pub struct Circumstances {
    /// The moment: the session begins, and the statement comes.
    pub now: SystemTime,
    /// What is known of the session.
    pub facts: SessionFacts,
}

impl Circumstances {
    /// A session that begins at that moment, of which nothing else is known.
    #[must_use]
    pub fn at(now: SystemTime) -> Self {
        Self { now, facts: SessionFacts { started: Fact::Known(now), ..SessionFacts::default() } }
    }
}

/// A condition, and what it comes to.
#[derive(Debug, Serialize)]
pub struct ExplainedCondition {
    /// Policy of the rule.
    pub policy: String,
    /// The rule.
    pub rule: String,
    /// As it was written.
    pub when: String,
    /// Whether it holds.
    pub outcome: Outcome,
}

/// One statement.
#[derive(Debug, Serialize)]
pub struct ExplainedStatement {
    /// What it does.
    pub operations: Vec<ExplainedOperation>,
    /// What of its answer would be masked.
    #[serde(flatten)]
    pub masks: ExplainedMasks,
}

/// One operation, and the verdict it has by itself.
#[derive(Debug, Serialize)]
pub struct ExplainedOperation {
    /// For a person.
    pub operation: String,
    /// The verdict.
    #[serde(flatten)]
    pub ruled: Ruled,
}

/// What would happen to `text` at the start of a session of `agent`.
///
/// # Errors
/// When the agent's name is none, or the bundle is of a protocol or has settings that are not known here.
pub fn explain(
    world: &World,
    agent: (&str, &str),
    credential: &str,
    circumstances: &Circumstances,
    text: &str,
) -> anyhow::Result<Explained> {
    let bundle = &world.bundle;
    let agent = AgentName { namespace: agent.0.to_owned(), name: agent.1.to_owned() };
    let session = source::session(world, &agent, credential, circumstances.facts.clone())?;
    if bundle.upstream.protocol != "postgres" {
        bail!("the target speaks {}: this program explains postgres", bundle.upstream.protocol);
    }
    let mut rehearsal = Rehearsal::new(&bundle.upstream.settings).map_err(anyhow::Error::msg)?;
    let (action, statements) = match rehearsal.query(text) {
        Ok(rehearsed) => (rehearsed.action, rehearsed.statements),
        Err(fault) => (Err(sallyport_policy::Denial::not_understood(fault.to_string())), Vec::new()),
    };
    let now = circumstances.now;
    let alone = |operation: &Operation| ExplainedOperation {
        operation: operation.to_string(),
        ruled: Ruled::on(world, &session, now, &Ok(Action { operations: vec![operation.clone()], ..Action::none() })),
    };
    let mut ruled = Ruled::on(world, &session, now, &action);
    if ruled.verdict == Word::Ask && !can_be_shown(text, &[]) {
        // The gate refuses it without a question.
        ruled.verdict = Word::Deny;
        ruled.reason = Some("it would need an approval and is too long to show, or holds a zero byte".to_owned());
    }
    let judged = action.as_ref().map(|action| conditions(world, &session, now, action)).unwrap_or_default();
    let told = |of: &JudgedCondition<'_>| ExplainedCondition {
        policy: of.policy.to_owned(),
        rule: of.rule.to_owned(),
        when: of.text.to_owned(),
        outcome: of.outcome,
    };
    let runs = ruled.verdict != Word::Deny;
    let at = if judged.is_empty() { None } else { Timestamp::try_from(now).ok() };
    Ok(Explained {
        target: format!("{}/{}", bundle.target.namespace, bundle.target.name),
        revision: bundle.revision.clone(),
        agent: session.identity.to_string(),
        credential: session.credential.clone(),
        ruled,
        at,
        conditions: judged.iter().map(told).collect(),
        statements: statements
            .iter()
            .map(|statement| ExplainedStatement {
                operations: statement.operations.iter().map(alone).collect(),
                // What is refused shows nothing.
                masks: if runs { veiled::masks(world, &session, statement) } else { ExplainedMasks::default() },
            })
            .collect(),
        detectors: if runs { veiled::detectors(world, &session) } else { Vec::new() },
    })
}

/// Answers `sallyport explain`.
pub(crate) async fn run(reach: &Reach, arguments: &ExplainArguments, out: &mut impl Write) -> anyhow::Result<Answer> {
    let agent = &arguments.agent;
    let in_files = source::world_in_files(&arguments.files)?;
    let (target, given) = match (&in_files, &arguments.first, &arguments.second) {
        (Some(_), Some(_), Some(_)) => bail!("with --bundle the target is known: leave TARGET out"),
        (Some(_), sql, None) => (None, sql),
        (None, Some(target), sql) => (Some(target), sql),
        (None, None, _) => bail!("name the ProtectedTarget, or give --bundle and --roster"),
        (Some(_), None, Some(_)) => (None, &arguments.second),
    };
    let text = match (given, &arguments.file) {
        (Some(_), Some(_)) => bail!("the statement is given twice, as an argument and by --file: leave one out"),
        (Some(text), None) => text.clone(),
        (None, file) => source::text_of(file.as_deref().unwrap_or(Path::new("-")))?,
    };
    let world = match (in_files, target) {
        (Some(world), _) => world,
        (None, target) => {
            let cluster = Cluster::reach(reach).await?;
            let bundle = cluster.bundle(target.map_or("", String::as_str)).await?;
            let member = cluster.member(&agent.namespace, &agent.name).await?;
            source::world(bundle, source::roster_of(member))
        }
    };
    let circumstances = circumstances(arguments);
    let agent = (agent.namespace.as_str(), agent.name.as_str());
    let explained = explain(&world, agent, &arguments.credential, &circumstances, &text)?;
    match arguments.output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&explained)?)?,
        Output::Text => tell(&explained, out)?,
    }
    Ok(match explained.ruled.verdict {
        Word::Allow => Answer::Yes,
        Word::Ask => Answer::Ask,
        Word::Deny => Answer::No,
    })
}

/// What is given of them; of the rest nothing is supposed.
fn circumstances(arguments: &ExplainArguments) -> Circumstances {
    let mut all = Circumstances::at(arguments.at.map_or_else(SystemTime::now, SystemTime::from));
    let given = session_facts(arguments.database.as_deref(), arguments.application_name.as_deref());
    all.facts.database = given.database;
    if arguments.application_name.is_some() {
        all.facts.application_name = given.application_name;
    }
    all
}

fn tell(explained: &Explained, out: &mut impl Write) -> anyhow::Result<()> {
    let Explained { target, revision, agent, credential, ruled, at, conditions, statements, detectors } = explained;
    writeln!(out, "{} by {}", ruled.verdict, shown(&ruled.by()))?;
    if let (Some(_), Some(reason)) = (&ruled.rule, &ruled.reason) {
        let what = if ruled.verdict == Word::Ask { "the command" } else { "the agent is told:" };
        writeln!(out, "  {what} {}", shown(reason))?;
    }
    writeln!(out, "  {agent} as {} on {target}, bundle {revision}", shown(credential))?;
    if let Some(at) = at {
        writeln!(out, "conditions, at {at}")?;
    }
    for ExplainedCondition { policy, rule, when, outcome } in conditions {
        writeln!(out, "  {outcome:<7}  {}  when {}", shown(&format!("{policy}/{rule}")), shown(when))?;
    }
    for (number, statement) in statements.iter().enumerate() {
        writeln!(out, "statement {}", number + 1)?;
        for ExplainedOperation { operation, ruled } in &statement.operations {
            writeln!(out, "  {:<5}  {}  by {}", ruled.verdict, shown(operation), shown(&ruled.by()))?;
        }
        if statement.operations.is_empty() {
            writeln!(out, "  does nothing by itself")?;
        }
        veiled::tell(&statement.masks, out)?;
    }
    for ExplainedDetector { detect, method, policy } in detectors {
        writeln!(out, "searched for in every text: {detect}  {method}  by {}", shown(policy))?;
    }
    Ok(())
}
