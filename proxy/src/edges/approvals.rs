//! The desk where people are asked: `AccessRequest` objects beside the target.
//!
//! Owns their making, the watch of their answers, and the one write that uses an answer up. Touches the API server.
//! Invariants: an answer counts for a command whose whole text was shown; of all who try to use one up at the same time,
//! the API server lets one; what is not known counts as used.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, ListParams, ObjectMeta, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use sallyport_core::asking::{DeskFault, Question, Sheet, Standing};
use sallyport_core::ports::{Answer, ApprovalDesk};
use sallyport_crds::{
    AccessRequest, AccessRequestSpec, Answer as Said, AskingAgent, Command, Consumption, Decision, NotBy, Phase,
};
use sallyport_policy::{self as policy, Reply, Tally, TargetRef, digest};
use tokio::sync::watch;
use tokio::time::timeout;

use super::cluster::{Pauses, Reach};

/// For one call.
const CALL: Duration = Duration::from_secs(10);
/// How long one watch lasts; a connection that died without a word is noticed shortly after.
const WATCH: u32 = 20;
/// Questions that one agent may have open at one target: nobody reads more, and an agent may send whatever it likes.
const MOST_OPEN: usize = 16;
/// Objects that are looked at to find one.
const MOST_LISTED: u32 = 500;
/// How long an API server that has no time is left alone.
const BREATHER: Duration = Duration::from_millis(500);
/// How often a write that met another is tried anew.
const TRIES: usize = 5;

/// Why a question could not be put.
struct Unasked {
    told: String,
    /// The API server has no time for it (429), or sets up where such objects are kept: it has not looked at it.
    later: bool,
}

/// The desk of one replica.
#[derive(Clone)]
pub(crate) struct Desk {
    requests: Api<AccessRequest>,
    replica: String,
}

impl Desk {
    pub(crate) fn new(Reach(client): Reach, target: &TargetRef, replica: String) -> Self {
        Self { requests: Api::namespaced(client, &target.namespace), replica }
    }

