//! The controllers: one a kind, each reads, asks `derive` once, writes, and tells.
//!
//! Owns what they share: context, deadline, back-off and events. Touches the API server. Invariant: a
//! reconcile ends within its deadline, and its fault stays with its object.

pub(crate) mod fleets;
pub(crate) mod identity;
pub(crate) mod pod_certificate;
pub(crate) mod policy;
pub(crate) mod publish;
pub(crate) mod request;
pub(crate) mod target;
pub(crate) mod trust;

use std::collections::HashMap;
use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::reflector::{Lookup, ObjectRef, Store};
use kube::{Client, Resource};
use sallyport_crds::conditions::{ISSUED, ROTATING};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bell::Queue;
use crate::clock::Clock;
use crate::derive::Settings;
use crate::derive::publish::Unpublished;
use crate::fault::Fault;
use crate::issue::{Authority, Trust};
use crate::metrics::Metrics;
use crate::seen::Seen;
use crate::stores::Stores;

/// How long one reconcile may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// How many reconciles of one kind run at a time.
const AT_ONCE: u16 = 8;

/// What every reconcile has at hand.
#[allow(missing_docs, reason = "the fields are what their types say")]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) stores: Stores,
    pub(crate) settings: Settings,
    pub(crate) trust: Arc<Trust>,
    pub(crate) ca: trust::Place,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Clock,
    pub(crate) recorder: Reporter,
    pub(crate) memory: Arc<Memory>,
    pub(crate) seen: Seen,
    pub(crate) requests: pod_certificate::Requests,
    pub(crate) unpublished: Mutex<Vec<Unpublished>>,
}

/// What is remembered of objects between reconciles; losing it costs nothing but a look.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Resource versions of our own last status writes, by UID.
    written: Mutex<HashMap<String, u64>>,
    /// Failures in a row, by UID.
    failures: Mutex<HashMap<String, u32>>,
    /// Since when fleets that ran what they should do not any more, by UID.
    behind: Mutex<HashMap<String, Instant>>,
    /// When certificates are to be replaced, by UID, with the kind.
    due: Mutex<HashMap<String, (&'static str, Timestamp)>>,
}

impl Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Publishes Kubernetes events.
pub(crate) struct Reporter(pub(crate) Recorder);

impl Debug for Reporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reporter")
    }
}

impl Memory {
    /// Whether the cache shows `object` from before our own last write: then its status is not the last word.
    fn is_behind<K: Resource>(&self, object: &K) -> bool {
        let shown = object.meta().resource_version.as_deref().and_then(|version| version.parse::<u64>().ok());
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let last = object.meta().uid.as_ref().and_then(|uid| written.get(uid));
        matches!((shown, last), (Some(shown), Some(last)) if shown < *last)
    }

    pub(crate) fn wrote<K: Resource>(&self, object: &K, version: Option<String>) {
        if let (Some(uid), Some(version)) =
            (object.meta().uid.clone(), version.and_then(|version| version.parse().ok()))
        {
            self.written.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, version);
        }
    }

    fn failed(&self, uid: &str) -> u32 {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(uid.to_owned()).or_default();
        *count = count.saturating_add(1);
        *count - 1
    }

    /// Failures in a row up to now.
    pub(crate) fn failures(&self, uid: &str) -> u32 {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).get(uid).copied().unwrap_or_default()
    }

    /// The certificate of the object with that UID is to be replaced then. A time that has passed already stays,
    /// until one to come takes its place.
    pub(crate) fn due(&self, uid: &str, kind: &'static str, at: Timestamp, now: Timestamp) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = due.entry(uid.to_owned()).or_insert((kind, at));
        if at > now || at < entry.1 {
            entry.1 = at;
        }
    }

    /// How many certificates of a kind should have been there before `limit`, and were not.
    pub(crate) fn overdue(&self, kind: &'static str, limit: Timestamp) -> usize {
        let due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        due.values().filter(|(of, at)| *of == kind && *at < limit).count()
    }

    fn succeeded(&self, uid: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// A fleet that ran its bundle has to run another since then; where it has already, the older time counts.
    pub(crate) fn fell_behind(&self, uid: &str, since: Instant) {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner).entry(uid.to_owned()).or_insert(since);
    }

    /// It runs it everywhere; since when it did not, if that was seen.
    pub(crate) fn caught_up(&self, uid: &str) -> Option<Instant> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner).remove(uid)
    }

    /// Forgets objects that are gone.
    pub(crate) fn keep(&self, live: &std::collections::HashSet<String>) {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| live.contains(uid));
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| live.contains(uid));
        self.behind.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| live.contains(uid));
        self.due.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| live.contains(uid));
    }
}

impl Context {
    /// Now.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// What plans depend on.
    pub(crate) fn settings(&self) -> Settings {
        Settings { since: self.clock.since(), ..self.settings.clone() }
    }

    /// The authority in force. Taken once a reconcile, so that what is written is of one authority.
    pub(crate) fn authority(&self) -> Arc<Authority> {
        self.trust.current()
    }

