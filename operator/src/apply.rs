//! Writing: server-side apply with one field manager, and only what is not there already.
//!
//! Owns every write of children, certificates and statuses. Touches the API server. Invariant: an object
//! that is not ours is never written, and an identical one is never rewritten.

use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::derive::names::{self, APPLIED, FIELD_MANAGER};
use crate::fault::Fault;

/// Kinds that are written for a target.
pub(crate) trait Made:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + Serialize + DeserializeOwned
{
}
impl<K> Made for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned
{
}

/// What came of an apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    /// It was so already; nothing was sent.
    Unchanged,
    /// It was written.
    Written,
    /// An object of that name exists and is not ours: it was left alone.
    NotOurs,
}

/// Makes `desired` so. `store` is what is known of the kind.
///
/// # Errors
/// When the API server refuses or does not answer.
pub(crate) async fn apply<K: Made>(client: &Client, store: &Store<K>, desired: &K) -> Result<Applied, Fault> {
    let (name, namespace) = (desired.name_any(), desired.namespace().unwrap_or_default());
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    let wanted = sealed(desired)?;
    let known = store.get(&ObjectRef::new(&name).within(&namespace));
    // What is not in the store may exist without our label: the store sees labelled objects alone.
    let (actual, seen) = match known {
        Some(known) => (Some(known.as_ref().clone()), true),
        None => (api.get_opt(&name).await?, false),
    };
    if let Some(actual) = &actual {
        if !same_owner(actual, desired) {
            return Ok(Applied::NotOurs);
        }
        if is_current(&serde_json::to_value(actual)?, &wanted) {
            return Ok(Applied::Unchanged);
        }
    }
    // The first write is not forced: whoever makes an object of that name in between keeps it.
    let params = PatchParams::apply(FIELD_MANAGER);
    let params = if actual.is_some() || seen { params.force() } else { params };
    api.patch(&name, &params, &Patch::Apply(&wanted)).await?;
    Ok(Applied::Written)
}

/// Writes the status of `object` (its fields in `status` alone), and returns the new resource version; nothing
/// is sent when `before` says the same.
///
/// # Errors
/// When the API server refuses or does not answer.
pub(crate) async fn status<K: Made, S: Serialize + PartialEq>(
    client: &Client,
    object: &K,
    before: Option<&S>,
    status: &S,
) -> Result<Option<String>, Fault> {
    let written = write_status(client, object, None, before, status).await?;
    Ok(written.and_then(|written| written.resource_version()))
}

async fn write_status<K: Made, S: Serialize + PartialEq>(
    client: &Client,
    object: &K,
    version: Option<String>,
    before: Option<&S>,
    status: &S,
) -> Result<Option<K>, Fault> {
    if before == Some(status) {
        return Ok(None);
    }
    let api: Api<K> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let mut metadata = json!({"name": object.name_any()});
    // Of the UID a status takes no notice: without a version, one that comes late is the next object's of that name,
    // until that one's own is written.
    if let (Some(metadata), Some(version)) = (metadata.as_object_mut(), version) {
        metadata.insert("resourceVersion".to_owned(), json!(version));
    }
    let (api_version, kind) = (K::api_version(&()), K::kind(&()));
    let body = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "status": status});
    let params = PatchParams::apply(FIELD_MANAGER).force();
    Ok(Some(api.patch_status(&object.name_any(), &params, &Patch::Apply(&body)).await?))
}

/// The same for a kind whose whole status is the operator's: what somebody else put beside our fields, which a
/// server-side apply leaves alone, is taken out; and it is a conflict when the object changed, or was deleted and made
/// again, since it was looked at.
///
/// # Errors
/// The same.
pub(crate) async fn whole_status<K: Made, S: Serialize + PartialEq>(
    client: &Client,
    object: &K,
    before: Option<&S>,
    status: &S,
) -> Result<Option<String>, Fault> {
    let version = object.resource_version();
    let Some(written) = write_status(client, object, version, before, status).await? else { return Ok(None) };
    let (wanted, found) = (serde_json::to_value(status)?, serde_json::to_value(&written)?);
    let (Some(fields), Some(found)) = (wanted.as_object(), found.get("status").and_then(Value::as_object)) else {
        return Ok(written.resource_version());
    };
    if fields == found {
        return Ok(written.resource_version());
    }
    tracing::warn!(object = object.name_any(), "somebody else has written to its status: it is put right");
    let mut body = wanted.clone();
    for key in found.keys().filter(|key| !fields.contains_key(*key)) {
        if let Some(body) = body.as_object_mut() {
            body.insert(key.clone(), Value::Null);
        }
    }
    let api: Api<K> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let patch = json!({"metadata": {"resourceVersion": written.resource_version()}, "status": body});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let written = api.patch_status(&object.name_any(), &params, &Patch::Merge(&patch)).await?;
    Ok(written.resource_version())
}

