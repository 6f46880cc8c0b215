//! Who has to look again: references that controllers are woken with.
//!
//! Owns the queues between watches and controllers. Touches nothing else. Invariant: a waking is never
//! lost: a full queue turns into "look at everything".

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::certificates::v1::PodCertificateRequest;
use kube::ResourceExt;
use kube::runtime::reflector::{ObjectRef, Store};
use sallyport_crds::{AccessPolicy, AgentIdentity, Delivery, ProtectedTarget};
use tokio::sync::Notify;

use crate::derive::{compile, pod_certificate};

/// References to wake beyond which everything is woken instead.
const LONGEST: usize = 10_000;

/// The bell; clones ring the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bell {
    identities: Arc<Queue<AgentIdentity>>,
    targets: Arc<Queue<ProtectedTarget>>,
    policies: Arc<Queue<AccessPolicy>>,
    requests: Arc<Queue<PodCertificateRequest>>,
    fleets: Arc<Notify>,
    trust: Arc<Notify>,
    publish: Arc<Notify>,
    bindings: Arc<Notify>,
    request_store: Arc<std::sync::OnceLock<Store<PodCertificateRequest>>>,
    policy_store: Arc<std::sync::OnceLock<Store<AccessPolicy>>>,
}

/// What one controller has to look at.
pub(crate) struct Queue<K: kube::runtime::reflector::Lookup>
where
    K::DynamicType: Eq + Hash,
{
    pending: Mutex<Pending<K>>,
    more: Notify,
}

struct Pending<K: kube::runtime::reflector::Lookup>
where
    K::DynamicType: Eq + Hash,
{
    some: HashSet<ObjectRef<K>>,
    all: bool,
}

impl Bell {
    /// Policies are looked up to wake those that speak of an identity or target.
    pub(crate) fn attach(&self, policies: Store<AccessPolicy>) {
        let _ = self.policy_store.set(policies);
    }

    /// Open requests are looked up to wake those of an identity's namespace.
    pub(crate) fn attach_requests(&self, requests: Store<PodCertificateRequest>) {
        let _ = self.request_store.set(requests);
    }

    /// The identity of that name.
    pub(crate) fn identity(&self, namespace: &str, name: &str) {
        self.identities.ring(ObjectRef::new(name).within(namespace));
    }

    /// The target of that name.
    pub(crate) fn target(&self, namespace: &str, name: &str) {
        self.targets.ring(ObjectRef::new(name).within(namespace));
    }

    /// The role bindings of agent namespaces.
    pub(crate) fn fleets(&self) {
        self.fleets.notify_one();
    }

    /// The authority and what is trusted.
    pub(crate) fn trust(&self) {
        self.trust.notify_one();
    }

    /// All of it.
    pub(crate) fn everything(&self) {
        self.identities.ring_all();
        self.targets.ring_all();
        self.policies.ring_all();
        self.bindings.notify_one();
        self.requests.ring_all();
        self.fleets();
        self.trust();
        self.publish();
    }

    /// What [`Self::identity`] wakes.
    #[must_use]
    pub(crate) fn identities(&self) -> Arc<Queue<AgentIdentity>> {
        Arc::clone(&self.identities)
    }

    /// What [`Self::target`] wakes.
    #[must_use]
    pub(crate) fn targets(&self) -> Arc<Queue<ProtectedTarget>> {
        Arc::clone(&self.targets)
    }

    /// What policies' own changes, and those of what they speak of, wake.
    #[must_use]
    pub(crate) fn policies(&self) -> Arc<Queue<AccessPolicy>> {
        Arc::clone(&self.policies)
    }

    /// What requests' own changes, and those of identities, wake.
    #[must_use]
    pub(crate) fn requests(&self) -> Arc<Queue<PodCertificateRequest>> {
        Arc::clone(&self.requests)
    }

    /// What [`Self::fleets`] wakes.
    #[must_use]
    pub(crate) fn fleets_rung(&self) -> Arc<Notify> {
        Arc::clone(&self.fleets)
    }

    /// Where roots are asked for.
    pub(crate) fn publish(&self) {
        self.publish.notify_one();
    }

    /// What [`Self::publish`] wakes.
    #[must_use]
    pub(crate) fn publish_rung(&self) -> Arc<Notify> {
        Arc::clone(&self.publish)
    }

