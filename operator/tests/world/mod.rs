//! A whole cluster as a value, and what derive makes of it.
//!
//! Owns the joining of the pure functions that controllers join over the network. Touches nothing. Invariant:
//! objects come in any order and go out in one.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::rbac::v1::RoleBinding;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use sallyport_crds::{
    AccessPolicy, AccessPolicyStatus, AgentIdentity, AgentIdentityStatus, BundleSourceKind, Delivery, KeyAlgorithm,
    ProtectedTarget,
};
use sallyport_operator::derive::certificate::{Facts, Held, Names, Plan};
use sallyport_operator::derive::pods::Pod;
use sallyport_operator::derive::refs::{self, Found, Reference, References};
use sallyport_operator::derive::target::{Fleet, TargetPlan, TargetView};
use sallyport_operator::derive::{Settings, compile, fleets, identity, policy, target};
use serde::Deserialize;

/// The cluster.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct World {
    pub now: Timestamp,
    /// What the golden file is to show: status, bundle, fleets, certificates, or a kind of child.
    #[serde(default)]
    pub show: Vec<String>,
    #[serde(default)]
    pub identities: Vec<AgentIdentity>,
    #[serde(default)]
    pub targets: Vec<ProtectedTarget>,
    #[serde(default)]
    pub policies: Vec<AccessPolicy>,
    /// Secrets and ConfigMaps people made, as `namespace/kind/name`, with the keys they have.
    #[serde(default)]
    pub present: BTreeMap<String, Vec<String>>,
    /// Certificates held, by `namespace/secret`.
    #[serde(default)]
    pub held: BTreeMap<String, HeldCertificate>,
    /// A cluster of a version that does not know PodCertificateRequest.
    #[serde(default)]
    pub before_pod_certificates: bool,
    /// Pods, by `namespace/target`.
    #[serde(default)]
    pub pods: BTreeMap<String, BTreeSet<String>>,
    /// Pods that identities may be bound to, each with its namespace; absent while they are not known yet.
    #[serde(default)]
    pub agent_pods: Option<Vec<Pod>>,
    /// Replicas that accept sessions, by `namespace/target`.
    #[serde(default)]
    pub ready: BTreeMap<String, i32>,
    /// Objects of a fleet's names that belong to somebody else, by `namespace/target`.
    #[serde(default)]
    pub foreign: BTreeMap<String, Vec<String>>,
}

/// A certificate as the golden files write it; what is left out is as it should be.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HeldCertificate {
    pub from: Timestamp,
    #[serde(default = "one_hour")]
    pub seconds: i64,
    #[serde(default)]
    pub uri: Option<String>,
    #[serde(default)]
    pub uid: Option<String>,
    #[serde(default)]
    pub dns: Vec<String>,
    #[serde(default)]
    pub key: KeyAlgorithm,
    #[serde(default)]
    pub foreign_authority: bool,
    #[serde(default)]
    pub somebody_elses: bool,
}

fn one_hour() -> i64 {
    3600
}

/// What comes of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub identities: BTreeMap<String, identity::IdentityPlan>,
    pub targets: BTreeMap<String, TargetPlan>,
    pub policies: BTreeMap<String, AccessPolicyStatus>,
    pub fleets: Vec<RoleBinding>,
}

pub fn settings() -> Settings {
    Settings {
        trust_domain: "cluster.local".into(),
        cluster_domain: "cluster.local".into(),
        proxy_image: "sallyport-proxy:dev".into(),
        since: k8s_openapi::jiff::Timestamp::MIN,
    }
}

pub fn key<K: kube::Resource>(object: &K) -> String {
    format!(
        "{}/{}",
        object.meta().namespace.as_deref().unwrap_or_default(),
        object.meta().name.as_deref().unwrap_or_default()
    )
}

impl World {
    pub fn outcome(&self) -> Outcome {
        let settings = settings();
        let identities = self.identities.iter().map(|it| {
            let secret = sallyport_operator::derive::names::identity_secret(it);
            let held = match it.spec.certificate.delivery {
                Delivery::Secret => self.held(&it.namespace().unwrap_or_default(), &secret),
                Delivery::PodCertificate => Held::InPods { served: !self.before_pod_certificates },
            };
            (key(it), identity::plan(it, &held, self.pods_beside(it).as_deref(), &settings, self.now))
        });
        let targets = self.targets.iter().map(|it| (key(it), target::plan(&self.view(it), &settings, self.now)));
        let policies = self.policies.iter().map(|it| (key(it), self.policy(it, &settings)));
        Outcome {
            identities: identities.collect(),
            targets: targets.collect(),
            policies: policies.collect(),
            fleets: fleets::role_bindings(&self.targets, &self.policies),
        }
    }

