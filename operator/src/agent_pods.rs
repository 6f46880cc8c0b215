//! The pods of those namespaces in which some identity is bound to pods.
//!
//! Owns their watches and what is kept of them: a few fields a pod, and nothing at all of namespaces without a bound
//! identity. Touches the API server (list, watch). Invariant: a pod that comes, changes or goes wakes every identity
//! that selects it, before the change or after; a namespace is known only once its whole list has come.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use futures::stream::{AbortHandle, BoxStream, SelectAll, abortable};
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::Store;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use sallyport_crds::{AgentIdentity, PodSelector};

use crate::bell::Bell;
use crate::derive::binding::selects;
use crate::derive::pods::Pod;
use crate::stores::watching;

/// Ended pods are not even sent.
const NOT_ENDED: &str = "status.phase!=Succeeded,status.phase!=Failed";

type Known = BTreeMap<String, Arc<Pod>>;
type Heard = (String, watcher::Result<Event<Pod>>);

/// Clones share what is known.
#[derive(Clone, Default)]
pub(crate) struct AgentPods {
    namespaces: Arc<Mutex<BTreeMap<String, Namespace>>>,
}

#[derive(Default)]
struct Namespace {
    /// The identities that are bound, and to what.
    bound: BTreeMap<String, PodSelector>,
    /// None until the first list is complete.
    pods: Option<Known>,
    /// The list that is coming in.
    incoming: Known,
    watch: Option<AbortHandle>,
}

impl fmt::Debug for AgentPods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentPods").finish_non_exhaustive()
    }
}

impl AgentPods {
    /// The pods that `identity` is bound to, as far as labels say; none while they are not known yet.
    pub(crate) fn of(&self, identity: &AgentIdentity) -> Option<Vec<Arc<Pod>>> {
        let selector = &identity.spec.bound_to.as_ref()?.pod_selector;
        let namespaces = self.lock();
        let pods = namespaces.get(&identity.namespace()?)?.pods.as_ref()?;
        Some(pods.values().filter(|pod| selects(selector, pod.labels())).cloned().collect())
    }

    /// Watches the pods of whichever namespaces have bound identities, for as long as the process lives.
    pub(crate) async fn follow(self, client: Client, identities: Store<AgentIdentity>, bell: Bell) {
        let changed = bell.bindings_rung();
        let mut streams: SelectAll<BoxStream<'static, Heard>> = SelectAll::new();
        loop {
            tokio::select! {
                () = changed.notified() => {
                    for namespace in self.bind(&bound(&identities), &bell) {
                        let pods = Api::namespaced(client.clone(), &namespace);
                        let config = watching().fields(NOT_ENDED);
                        let (events, handle) = abortable(watcher(pods, config).default_backoff());
                        if let Some(entry) = self.lock().get_mut(&namespace) {
                            entry.watch = Some(handle);
                        }
                        streams.push(events.map(move |event| (namespace.clone(), event)).boxed());
                    }
                }
                Some((namespace, event)) = streams.next(), if !streams.is_empty() => match event {
                    Ok(event) => self.hear(&namespace, event, &bell),
                    // The watcher goes on by itself; what is known stays in use.
                    Err(error) => tracing::warn!(namespace, %error, "pods cannot be watched, trying again"),
                },
            }
        }
    }

    /// Takes in who is bound to what; returns the namespaces that are not watched yet. Who is bound anew is woken: a
    /// pod may have come between its reconcile and this.
    fn bind(&self, wanted: &BTreeMap<String, BTreeMap<String, PodSelector>>, bell: &Bell) -> Vec<String> {
        let mut namespaces = self.lock();
        namespaces.retain(|name, entry| {
            let keep = wanted.contains_key(name);
            if let (false, Some(watch)) = (keep, &entry.watch) {
                watch.abort();
            }
            keep
        });
        let mut added = Vec::new();
        for (name, bound) in wanted {
            let entry = namespaces.entry(name.clone()).or_insert_with(|| {
                added.push(name.clone());
                Namespace::default()
            });
            for (identity, _) in
                bound.iter().filter(|(identity, selector)| entry.bound.get(*identity) != Some(*selector))
            {
                bell.identity(name, identity);
            }
            entry.bound.clone_from(bound);
        }
        added
    }

    fn hear(&self, namespace: &str, event: Event<Pod>, bell: &Bell) {
        let mut namespaces = self.lock();
        // An event may lie there from before its watch was ended.
        let Some(entry) = namespaces.get_mut(namespace) else { return };
        match event {
            Event::Init => entry.incoming.clear(),
            Event::InitApply(pod) => {
                entry.incoming.insert(pod.name_any(), Arc::new(pod.trimmed()));
            }
            Event::InitDone => {
                entry.pods = Some(std::mem::take(&mut entry.incoming));
                entry.bound.keys().for_each(|identity| bell.identity(namespace, identity));
            }
            Event::Apply(pod) => {
                // A change comes after the list that it changes.
                let Some(pods) = &mut entry.pods else { return };
                let pod = Arc::new(pod.trimmed());
                let old = pods.insert(pod.name_any(), Arc::clone(&pod));
                // Most changes of a pod are of what nobody asks for.
                if old.as_ref() != Some(&pod) {
                    entry.wake(namespace, old.iter().chain([&pod]), bell);
                }
            }
            Event::Delete(pod) => {
                let old = entry.pods.as_mut().and_then(|pods| pods.remove(&pod.name_any()));
                entry.wake(namespace, old.iter(), bell);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Namespace>> {
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Namespace {
    fn wake<'p>(&self, namespace: &str, pods: impl Iterator<Item = &'p Arc<Pod>> + Clone, bell: &Bell) {
        for (identity, selector) in &self.bound {
            if pods.clone().any(|pod| selects(selector, pod.labels())) {
                bell.identity(namespace, identity);
            }
        }
    }
}

/// Who is bound to what, by namespace and name.
fn bound(identities: &Store<AgentIdentity>) -> BTreeMap<String, BTreeMap<String, PodSelector>> {
    let mut bound: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for identity in identities.state() {
        if let (Some(to), Some(namespace)) = (&identity.spec.bound_to, identity.namespace()) {
            bound.entry(namespace).or_default().insert(identity.name_any(), to.pod_selector.clone());
        }
    }
    bound
}