    /// Tells of conditions that flipped, as Kubernetes events. An event that cannot be written is no fault.
    pub(crate) async fn report<K>(&self, kind: &'static str, object: &K, before: &[Condition], after: &[Condition])
    where
        K: Resource<DynamicType = ()>,
    {
        for event in worth_telling(before, after) {
            if (event.action == ISSUED || event.action == ROTATING) && event.type_ == EventType::Warning {
                self.metrics.refused(kind, &event.reason);
            }
            self.publish(object, &event).await;
        }
    }

    /// Writes one event.
    pub(crate) async fn publish<K: Resource<DynamicType = ()>>(&self, object: &K, event: &Event) {
        self.publish_at(&object.object_ref(&()), event).await;
    }

    /// Writes one event about what is referred to. Its note is cut to what the API takes: an event is never lost to what
    /// somebody put into an object or an answer.
    pub(crate) async fn publish_at(&self, object: &ObjectReference, event: &Event) {
        let event = &Event {
            type_: event.type_,
            reason: event.reason.clone(),
            note: event.note.as_deref().map(noted),
            action: event.action.clone(),
            secondary: event.secondary.clone(),
        };
        if let Err(error) = self.recorder.0.publish(event, object).await {
            tracing::warn!(%error, reason = event.reason, "event not written");
        }
    }
}

/// A condition that flipped, or fails for another reason than before.
fn worth_telling(before: &[Condition], after: &[Condition]) -> Vec<Event> {
    let news = after.iter().filter(|new| {
        let old = before.iter().find(|old| old.type_ == new.type_);
        let holds = new.status == "True";
        match old {
            // What holds from the start is no news; Ready is the sum of what is told anyway.
            None => !holds && new.reason != sallyport_crds::conditions::reason::PENDING,
            Some(old) => old.status != new.status || (!holds && old.reason != new.reason),
        }
    });
    news.filter(|new| new.reason != sallyport_crds::conditions::reason::PENDING)
        .map(|new| {
            let type_ = if new.status == "True" { EventType::Normal } else { EventType::Warning };
            let note = Some(new.message.clone());
            Event { type_, reason: new.reason.clone(), note, action: new.type_.clone(), secondary: None }
        })
        .collect()
}

/// As much of a note as the API takes: 1 KiB.
fn noted(text: &str) -> String {
    const LONGEST: usize = 1000;
    let cut = (0..=LONGEST.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.get(..cut).unwrap_or_default().to_owned()
}

/// Runs the controller of one kind until `stop`.
pub(crate) async fn run<K, F>(
    kind: &'static str,
    context: Arc<Context>,
    store: Store<K>,
    queue: Arc<Queue<K>>,
    stop: CancellationToken,
    reconcile: fn(Arc<K>, Arc<Context>) -> F,
) where
    K: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    F: Future<Output = Result<Action, Fault>> + Send + 'static,
{
    let woken = stream::unfold((queue, store.clone()), |(queue, store)| async move {
        let objects = queue.next(&store).await;
        Some((stream::iter(objects), (queue, store)))
    });
    let step = move |object: Arc<K>, context: Arc<Context>| timed(kind, object, context, reconcile);
    Controller::for_shared_stream(stream::pending(), store)
        .reconcile_on(woken.flatten())
        .with_config(Config::default().concurrency(AT_ONCE))
        .graceful_shutdown_on(async move { stop.cancelled().await })
        .run(step, back_off, context)
        .for_each(|_| async {})
        .await;
}

async fn timed<K, F>(
    kind: &'static str,
    object: Arc<K>,
    context: Arc<Context>,
    reconcile: fn(Arc<K>, Arc<Context>) -> F,
) -> Result<Action, Fault>
where
    K: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone + Debug + 'static,
    F: Future<Output = Result<Action, Fault>>,
{
    if context.memory.is_behind(object.as_ref()) {
        // The write comes back through the watch in a moment, and wakes again.
        return Ok(Action::requeue(Duration::from_millis(50)));
    }
    if object.meta().deletion_timestamp.is_some() {
        // What was made for it is collected with it.
        return Ok(Action::await_change());
    }
    let start = Instant::now();
    let result = match tokio::time::timeout(DEADLINE, reconcile(Arc::clone(&object), Arc::clone(&context))).await {
        Ok(result) => result,
        Err(_) => Err(Fault::Deadline(DEADLINE)),
    };
    let outcome = result.as_ref().err().map_or("ok", Fault::label);
    context.metrics.reconciled(kind, outcome, start.elapsed().as_secs_f64());
    match &result {
        Ok(_) => context.memory.succeeded(object.meta().uid.as_deref().unwrap_or_default()),
        Err(fault) => {
            let name = ObjectRef::from_obj(object.as_ref());
            tracing::warn!(kind, object = %name, %fault, "reconcile did not finish, trying again");
        }
    }
    result
}

fn back_off<K: Resource>(object: Arc<K>, fault: &Fault, context: Arc<Context>) -> Action {
    let failures = context.memory.failed(object.meta().uid.as_deref().unwrap_or_default());
    Action::requeue(fault.pause(failures))
}

/// When to look again; a plan that changes nothing by itself waits for a change.
pub(crate) fn again(after: Option<Duration>) -> Action {
    // A second late rather than early: a plan made just before its time would change nothing.
    after.map_or_else(Action::await_change, |after| Action::requeue(after + Duration::from_millis(200)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_cut_at_a_character() {
        assert_eq!(noted("as it is"), "as it is");
        let long = noted(&"é".repeat(5000));
        assert!(long.len() <= 1000 && long.chars().all(|one| one == 'é'), "{}", long.len());
    }
}
