//! What is known of the cluster: one watch a kind, and who is woken by what.
//!
//! Owns the reflector stores. Touches the API server (list, watch). Invariant: every change of an object
//! wakes all whose plan depends on it, before the change and after.

use std::fmt::Debug;
use std::hash::Hash;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{self, Lookup, ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt};
use sallyport_crds::{AccessPolicy, AgentIdentity, ProtectedTarget, TrustDomain};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use crate::agent_pods::AgentPods;
use crate::bell::Bell;
use crate::derive::names::{FLEETS, TARGET, TRUST_BUNDLE, TRUST_WANTED, managed_selector};

/// How long one watch lasts, in seconds; a connection that died without a word is noticed shortly after.
const WATCH: u32 = 60;

/// How every kind is watched.
pub(crate) fn watching() -> watcher::Config {
    watcher::Config::default().timeout(WATCH)
}

/// All stores.
#[derive(Clone)]
#[allow(missing_docs, reason = "the fields are the kinds they hold")]
pub(crate) struct Stores {
    pub(crate) identities: Store<AgentIdentity>,
    pub(crate) targets: Store<ProtectedTarget>,
    pub(crate) policies: Store<AccessPolicy>,
    pub(crate) trust_domains: Store<TrustDomain>,
    pub(crate) service_accounts: Store<ServiceAccount>,
    pub(crate) roles: Store<Role>,
    pub(crate) role_bindings: Store<RoleBinding>,
    pub(crate) config_maps: Store<ConfigMap>,
    pub(crate) deployments: Store<Deployment>,
    pub(crate) services: Store<Service>,
    pub(crate) budgets: Store<PodDisruptionBudget>,
    pub(crate) network_policies: Store<NetworkPolicy>,
    /// Those that ask for the roots.
    pub(crate) namespaces: Store<PartialObjectMeta<Namespace>>,
    /// Names and owners; what is in them is not kept.
    pub(crate) secrets: Store<PartialObjectMeta<Secret>>,
    /// The same of all Secrets beside the operator: a CA that was given carries no label of ours.
    pub(crate) beside: Store<PartialObjectMeta<Secret>>,
    /// Names and labels.
    pub(crate) pods: Store<PartialObjectMeta<Pod>>,
    /// The pods that identities are bound to.
    pub(crate) agent_pods: AgentPods,
}

impl Debug for Stores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stores").finish_non_exhaustive()
    }
}

impl Stores {
    /// Starts every watch, in `tasks`.
    #[must_use]
    pub(crate) fn start(client: &Client, namespace: &str, bell: &Bell, tasks: &mut JoinSet<()>) -> Self {
        let all = watching;
        let ours = || watching().labels(&managed_selector());
        let agent_pods = AgentPods::default();
        let mut watches = Watches { client, bell, tasks };
        let identities = watches.follow(all(), Bell::identity_changed);
        watches.tasks.spawn(agent_pods.clone().follow(client.clone(), identities.clone(), bell.clone()));
        Self {
            identities,
            agent_pods,
            targets: watches.follow(all(), Bell::target_changed),
            policies: watches.follow(all(), Bell::policy_changed),
            trust_domains: watches.follow(all(), |bell, _: &TrustDomain, _| bell.trust()),
            service_accounts: watches.follow(ours(), wake_owner),
            roles: watches.follow(ours(), wake_owner),
            role_bindings: watches.follow(ours(), |bell, binding: &RoleBinding, others| {
                if binding.name_any() == FLEETS { bell.fleets() } else { wake_owner(bell, binding, others) }
            }),
            config_maps: watches.follow(ours(), |bell, map: &ConfigMap, others| {
                if map.name_any() == TRUST_BUNDLE { bell.publish() } else { wake_owner(bell, map, others) }
            }),
            namespaces: watches.follow(watching().labels(TRUST_WANTED), |bell, _, _| bell.publish()),
            deployments: watches.follow(ours(), wake_owner),
            services: watches.follow(ours(), wake_owner),
            budgets: watches.follow(ours(), wake_owner),
            network_policies: watches.follow(ours(), wake_owner),
            secrets: watches.follow(ours(), wake_owner),
            beside: watches.keep(
                watcher::watcher(Api::namespaced(client.clone(), namespace), all()),
                |bell, _: &PartialObjectMeta<Secret>, _| bell.trust(),
            ),
            pods: watches.follow(ours(), |bell, pod: &PartialObjectMeta<Pod>, _| {
                if let Some(target) = pod.labels().get(TARGET) {
                    bell.fleet_changed(&pod.metadata.namespace.clone().unwrap_or_default(), target);
                }
            }),
        }
    }

