//! The objects that a target has: its fleet and what the fleet needs.
//!
//! Owns their shape. Touches nothing. Invariant: each is owned by the target, labelled, and allowed
//! nothing that the fleet does not use.

mod access;
mod arguments;
mod deployment;
mod network;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use sallyport_crds::ProtectedTarget;
use serde::Serialize;

use super::names;

pub use access::foundations;
pub use deployment::{deployment, mounted};
pub use network::frontage;

/// The key of the bundle in its ConfigMap.
pub const BUNDLE_KEY: &str = "bundle.json";

/// One object made for a target.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[allow(missing_docs, reason = "the variants are the kinds they hold")]
pub enum Child {
    ServiceAccount(ServiceAccount),
    Role(Role),
    RoleBinding(RoleBinding),
    ConfigMap(ConfigMap),
    Deployment(Box<Deployment>),
    Service(Box<Service>),
    PodDisruptionBudget(PodDisruptionBudget),
    NetworkPolicy(NetworkPolicy),
}

impl Child {
    /// Its metadata.
    #[must_use]
    pub const fn meta(&self) -> &ObjectMeta {
        match self {
            Self::ServiceAccount(object) => &object.metadata,
            Self::Role(object) => &object.metadata,
            Self::RoleBinding(object) => &object.metadata,
            Self::ConfigMap(object) => &object.metadata,
            Self::Deployment(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
            Self::PodDisruptionBudget(object) => &object.metadata,
            Self::NetworkPolicy(object) => &object.metadata,
        }
    }
}

/// The compiled bundle, where replicas watch it.
#[must_use]
pub fn bundle(target: &ProtectedTarget, json: String) -> Child {
    Child::ConfigMap(ConfigMap {
        metadata: names::meta(target, names::bundle(&target.name_any())),
        data: Some([(BUNDLE_KEY.to_owned(), json)].into()),
        ..ConfigMap::default()
    })
}