    /// Follows one question until nobody waits for it any more.
    async fn follow(self, question: Arc<Question>, sheet: watch::Sender<Sheet>) {
        let put = match timeout(CALL, self.put_in_time(&question)).await {
            Ok(put) => put,
            Err(_) => Err("the cluster does not answer, or has no time: try again".to_owned()),
        };
        let found = match put {
            Ok(found) => found,
            Err(told) => {
                tracing::warn!(session = question.session, told, "a question could not be put");
                sheet.send_replace(Sheet::Failed { told });
                return;
            }
        };
        let name = found.name_any();
        tracing::info!(session = question.session, request = name, "people are asked");
        tell(&sheet, &question, &found);
        let config = watcher::Config::default().fields(&format!("metadata.name={name}")).timeout(WATCH);
        let mut events = watcher(self.requests, config).backoff(Pauses::default()).boxed();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(found) | Event::InitApply(found)) => tell(&sheet, &question, &found),
                Ok(Event::Delete(_)) => {
                    let told = format!("access request {name} was deleted: send the command again to ask anew");
                    sheet.send_replace(Sheet::Failed { told });
                }
                Ok(Event::Init | Event::InitDone) => {}
                Err(error) => tracing::warn!(request = name, %error, "answers cannot be watched, retrying"),
            }
        }
    }

    async fn put_in_time(&self, question: &Question) -> Result<AccessRequest, String> {
        loop {
            match self.put(question).await {
                Err(Unasked { later: true, .. }) => tokio::time::sleep(BREATHER).await,
                put => return put.map_err(|unasked| unasked.told),
            }
        }
    }

    /// The question as it stands already, or made anew.
    async fn put(&self, question: &Question) -> Result<AccessRequest, Unasked> {
        let never = |told: String| Unasked { told, later: false };
        let (agent, target) = (&question.agent, &question.target.name);
        let of_agent =
            format!("spec.target={target},spec.agent.namespace={},spec.agent.name={}", agent.namespace(), agent.name());
        let of_command = format!("{of_agent},spec.command.digest={}", question.digest);
        for _ in 0..TRIES {
            let same = self.listed(&of_command).await?;
            let now = SystemTime::now();
            let open = |request: &&AccessRequest| is_open(request, now);
            let answerable = same.iter().filter(|request| asks_the_same(request, question)).filter(open);
            if let Some(found) = answerable.min_by_key(|request| rank(request, question)) {
                return Ok(found.clone());
            }
            if self.listed(&of_agent).await?.iter().filter(open).count() >= MOST_OPEN {
                let told = format!("this agent has {MOST_OPEN} questions open here already: wait for their answers");
                return Err(never(told));
            }
            let made = made(question, same.len() + 1, now);
            match self.requests.create(&PostParams::default(), &made).await {
                Ok(made) => return Ok(made),
                // Another session or replica asks the same: one question is enough for both.
                Err(kube::Error::Api(status)) if status.is_already_exists() => {}
                Err(error) => return Err(unasked(&error)),
            }
        }
        Err(never("too many ask the same at the same time: try again".to_owned()))
    }

    async fn listed(&self, fields: &str) -> Result<Vec<AccessRequest>, Unasked> {
        let some = ListParams::default().fields(fields).limit(MOST_LISTED);
        self.requests.list(&some).await.map(|list| list.items).map_err(|error| unasked(&error))
    }

    async fn used_up(&self, question: &Question, name: &str) -> Result<(), DeskFault> {
        let failed = |told: String| DeskFault::Failed { told };
        for _ in 0..TRIES {
            let mut request = self.requests.get(name).await.map_err(|error| failed(cannot_ask(&error)))?;
            let now = SystemTime::now();
            if !asks_the_same(&request, question) || !is_open(&request, now) {
                return Err(DeskFault::Spent);
            }
            if tally(&request, question) != Tally::Approved {
                return Err(failed(format!("access request {name} is not approved any more")));
            }
            let mut status = request.status.take().unwrap_or_default();
            status.phase = Phase::Consumed;
            status.consumed = Some(Consumption {
                at: Time(Timestamp::now()),
                session: question.session.clone(),
                replica: self.replica.clone(),
            });
            request.status = Some(status);
            // It bears the version that was read: whoever wrote meanwhile, another replica above all, makes this fail.
            match self.requests.replace_status(name, &PostParams::default(), &request).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.is_conflict() => {}
                Err(error) => {
                    tracing::error!(request = name, %error, "an approval could not be used up");
                    return Err(failed(format!("access request {name} could not be used up, and may count as used")));
                }
            }
        }
        Err(failed(format!("access request {name} changes too often: try again")))
    }
}

impl ApprovalDesk for Desk {
    fn ask(&self, question: Arc<Question>) -> watch::Receiver<Sheet> {
        let (sheet, receiver) = watch::channel(Sheet::Sent);
        let desk = self.clone();
        tokio::spawn(async move {
            let unwanted = sheet.clone();
            tokio::select! {
                () = unwanted.closed() => {}
                () = desk.follow(question, sheet) => {}
            }
        });
        receiver
    }

    fn consume(&self, question: Arc<Question>, name: String) -> Answer<'static, Result<(), DeskFault>> {
        let desk = self.clone();
        Box::pin(async move {
            match timeout(CALL, desk.used_up(&question, &name)).await {
                Ok(used) => used,
                Err(_) => {
                    let told = format!("it is not known whether access request {name} was used up: ask anew");
                    Err(DeskFault::Failed { told })
                }
            }
        })
    }
}

fn tell(sheet: &watch::Sender<Sheet>, question: &Question, found: &AccessRequest) {
    let told = if asks_the_same(found, question) {
        Sheet::Put(Standing {
            name: found.name_any(),
            expires: found.spec.expires_at.0.into(),
            requested_by: found.spec.requested_by.clone(),
            replies: replies(found),
            spent: found.status.as_ref().is_some_and(|status| status.consumed.is_some()),
        })
    } else {
        Sheet::Failed { told: format!("access request {} is another question now", found.name_any()) }
    };
    sheet.send_if_modified(|before| {
        let changed = *before != told;
        *before = told;
        changed
    });
}