    /// The same world after the operator has done and told all of it.
    pub fn after(&self) -> Self {
        let outcome = self.outcome();
        let mut next = self.clone();
        for identity in &mut next.identities {
            let plan = &outcome.identities[&key(identity)];
            identity.status = Some(plan.status.clone());
            if let Some(Plan::Issue(order)) = &plan.certificate {
                let at = format!("{}/{}", identity.namespace().unwrap(), plan.secret);
                next.held.insert(at, held_as(order, identity.metadata.uid.clone()));
            }
        }
        for target in &mut next.targets {
            let plan = &outcome.targets[&key(target)];
            let replicas = target.status.take().map(|status| status.replicas).unwrap_or_default();
            let mut status = plan.status.clone();
            status.replicas = replicas.into_iter().filter(|entry| !plan.departed.contains(&entry.pod)).collect();
            target.status = Some(status);
            if let Some(Plan::Issue(order)) = &plan.server {
                next.held.insert(format!("{}-server", key(target)), held_as(order, None));
            }
        }
        for policy in &mut next.policies {
            policy.status = Some(outcome.policies[&key(policy)].clone());
        }
        next
    }

    /// The pods of an identity's namespace.
    fn pods_beside(&self, identity: &AgentIdentity) -> Option<Vec<Arc<Pod>>> {
        let here = |pod: &&Pod| pod.metadata.namespace == identity.metadata.namespace;
        Some(self.agent_pods.as_ref()?.iter().filter(here).cloned().map(Arc::new).collect())
    }

    fn view<'a>(&'a self, target: &'a ProtectedTarget) -> TargetView<'a> {
        let namespace = target.namespace().unwrap_or_default();
        let policies = self.policies.iter().filter(|policy| policy.namespace() == target.namespace()).collect();
        TargetView {
            target,
            policies,
            references: self.references(target),
            server: self.held(&namespace, &format!("{}-server", target.name_any())),
            fleet: self.fleet(target),
            foreign: self.foreign.get(&key(target)).cloned().unwrap_or_default(),
        }
    }

    fn fleet(&self, target: &ProtectedTarget) -> Fleet {
        Fleet {
            pods: self.pods.get(&key(target)).cloned().unwrap_or_default(),
            ready: self.ready.get(&key(target)).copied().unwrap_or(0),
            mounted: BTreeSet::new(),
        }
    }

    fn references(&self, target: &ProtectedTarget) -> References {
        let namespace = target.namespace().unwrap_or_default();
        refs::of(target).into_iter().map(|reference| (reference.clone(), self.found(&namespace, &reference))).collect()
    }

    fn found(&self, namespace: &str, reference: &Reference) -> Found {
        let kind = if reference.kind == BundleSourceKind::Secret { "Secret" } else { "ConfigMap" };
        let Some(keys) = self.present.get(&format!("{namespace}/{kind}/{}", reference.name)) else {
            return Found::Missing;
        };
        let lacking: Vec<_> = reference.keys.iter().filter(|key| !keys.contains(key)).cloned().collect();
        if lacking.is_empty() { Found::Complete } else { Found::Lacks(lacking) }
    }

    fn held(&self, namespace: &str, secret: &str) -> Held {
        let Some(held) = self.held.get(&format!("{namespace}/{secret}")) else { return Held::Missing };
        if held.somebody_elses {
            return Held::Foreign;
        }
        let mut dns = held.dns.clone();
        dns.sort();
        Held::Certificate(Facts {
            serial: "0a0b0c".into(),
            not_before: held.from,
            not_after: held.from + Duration::from_secs(held.seconds.unsigned_abs()),
            names: Names { uris: held.uri.iter().cloned().collect(), dns },
            uid: held.uid.clone(),
            from_our_authority: !held.foreign_authority,
            key_algorithm: Some(held.key),
            trust_is_current: true,
            key_matches: true,
        })
    }

    fn policy(&self, policy: &AccessPolicy, settings: &Settings) -> AccessPolicyStatus {
        let named = |target: &&ProtectedTarget| {
            target.namespace() == policy.namespace()
                && policy.spec.target_refs.iter().any(|named| named.name == target.name_any())
        };
        let parts: Vec<_> = self
            .targets
            .iter()
            .filter(named)
            .map(|target| {
                let neighbours = self.policies.iter().filter(|it| it.namespace() == target.namespace());
                (target, compile::bundle(target, neighbours, settings), self.fleet(target))
            })
            .collect();
        let attachments: Vec<_> =
            parts.iter().map(|(target, bundle, fleet)| policy::Attachment { target, bundle, fleet }).collect();
        policy::status(policy, &attachments, &self.identities, self.now)
    }
}

fn held_as(order: &sallyport_operator::derive::certificate::Order, uid: Option<String>) -> HeldCertificate {
    HeldCertificate {
        from: order.not_before,
        seconds: order.not_after.as_second() - order.not_before.as_second(),
        uri: order.names.uris.first().cloned(),
        uid,
        dns: order.names.dns.clone(),
        key: order.key_algorithm,
        foreign_authority: false,
        somebody_elses: false,
    }
}

/// Status of an identity, for those who look at it alone.
pub fn identity_status(outcome: &Outcome, name: &str) -> AgentIdentityStatus {
    outcome.identities[name].status.clone()
}
