//! Trust where it is needed: the roots as ConfigMaps, and as a ClusterTrustBundle.
//!
//! Owns their form. Touches nothing. Invariant: a namespace has them exactly as long as it asks for them.

use std::collections::BTreeSet;

use k8s_openapi::api::certificates::v1::{ClusterTrustBundle, ClusterTrustBundleSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use kube::core::PartialObjectMeta;
use sallyport_crds::conditions::{Finding, PUBLISHED, reason};

use super::names;
use super::rotation::Refusal;

/// Key of the roots in the ConfigMap.
const KEY: &str = "ca.crt";

/// The namespaces that ask for the roots and are not being deleted, in order.
pub fn asking<'a>(namespaces: impl IntoIterator<Item = &'a PartialObjectMeta<Namespace>>) -> BTreeSet<String> {
    let asks = |namespace: &&PartialObjectMeta<Namespace>| {
        namespace.labels().get(names::TRUST_WANTED).is_some_and(|value| value == "enabled")
            && namespace.metadata.deletion_timestamp.is_none()
    };
    namespaces.into_iter().filter(asks).map(ResourceExt::name_any).collect()
}

/// A place that asks for the roots and does not have them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unpublished {
    /// Kind of the object there.
    pub kind: &'static str,
    /// Its namespace, if it has one.
    pub namespace: Option<String>,
    /// A word for machines.
    pub reason: &'static str,
    /// A sentence for people.
    pub why: String,
}

impl Unpublished {
    /// The object of that kind is somebody else's.
    #[must_use]
    pub fn not_ours(kind: &'static str, namespace: Option<&str>) -> Self {
        let place = place(kind, namespace);
        let why = format!(
            "{place} exists and is somebody else's: it is left alone, and pods that read it do not get the roots of Sallyport; delete it if nobody needs it"
        );
        Self { kind, namespace: namespace.map(str::to_owned), reason: reason::NOT_OURS, why }
    }

    /// It could not be written.
    #[must_use]
    pub fn refused(kind: &'static str, namespace: Option<&str>, refusal: &Refusal) -> Self {
        let why = format!("{} cannot be written: {}", place(kind, namespace), refusal.said);
        Self { kind, namespace: namespace.map(str::to_owned), reason: refusal.reason, why }
    }
}

fn place(kind: &str, namespace: Option<&str>) -> String {
    let slash = namespace.map(|namespace| format!("{namespace}/")).unwrap_or_default();
    format!("{kind} {slash}{}", names::TRUST_BUNDLE)
}

/// What to tell of them all; nothing where there is none.
#[must_use]
pub fn finding(unpublished: &[Unpublished]) -> Option<Finding> {
    let first = unpublished.first()?;
    let others = match unpublished.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    Some(Finding::no(PUBLISHED, first.reason, format!("{}{others}", first.why)))
}

/// The roots, for pods of one namespace.
#[must_use]
pub fn config_map(namespace: &str, bundle: &str) -> ConfigMap {
    let metadata = ObjectMeta { namespace: Some(namespace.to_owned()), ..metadata() };
    ConfigMap { metadata, data: Some([(KEY.to_owned(), bundle.to_owned())].into()), ..ConfigMap::default() }
}

/// The roots, for pods that project them whatever their namespace.
#[must_use]
pub fn cluster_trust_bundle(bundle: &str) -> ClusterTrustBundle {
    let spec = ClusterTrustBundleSpec { signer_name: None, trust_bundle: bundle.to_owned() };
    ClusterTrustBundle { metadata: metadata(), spec }
}

fn metadata() -> ObjectMeta {
    ObjectMeta { name: Some(names::TRUST_BUNDLE.to_owned()), labels: Some(names::managed()), ..ObjectMeta::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    fn namespace(name: &str, value: Option<&str>) -> PartialObjectMeta<Namespace> {
        let labels = value.map(|value| [(names::TRUST_WANTED.to_owned(), value.to_owned())].into());
        let metadata = ObjectMeta { name: Some(name.to_owned()), labels, ..ObjectMeta::default() };
        PartialObjectMeta { metadata, ..PartialObjectMeta::default() }
    }

    #[test]
    fn a_namespace_that_asks_has_the_roots_and_no_other() {
        let mut ending = namespace("d", Some("enabled"));
        ending.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        let all = [
            namespace("b", Some("enabled")),
            namespace("a", Some("enabled")),
            namespace("c", Some("no")),
            namespace("e", None),
            ending,
        ];
        assert_eq!(asking(&all).into_iter().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(config_map("a", "PEM").data.unwrap()[KEY], "PEM");
    }
}