/// Whether an answer to `request` is one to `question`. Not by the digest alone: whoever answered was shown the text.
fn asks_the_same(request: &AccessRequest, question: &Question) -> bool {
    let AccessRequestSpec { agent, target, policy, rule, policy_revision, command, .. } = &request.spec;
    agent.namespace == question.agent.namespace()
        && agent.name == question.agent.name()
        && *target == question.target.name
        && *policy == question.policy
        && *rule == question.rule
        && *policy_revision == question.revision
        && command.digest == question.digest
        && command.text == question.text
        && command.parameters == question.parameters
}

fn is_open(request: &AccessRequest, now: SystemTime) -> bool {
    let spent = request.status.as_ref().is_some_and(|status| status.consumed.is_some());
    !spent && now < SystemTime::from(request.spec.expires_at.0)
}

/// A denial stands until it expires, however often the same is asked; then what is approved comes first.
fn rank(request: &AccessRequest, question: &Question) -> (u8, String) {
    let rank = match tally(request, question) {
        Tally::Denied { .. } => 0,
        Tally::Approved => 1,
        Tally::Pending { .. } => 2,
    };
    (rank, request.name_any())
}

fn tally(request: &AccessRequest, question: &Question) -> Tally {
    question.terms.tally(&question.agent, request.spec.requested_by.as_deref(), &replies(request))
}

fn replies(request: &AccessRequest) -> Vec<Reply> {
    let decisions = request.status.iter().flat_map(|status| &status.decisions);
    let reply = |decision: &Decision| Reply {
        by: decision.by.clone(),
        approves: decision.decision == Said::Approve,
        comment: decision.comment.clone(),
    };
    decisions.map(reply).collect()
}

/// A new question. Whoever asks the same for the same time gives it the same name, so that there is one.
fn made(question: &Question, ordinal: usize, now: SystemTime) -> AccessRequest {
    let (agent, target) = (&question.agent, &question.target);
    let about = format!(
        "{agent}\n{}\n{}\n{}\n{}\n{}",
        target.name, question.policy, question.rule, question.revision, question.digest
    );
    let about: String = digest(about.as_bytes()).chars().take(10).collect();
    let validity = Duration::from_secs(question.terms.validity_seconds);
    let expires = Timestamp::try_from(now + validity).unwrap_or(Timestamp::MAX);
    AccessRequest {
        metadata: ObjectMeta {
            name: Some(format!("{}-{about}-{ordinal}", target.name)),
            namespace: Some(target.namespace.clone()),
            labels: Some([("sallyport.dev/target".to_owned(), target.name.clone())].into()),
            ..ObjectMeta::default()
        },
        spec: AccessRequestSpec {
            agent: AskingAgent { namespace: agent.namespace().to_owned(), name: agent.name().to_owned() },
            target: target.name.clone(),
            policy: question.policy.clone(),
            rule: question.rule.clone(),
            policy_revision: question.revision.clone(),
            session: Some(question.session.clone()),
            requested_by: None,
            command: Command {
                text: question.text.clone(),
                digest: question.digest.clone(),
                parameters: question.parameters.clone(),
            },
            approvals: question.terms.approvals,
            not_by: match question.terms.not_by {
                policy::NotBy::Requester => NotBy::Requester,
                policy::NotBy::ServiceAccounts => NotBy::ServiceAccounts,
            },
            reason: question.reason.clone(),
            expires_at: Time(expires),
        },
        status: None,
    }
}

fn unasked(error: &kube::Error) -> Unasked {
    Unasked { told: cannot_ask(error), later: matches!(error, kube::Error::Api(status) if status.code == 429) }
}

/// For the agent: no address, no detail of the cluster.
fn cannot_ask(error: &kube::Error) -> String {
    tracing::warn!(%error, "the desk cannot be reached");
    match error {
        kube::Error::Api(status) if status.is_forbidden() => {
            "this proxy may not ask anybody: tell the target's owner".to_owned()
        }
        kube::Error::Api(status) => format!("the cluster does not take the question ({})", status.reason),
        _ => "the cluster cannot be reached to ask anybody: try again".to_owned(),
    }
}
