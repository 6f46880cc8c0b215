//! Names, labels and owners of what the operator makes.
//!
//! Owns their spelling. Touches nothing. Invariant: whatever is made for an object carries its owner
//! reference and the label that the operator's watches select by.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};
use sallyport_crds::{AgentIdentity, ProtectedTarget};

/// The field manager of everything the operator writes.
pub const FIELD_MANAGER: &str = "sallyport";
/// The label all watches of made objects select by.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Its value.
pub const SALLYPORT: &str = "sallyport";
/// The label that says for which target an object was made.
pub const TARGET: &str = "sallyport.dev/target";
/// The annotation that holds the digest of an object as it was last applied.
pub const APPLIED: &str = "sallyport.dev/applied";
/// The annotation of a certificate's Secret that holds the digest of the roots in its ca.crt.
pub const TRUST: &str = "sallyport.dev/trust";
/// The annotation that holds the fingerprint of the authority that signed the certificate in it.
pub const ISSUER: &str = "sallyport.dev/issuer";
/// The label by which a namespace asks for the roots, as ConfigMap of that name; its value is `enabled`.
pub const TRUST_WANTED: &str = "sallyport.dev/trust";
/// The ConfigMap, and the ClusterTrustBundle, of the roots.
pub const TRUST_BUNDLE: &str = "sallyport-trust";
/// The RoleBinding of an agent namespace that lets fleets read its identities.
pub const FLEETS: &str = "sallyport-fleets";
/// The ClusterRole it refers to.
pub const ROSTER_READER: &str = "sallyport-roster-reader";

/// The selector of [`MANAGED_BY`].
#[must_use]
pub fn managed_selector() -> String {
    format!("{MANAGED_BY}={SALLYPORT}")
}

/// Name of the Secret an identity's certificate goes to.
#[must_use]
pub fn identity_secret(identity: &AgentIdentity) -> String {
    identity.spec.certificate.secret_name.clone().unwrap_or_else(|| format!("{}-mtls", identity.name_any()))
}

/// Name of the fleet's Deployment, service account, role and so on.
#[must_use]
pub fn fleet(target: &str) -> String {
    format!("{target}-proxy")
}

/// Name of the Secret with the fleet's server certificate.
#[must_use]
pub fn server_secret(target: &str) -> String {
    format!("{target}-server")
}

/// Name of the Secret with the key of the target's masks.
#[must_use]
pub fn mask_key(target: &str) -> String {
    format!("{target}-mask-key")
}

/// Name of the ConfigMap with the compiled bundle.
#[must_use]
pub fn bundle(target: &str) -> String {
    format!("{target}-bundle")
}

/// Labels that a fleet's pods are selected by.
#[must_use]
pub fn selector(target: &str) -> BTreeMap<String, String> {
    [("app.kubernetes.io/name", "sallyport-proxy"), (TARGET, target)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// Labels of everything made for a target.
#[must_use]
pub fn labels(target: &str) -> BTreeMap<String, String> {
    let mut labels = selector(target);
    labels.insert(MANAGED_BY.to_owned(), SALLYPORT.to_owned());
    labels
}

/// The one label of what is made for an identity.
#[must_use]
pub fn managed() -> BTreeMap<String, String> {
    [(MANAGED_BY.to_owned(), SALLYPORT.to_owned())].into()
}

/// Metadata of an object made for `target`.
#[must_use]
pub fn meta(target: &ProtectedTarget, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: target.namespace(),
        labels: Some(labels(&target.name_any())),
        owner_references: Some(vec![owner(target)]),
        ..ObjectMeta::default()
    }
}

/// The reference that makes `object` the owner of something.
#[must_use]
pub fn owner<K: Resource<DynamicType = ()>>(object: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether `meta` says that it was made for the object with that `uid`.
#[must_use]
pub fn is_owned_by(meta: &ObjectMeta, uid: &str) -> bool {
    meta.owner_references.iter().flatten().any(|owner| owner.controller == Some(true) && owner.uid == uid)
}

/// Whether `meta` says that it was made for an object that had the place of this one before it, and is gone: of a name
/// there is one at a time. The cluster's garbage collector ends what such an object left.
#[must_use]
pub fn is_left_by_a_former(meta: &ObjectMeta, owner: &OwnerReference) -> bool {
    let group = |reference: &OwnerReference| reference.api_version.split('/').next().map(str::to_owned);
    let former = |found: &OwnerReference| {
        found.controller == Some(true)
            && found.uid != owner.uid
            && (group(found), &found.kind, &found.name) == (group(owner), &owner.kind, &owner.name)
    };
    let references = meta.owner_references.as_deref().unwrap_or_default();
    matches!(references, [only] if former(only))
}

/// The annotations of a certificate's Secret.
#[must_use]
pub fn trust_annotations(trust: String, issuer: String) -> BTreeMap<String, String> {
    [(TRUST, trust), (ISSUER, issuer)].map(|(key, value)| (key.to_owned(), value)).into()
}
