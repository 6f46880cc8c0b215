//! Trust where it is needed: the roots as ConfigMaps, and as a ClusterTrustBundle.
//!
//! Owns their form. Touches nothing. Invariant: a namespace has them exactly as long as it asks for them.

use std::collections::BTreeSet;

use k8s_openapi::api::certificates::v1::{ClusterTrustBundle, ClusterTrustBundleSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use kube::core::PartialObjectMeta;

use super::names;

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