    /// What [`Self::trust`] wakes.
    #[must_use]
    pub(crate) fn trust_rung(&self) -> Arc<Notify> {
        Arc::clone(&self.trust)
    }

    /// Rung when an identity is bound to other pods, or no more.
    #[must_use]
    pub(crate) fn bindings_rung(&self) -> Arc<Notify> {
        Arc::clone(&self.bindings)
    }

    pub(crate) fn identity_changed(&self, identity: &AgentIdentity, _: &Store<AgentIdentity>) {
        let namespace = identity.namespace().unwrap_or_default();
        if identity.spec.bound_to.is_some() {
            self.bindings.notify_one();
        }
        self.identity(&namespace, &identity.name_any());
        if identity.spec.certificate.delivery == Delivery::PodCertificate {
            self.wake_requests(&namespace);
        }
        // They count the agents they speak of.
        self.wake_policies(|policy| {
            let own = policy.namespace().unwrap_or_default();
            let mut subjects = policy.spec.subjects.iter().filter_map(|subject| compile::who(subject, &own).ok());
            subjects.any(|subject| compile::namespace_of(&subject) == namespace)
        });
    }

    pub(crate) fn target_changed(&self, target: &ProtectedTarget, _: &Store<ProtectedTarget>) {
        self.fleet_changed(&target.namespace().unwrap_or_default(), &target.name_any());
        self.fleets();
    }

    /// A replica came or went. Policies tell how many run them, and the target's own status may come out the
    /// same as before: they are woken here, not by it.
    pub(crate) fn fleet_changed(&self, namespace: &str, target: &str) {
        self.target(namespace, target);
        self.wake_policies(|policy| {
            policy.namespace().as_deref() == Some(namespace)
                && policy.spec.target_refs.iter().any(|named| named.name == target)
        });
    }

    pub(crate) fn policy_changed(&self, policy: &AccessPolicy, _: &Store<AccessPolicy>) {
        let namespace = policy.namespace().unwrap_or_default();
        // Targets first: the bundle is what agents wait for.
        for named in &policy.spec.target_refs {
            self.target(&namespace, &named.name);
        }
        self.policies.ring(ObjectRef::from_obj(policy));
        self.fleets();
    }

    /// A request came or changed.
    pub(crate) fn request_changed(&self, request: &PodCertificateRequest) {
        if pod_certificate::is_open(request) {
            self.requests.ring(ObjectRef::from_obj(request));
        }
    }

    fn wake_requests(&self, namespace: &str) {
        for request in self.request_store.get().map(Store::state).unwrap_or_default() {
            if request.namespace().as_deref() == Some(namespace) {
                self.request_changed(&request);
            }
        }
    }

    fn wake_policies(&self, concerned: impl Fn(&AccessPolicy) -> bool) {
        for policy in self.policy_store.get().map(Store::state).unwrap_or_default() {
            if concerned(&policy) {
                self.policies.ring(ObjectRef::from_obj(policy.as_ref()));
            }
        }
    }
}

impl<K: kube::runtime::reflector::Lookup + Clone + 'static> Queue<K>
where
    K::DynamicType: Eq + Hash + Clone,
{
    fn ring(&self, object: ObjectRef<K>) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.some.insert(object);
        pending.all |= pending.some.len() > LONGEST;
        if pending.all {
            pending.some.clear();
        }
        drop(pending);
        self.more.notify_one();
    }

    fn ring_all(&self) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).all = true;
        self.more.notify_one();
    }

    /// Waits for references; `store` says what everything is.
    pub(crate) async fn next(&self, store: &Store<K>) -> Vec<ObjectRef<K>>
    where
        K::DynamicType: Default,
    {
        loop {
            let (all, some) = {
                let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
                (std::mem::take(&mut pending.all), std::mem::take(&mut pending.some))
            };
            if all {
                return store.state().iter().map(|object| ObjectRef::from_obj(object.as_ref())).chain(some).collect();
            }
            if !some.is_empty() {
                return some.into_iter().collect();
            }
            self.more.notified().await;
        }
    }
}

impl<K: kube::runtime::reflector::Lookup> Default for Queue<K>
where
    K::DynamicType: Eq + Hash,
{
    fn default() -> Self {
        Self { pending: Mutex::new(Pending { some: HashSet::new(), all: false }), more: Notify::new() }
    }
}

impl<K: kube::runtime::reflector::Lookup> std::fmt::Debug for Queue<K>
where
    K::DynamicType: Eq + Hash,
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}