    /// Waits until every store has been filled once.
    ///
    /// # Errors
    /// When a watch has ended, which only happens when the process does.
    pub(crate) async fn ready(&self) -> Result<(), reflector::store::WriterDropped> {
        self.identities.wait_until_ready().await?;
        self.targets.wait_until_ready().await?;
        self.policies.wait_until_ready().await?;
        self.trust_domains.wait_until_ready().await?;
        self.service_accounts.wait_until_ready().await?;
        self.roles.wait_until_ready().await?;
        self.role_bindings.wait_until_ready().await?;
        self.config_maps.wait_until_ready().await?;
        self.deployments.wait_until_ready().await?;
        self.services.wait_until_ready().await?;
        self.budgets.wait_until_ready().await?;
        self.network_policies.wait_until_ready().await?;
        self.namespaces.wait_until_ready().await?;
        self.secrets.wait_until_ready().await?;
        self.beside.wait_until_ready().await?;
        self.pods.wait_until_ready().await
    }
}

type Wake<K> = fn(&Bell, &K, &Store<K>);

struct Watches<'a> {
    client: &'a Client,
    bell: &'a Bell,
    tasks: &'a mut JoinSet<()>,
}

impl Watches<'_> {
    fn follow<K>(&mut self, config: watch::Config, wake: Wake<K>) -> Store<K>
    where
        K: Resource<DynamicType = ()>
            + Lookup<DynamicType = ()>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + Sync
            + 'static,
    {
        let stream = watcher::watcher(Api::<K>::all(self.client.clone()), config);
        self.keep(stream, wake)
    }

    fn keep<K>(
        &mut self,
        stream: impl futures::Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
        wake: Wake<K>,
    ) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone + Send + Sync + 'static,
        <K as Lookup>::DynamicType: Default + Eq + Hash + Clone,
    {
        let (store, mut writer) = reflector::store::<K>();
        let (bell, reader) = (self.bell.clone(), store.clone());
        self.tasks.spawn(async move {
            let mut stream = stream.default_backoff().boxed();
            while let Some(event) = stream.next().await {
                match event {
                    Ok(event) => take(event, &mut writer, &reader, &bell, wake),
                    // The watcher goes on by itself; what is stored stays in use.
                    Err(error) => {
                        tracing::warn!(kind = %<K as Resource>::kind(&()), %error, "watch failed, trying again")
                    }
                }
            }
        });
        store
    }
}

fn take<K>(event: Event<K>, writer: &mut reflector::store::Writer<K>, reader: &Store<K>, bell: &Bell, wake: Wake<K>)
where
    K: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone + 'static,
{
    let touched = match &event {
        // What it said before matters as well: a policy may have left a target.
        Event::Apply(object) | Event::Delete(object) => {
            let old = reader.get(&ObjectRef::from_obj(object));
            old.map(|old| old.as_ref().clone()).into_iter().chain([object.clone()]).collect()
        }
        _ => Vec::new(),
    };
    let refilled = matches!(event, Event::InitDone);
    writer.apply_watcher_event(&event);
    touched.iter().for_each(|object| wake(bell, object, reader));
    if refilled {
        // What was deleted while the watch was away left no event.
        bell.everything();
    }
}

fn wake_owner<K>(bell: &Bell, object: &K, _: &Store<K>)
where
    K: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone + 'static,
{
    let namespace = object.meta().namespace.clone().unwrap_or_default();
    for owner in object.meta().owner_references.iter().flatten() {
        match owner.kind.as_str() {
            "ProtectedTarget" => bell.target(&namespace, &owner.name),
            "AgentIdentity" => bell.identity(&namespace, &owner.name),
            _ => {}
        }
    }
}
