//! Bundle and roster from the cluster: watched, so that a change acts within milliseconds.
//!
//! Owns the watches. Touches the API server: one ConfigMap, the `AgentIdentity` objects of the namespaces
//! that the bundle names, this replica's status. Invariants: what cannot be reached or read changes
//! nothing; a suspension never waits for another namespace.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use futures::StreamExt;
use futures::stream::{AbortHandle, BoxStream, SelectAll, abortable};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, utils::Backoff};
use kube::{Api, Client};
use sallyport_client::paced;
use sallyport_crds::AgentIdentity;
use sallyport_policy::{Bundle, Roster, TargetRef};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::last_known_good::LastKnownGood;
use super::namespaces::Namespaces;
use super::pulse::Pulse;
use super::recordings::Recordings;
use super::replica_status::Answer;
use crate::doorway::{Doorway, Seen};
use crate::tls::ServerTls;

/// Key of the bundle in its ConfigMap.
const KEY: &str = "bundle.json";
/// How long the API server may take at the start before the last known good takes force.
const GRACE: Duration = Duration::from_secs(3);
/// How long one watch lasts; a connection that died without a word is noticed shortly after.
const WATCH: u32 = 20;
/// How often the source is asked whether what is in force is the newest.
const CONFIRM: Duration = Duration::from_secs(15);

/// A way to the cluster.
#[derive(Clone)]
pub(crate) struct Reach(pub(super) Client);

/// Reads how to reach the cluster; does not reach for it yet.
pub(crate) async fn reach(kubeconfig: Option<PathBuf>) -> anyhow::Result<Reach> {
    let mut config = match kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(&path).with_context(|| format!("{}", path.display()))?;
            kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?
        }
        None => kube::Config::infer().await.context("no way to a cluster: give --kubeconfig or run in a pod")?,
    };
    config.connect_timeout = Some(Duration::from_secs(3));
    config.read_timeout = Some(Duration::from_secs(u64::from(WATCH) + 15));
    config.reset_reader_on_write = true;
    // The watches have a back-off of their own; two would multiply.
    config.default_retry = false;
    let namespace = config.default_namespace.clone();
    Ok(Reach(paced(Client::try_from(config)?, &namespace)))
}

/// The cluster, as the source of one target's world.
pub(crate) struct Cluster {
    client: Client,
    target: TargetRef,
    keeper: Arc<LastKnownGood>,
    answer: Answer,
}

type Told = (String, watcher::Result<Event<AgentIdentity>>);

impl Cluster {
    pub(crate) fn new(
        Reach(client): Reach,
        target: TargetRef,
        pod: String,
        keeper: LastKnownGood,
        recordings: Arc<Recordings>,
        tls: Arc<ServerTls>,
    ) -> Self {
        let answer = Answer::new(client.clone(), target.clone(), pod, recordings, tls);
        Self { client, target, keeper: Arc::new(keeper), answer }
    }

    /// What writes this replica's entry in its target's status.
    pub(crate) fn answer(&self) -> Answer {
        self.answer.clone()
    }

    /// Follows the cluster for as long as the process lives.
    pub(crate) async fn follow(self, doorway: Arc<Doorway>) -> Infallible {
        let (running, told) = watch::channel(None);
        let pulse = Arc::new(Pulse::default());
        let source = Source {
            bundles: Api::namespaced(self.client.clone(), &self.target.namespace),
            name: format!("{}-bundle", self.target.name),
            doorway: Arc::clone(&doorway),
            keeper: Arc::clone(&self.keeper),
            pulse: Arc::clone(&pulse),
        };
        let (keep, to_keep) = watch::channel(ToKeep::default());
        let follower = Follower {
            keep,
            client: pulse.listening(self.client.clone(), &self.target.namespace),
            doorway,
            kept: self.keeper.roster().map(|kept| kept.content).unwrap_or_default(),
            keeper: Arc::clone(&self.keeper),
            namespaces: Namespaces::default(),
            watches: Watches::default(),
            running,
            pulse,
            listed: false,
            last_json: None,
        };
        let watched = source.watched();
        tokio::select! {
            never = follower.follow(watched) => never,
            never = source.confirm() => never,
            never = keep_newest(self.keeper, to_keep) => never,
            never = self.answer.follow(told) => never,
        }
    }
}

/// The bundle's place in the cluster.
struct Source {
    bundles: Api<ConfigMap>,
    name: String,
    doorway: Arc<Doorway>,
    keeper: Arc<LastKnownGood>,
    pulse: Arc<Pulse>,
}

impl Source {
    fn selector(&self) -> String {
        format!("metadata.name={}", self.name)
    }

