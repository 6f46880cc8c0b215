//! An agent's pod, as far as a binding asks: where it runs, as whom, and whether it still does.
//!
//! Owns the few fields that are read of a pod; all others are dropped while it is read, for a cluster has many.
//! Touches nothing. Invariant: a field that is not there counts as the answer that lets nobody in.

use std::borrow::Cow;
use std::net::IpAddr;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use serde::Deserialize;

/// A pod.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Pod {
    /// Its name, labels and times.
    #[serde(default)]
    pub metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    service_account_name: Option<String>,
    #[serde(default)]
    host_network: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
struct Status {
    phase: Option<String>,
    #[serde(default, rename = "podIPs")]
    addresses: Vec<Address>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
struct Address {
    ip: String,
}

impl Pod {
    /// Without what nobody asks for.
    #[must_use]
    pub fn trimmed(mut self) -> Self {
        let all = self.metadata;
        self.metadata = ObjectMeta {
            name: all.name,
            uid: all.uid,
            labels: all.labels,
            creation_timestamp: all.creation_timestamp,
            deletion_timestamp: all.deletion_timestamp,
            ..ObjectMeta::default()
        };
        self
    }

    /// Whether it runs under that service account.
    #[must_use]
    pub fn runs_as(&self, account: &str) -> bool {
        self.spec.service_account_name.as_deref() == Some(account)
    }

    /// Whether its address is its node's, which every other such pod and the node itself share.
    #[must_use]
    pub const fn is_on_its_nodes_network(&self) -> bool {
        self.spec.host_network
    }

    /// Whether its containers run or may yet: not ended, and not past the time it was given to end in. One that is
    /// being deleted keeps its address until then, and has work to finish.
    #[must_use]
    pub fn is_there(&self, now: Timestamp) -> bool {
        let phase = matches!(self.status.phase.as_deref(), Some("Pending" | "Running"));
        phase && self.ends().is_none_or(|end| now < end)
    }

    /// When it ends by force, where it is being deleted: Kubernetes dates a deletion to the end of its grace period.
    #[must_use]
    pub fn ends(&self) -> Option<Timestamp> {
        self.metadata.deletion_timestamp.as_ref().map(|time| time.0)
    }

    /// Its addresses: one, or one a family.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.status.addresses.iter().filter_map(|address| address.ip.parse::<IpAddr>().ok()).map(|ip| ip.to_canonical())
    }
}

/// What is watched is the API's `Pod`.
impl Resource for Pod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        core::Pod::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        core::Pod::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        core::Pod::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        core::Pod::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
