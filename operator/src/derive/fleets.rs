//! Which fleets may read the identities of which namespace.
//!
//! Owns the `sallyport-fleets` RoleBindings. Touches nothing. Invariant: a fleet may read a namespace's
//! identities exactly as long as a policy on its target speaks of that namespace.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use sallyport_crds::{AccessPolicy, ProtectedTarget};

use super::{compile, names};

/// The RoleBindings there should be, by namespace, in order.
pub fn role_bindings<'a>(
    targets: impl IntoIterator<Item = &'a ProtectedTarget>,
    policies: impl IntoIterator<Item = &'a AccessPolicy>,
) -> Vec<RoleBinding> {
    let live: BTreeMap<_, _> = targets
        .into_iter()
        .filter(|target| target.metadata.deletion_timestamp.is_none())
        .map(|target| ((target.namespace().unwrap_or_default(), target.name_any()), target))
        .collect();
    let mut readers: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    for policy in policies {
        let home = policy.namespace().unwrap_or_default();
        for named in &policy.spec.target_refs {
            let fleet = (home.clone(), named.name.clone());
            let Some(target) = live.get(&fleet).filter(|_| compile::concerns(policy, &named.name)) else { continue };
            let Ok(entry) = compile::entry(policy, target) else { continue };
            for subject in &entry.subjects {
                readers.entry(compile::namespace_of(subject).to_owned()).or_default().insert(fleet.clone());
            }
        }
    }
    readers.into_iter().map(|(namespace, fleets)| role_binding(namespace, fleets)).collect()
}

fn role_binding(namespace: String, fleets: BTreeSet<(String, String)>) -> RoleBinding {
    let subject = |(namespace, target): (String, String)| Subject {
        kind: "ServiceAccount".to_owned(),
        name: names::fleet(&target),
        namespace: Some(namespace),
        api_group: None,
    };
    RoleBinding {
        metadata: ObjectMeta {
            name: Some(names::FLEETS.to_owned()),
            namespace: Some(namespace),
            labels: Some(names::managed()),
            ..ObjectMeta::default()
        },
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: "ClusterRole".to_owned(),
            name: names::ROSTER_READER.to_owned(),
        },
        subjects: Some(fleets.into_iter().map(subject).collect()),
    }
}