/// Whether both were made for the same object (or neither for any).
fn same_owner<K: Resource>(actual: &K, desired: &K) -> bool {
    let owner = desired.meta().owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    match owner {
        Some(owner) => names::is_owned_by(actual.meta(), &owner.uid),
        None => {
            actual.meta().labels.as_ref().and_then(|labels| labels.get(names::MANAGED_BY)).map(String::as_str)
                == Some(names::SALLYPORT)
        }
    }
}

/// The object as it is sent: with the digest of itself.
fn sealed<K: Made>(desired: &K) -> Result<Value, Fault> {
    let mut value = serde_json::to_value(desired)?;
    if let Some(object) = value.as_object_mut() {
        object.insert("apiVersion".to_owned(), json!(K::api_version(&())));
        object.insert("kind".to_owned(), json!(K::kind(&())));
        // An empty status would claim fields that the cluster writes.
        object.remove("status");
    }
    let digest = Sha256::digest(serde_json::to_vec(&value)?);
    let digest: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(APPLIED.to_owned(), json!(digest));
        }
    }
    Ok(value)
}

/// The digest says that we sent this last (a field taken out shows there alone), the content that nobody changed it.
fn is_current(actual: &Value, wanted: &Value) -> bool {
    let pointer = "/metadata/annotations/sallyport.dev~1applied";
    actual.pointer(pointer) == wanted.pointer(pointer) && holds(actual, wanted)
}

/// Whether all of `wanted` is in `actual`; the API server adds defaults.
fn holds(actual: &Value, wanted: &Value) -> bool {
    match (actual, wanted) {
        (Value::Object(actual), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| match actual.get(key) {
                Some(found) => holds(found, value),
                // Types of list items are not repeated; empty maps are not kept.
                None => {
                    key == "apiVersion" || key == "kind" || value.as_object().is_some_and(serde_json::Map::is_empty)
                }
            })
        }
        (Value::Array(actual), Value::Array(wanted)) => {
            actual.len() == wanted.len() && actual.iter().zip(wanted).all(|(actual, wanted)| holds(actual, wanted))
        }
        _ => actual == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_that_the_server_adds_are_no_difference() {
        let wanted = json!({"spec": {"ports": [{"port": 1}], "template": {"metadata": {}}}});
        let actual = json!({"spec": {"ports": [{"port": 1, "protocol": "TCP"}], "template": {}, "type": "ClusterIP"}});
        assert!(holds(&actual, &wanted));
    }

    #[test]
    fn an_edit_by_somebody_else_is_a_difference() {
        let wanted = json!({"spec": {"replicas": 2, "list": ["a"]}});
        assert!(!holds(&json!({"spec": {"replicas": 3, "list": ["a"]}}), &wanted));
        assert!(!holds(&json!({"spec": {"replicas": 2, "list": ["a", "b"]}}), &wanted));
        assert!(!holds(&json!({"spec": {"replicas": 2}}), &wanted));
    }

    #[test]
    fn a_field_that_is_no_longer_wanted_shows_in_the_digest() {
        let seal = |digest: &str, spec: Value| json!({"metadata": {"annotations": {APPLIED: digest}}, "spec": spec});
        let actual = seal("1", json!({"a": 1, "b": 2}));
        assert!(is_current(&actual, &seal("1", json!({"a": 1}))));
        assert!(!is_current(&actual, &seal("2", json!({"a": 1}))));
    }
}