    fn watched(&self) -> BoxStream<'static, watcher::Result<Event<ConfigMap>>> {
        let config = watcher::Config::default().fields(&self.selector()).timeout(WATCH);
        watcher(self.bundles.clone(), config).backoff(Pauses::default()).boxed()
    }

    /// Asks now and then whether what is in force is the newest: a watch is silent when all is well and
    /// when nothing works.
    async fn confirm(&self) -> Infallible {
        let one = ListParams::default().fields(&self.selector());
        loop {
            sleep(CONFIRM).await;
            let Ok(Ok(list)) = timeout(CONFIRM, self.bundles.list(&one)).await else { continue };
            let found = list.items.first().and_then(text).and_then(|json| Bundle::read(json).ok());
            let newest = found.is_some_and(|found| self.doorway.revision() == Some(found.revision));
            let now = SystemTime::now();
            let bundle = newest.then_some(now);
            let roster = self.pulse.age(Instant::now()).and_then(|age| now.checked_sub(age));
            self.doorway.confirm(bundle, roster);
            self.keeper.confirm(bundle, roster);
        }
    }
}

/// What is to be kept for a restart: the newest only.
#[derive(Debug, Clone, Default)]
struct ToKeep {
    bundle: Option<String>,
    roster: Option<Roster>,
}

/// Keeps the newest, one after the other, where nobody's standing waits for the disk: sessions that a change concerns
/// are woken on the thread that made it, and would not run while that one waits.
async fn keep_newest(keeper: Arc<LastKnownGood>, mut newest: watch::Receiver<ToKeep>) -> Infallible {
    while newest.changed().await.is_ok() {
        let ToKeep { bundle, roster } = newest.borrow_and_update().clone();
        let keeper = Arc::clone(&keeper);
        let kept = tokio::task::spawn_blocking(move || {
            if let Some(bundle) = bundle {
                keeper.keep_bundle(&bundle);
            }
            if let Some(roster) = roster {
                keeper.keep_roster(&roster);
            }
        });
        if let Err(error) = kept.await {
            tracing::error!(%error, "bundle and roster could not be kept for a restart");
        }
    }
    // Whoever told of them is gone: the process ends.
    std::future::pending().await
}

/// Takes what the watches tell into force.
struct Follower {
    client: Client,
    doorway: Arc<Doorway>,
    keeper: Arc<LastKnownGood>,
    keep: watch::Sender<ToKeep>,
    /// The roster from before the restart, until this process has one of its own.
    kept: Roster,
    namespaces: Namespaces,
    watches: Watches,
    running: watch::Sender<Option<String>>,
    pulse: Arc<Pulse>,
    /// Whether every namespace was listed once.
    listed: bool,
    last_json: Option<String>,
}

/// One watch a namespace.
#[derive(Default)]
struct Watches {
    streams: SelectAll<BoxStream<'static, Told>>,
    handles: Vec<(String, AbortHandle)>,
}

impl Follower {
    async fn follow(mut self, mut bundles: BoxStream<'static, watcher::Result<Event<ConfigMap>>>) -> Infallible {
        let grace = sleep(GRACE);
        tokio::pin!(grace);
        loop {
            tokio::select! {
                event = bundles.next() => match event {
                    Some(Ok(event)) => self.bundle_event(event),
                    Some(Err(error)) => tracing::warn!(%error, "the bundle cannot be watched, the one before stays"),
                    // Watches never end; if one did, its source would be asked no more.
                    None => std::future::pending().await,
                },
                Some((namespace, event)) = self.watches.streams.next(), if !self.watches.streams.is_empty() => {
                    self.identity_event(&namespace, event);
                }
                () = &mut grace, if !grace.is_elapsed() => self.fall_back(),
            }
        }
    }

    fn bundle_event(&mut self, event: Event<ConfigMap>) {
        match event {
            Event::InitApply(map) | Event::Apply(map) => match text(&map) {
                // The same again: after a new list, or when only the object's metadata changed.
                Some(json) if self.last_json.as_deref() == Some(json) => {}
                Some(json) => self.take_bundle(json),
                None => tracing::error!("the bundle's ConfigMap has no key {KEY}, the bundle before stays"),
            },
            Event::Delete(_) => tracing::warn!("the bundle was deleted, the last one stays in force"),
            Event::Init | Event::InitDone => {}
        }
    }

    fn take_bundle(&mut self, json: &str) {
        let received = Instant::now();
        self.last_json = Some(json.to_owned());
        let Ok(bundle) = self.doorway.put_bundle(json, Seen::AtSource(SystemTime::now())) else { return };
        self.doorway.metrics.in_force("bundle", received.elapsed());
        self.keep.send_modify(|keep| keep.bundle = Some(json.to_owned()));
        // In force at once: whoever belongs to a namespace that is new in it is refused until that is listed,
        // as under the bundle before, which did not speak of it.
        self.speak_of(&bundle);
        if let Some(roster) = self.publish() {
            self.keep(roster);
        }
    }

    fn speak_of(&mut self, bundle: &Bundle) {
        let added = self.namespaces.speak_of(&bundle.agent_namespaces, &self.kept);
        self.watches.keep_only(&bundle.agent_namespaces);
        self.pulse.expect(&bundle.agent_namespaces);
        for namespace in added {
            self.watches.add(&self.client, namespace);
        }
    }

    fn identity_event(&mut self, namespace: &str, event: watcher::Result<Event<AgentIdentity>>) {
        let received = Instant::now();
        let revoked = event.as_ref().ok().and_then(|event| self.namespaces.revocation(namespace, event));
        let changed = match event {
            Ok(event) => self.namespaces.hear(namespace, event),
            Err(error) => {
                tracing::warn!(namespace, %error, "the identities of this namespace cannot be watched, retrying");
                let forbidden = is_forbidden(&error);
                self.pulse.failed(namespace, forbidden && self.namespaces.is_empty(namespace));
                forbidden && self.namespaces.forbidden(namespace)
            }
        };
        if changed && let Some(roster) = self.publish() {
            self.doorway.metrics.in_force("roster", received.elapsed());
            if let Some(written) = revoked {
                // Clocks of two machines: what was written later than now took no time.
                self.doorway.metrics.revoked(written.elapsed().unwrap_or_default());
            }
            self.keep(roster);
        }
    }

    /// Puts what is known in force, and returns it if it was. The first roster waits for every namespace. Later ones
    /// do not: a suspension must not wait for a namespace that has just been added.
    fn publish(&mut self) -> Option<Roster> {
        let complete = self.namespaces.complete();
        if !complete && self.doorway.feed.load().is_none() {
            return None;
        }
        let roster = self.namespaces.roster();
        if complete {
            if std::mem::replace(&mut self.listed, true) {
                // An event of one namespace says nothing of the age of the others.
                self.doorway.put_partial_roster(roster.clone());
            } else {
                self.doorway.put_roster(roster.clone(), Seen::AtSource(SystemTime::now()));
            }
        } else {
            self.doorway.put_partial_roster(roster.clone());
        }
        Some(roster)
    }

    /// Keeps a complete roster for a restart, and tells that this replica runs its bundle in full.
    fn keep(&mut self, roster: Roster) {
        if !self.namespaces.complete() {
            return;
        }
        self.kept = Roster::default();
        self.keep.send_modify(|keep| keep.roster = Some(roster));
        let revision = self.doorway.revision();
        self.running.send_if_modified(|told| {
            *told != revision && {
                *told = revision;
                true
            }
        });
    }

    /// The API server has not answered in time: what was kept takes force, as far as there is nothing newer.
    fn fall_back(&mut self) {
        if self.doorway.feed.load().is_some() {
            return;
        }
        let (Some(bundle), Some(roster)) = (self.keeper.bundle(), self.keeper.roster()) else {
            tracing::warn!("no complete bundle and roster from the cluster yet, and none kept: waiting");
            return;
        };
        let age = bundle.confirmed.min(roster.confirmed).elapsed().unwrap_or_default();
        tracing::warn!(?age, "the cluster has not answered: going on with the last known good bundle and roster");
        self.doorway.put_roster(roster.content, Seen::Kept(roster.confirmed));
        if self.last_json.is_none()
            && let Ok(bundle) = self.doorway.put_bundle(&bundle.content, Seen::Kept(bundle.confirmed))
        {
            self.speak_of(&bundle);
        }
    }
}

impl Watches {
    fn add(&mut self, client: &Client, namespace: String) {
        let identities: Api<AgentIdentity> = Api::namespaced(client.clone(), &namespace);
        let config = watcher::Config::default().timeout(WATCH);
        let events = watcher(identities, config).backoff(Pauses::default());
        let (events, handle) = abortable(events);
        let name = namespace.clone();
        self.streams.push(events.map(move |event| (name.clone(), event)).boxed());
        self.handles.push((namespace, handle));
    }

    fn keep_only(&mut self, wanted: &[String]) {
        self.handles.retain(|(namespace, handle)| {
            let keep = wanted.contains(namespace);
            if !keep {
                handle.abort();
            }
            keep
        });
    }
}

fn text(map: &ConfigMap) -> Option<&str> {
    map.data.as_ref()?.get(KEY).map(String::as_str)
}

fn is_forbidden(error: &watcher::Error) -> bool {
    let forbidden = |error: &kube::Error| matches!(error, kube::Error::Api(status) if status.is_forbidden());
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => forbidden(error),
        watcher::Error::WatchError(status) => status.is_forbidden(),
        watcher::Error::NoResourceVersion => false,
    }
}

/// From 100 ms doubling to 5 s, each with up to as much again by chance: an API server that comes back meets
/// its fleets spread out, and a fleet is not blind for long.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    failures: u32,
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let base =
            Duration::from_millis(100).saturating_mul(1 << self.failures.min(6)).min(Duration::from_millis(2500));
        self.failures = self.failures.saturating_add(1);
        Some(base.mul_f64(1.0 + rand::random::<f64>()))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.failures = 0;
    }
}
