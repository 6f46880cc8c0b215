//! Writing certificates: a new key and its certificate go into one Secret, at once.
//!
//! Owns that write. Touches the API server and the authority. Invariant: a Secret that appeared or changed
//! since it was looked at is not overwritten.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{NamespaceResourceScope, PartialObjectMeta};
use kube::{Resource, ResourceExt};

use kube::runtime::events::{Event, EventType};
use sallyport_crds::conditions::ROTATING;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::controllers::Context;
use crate::derive::certificate::{Held, Order, Plan, RENEWAL};
use crate::derive::names::{self, FIELD_MANAGER};
use crate::fault::Fault;
use crate::issue::inspect::inspect;
use crate::issue::leaf::{Role, Subject};
use crate::issue::{Authority, CA, tls_secret};
use crate::seen::{Known, Place};

/// What is to be issued, and into which Secret.
#[derive(Debug)]
pub(crate) struct Issue<'a> {
    pub(crate) order: &'a Order,
    pub(crate) subject: Subject<'a>,
    pub(crate) metadata: ObjectMeta,
}

/// Metadata of a certificate's Secret.
pub(crate) fn metadata(
    name: &str,
    namespace: &str,
    owner: OwnerReference,
    labels: BTreeMap<String, String>,
) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        labels: Some(labels),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    }
}

/// Where a certificate is, and whose it is to be.
#[derive(Debug)]
pub(crate) struct Seat<'a> {
    pub(crate) place: Place,
    pub(crate) owner: &'a str,
    pub(crate) role: Role,
    /// Taken once: certificate and bundle are of one authority, also while another comes into force.
    pub(crate) authority: &'a Arc<Authority>,
}

/// What is there, at which version.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) held: Held,
    version: Option<String>,
}

impl Found {
    /// In no Secret.
    pub(crate) const fn elsewhere(held: Held) -> Self {
        Self { held, version: None }
    }
}

/// What came of a write.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It was written, and holds this.
    Written(Held),
    /// Somebody had made one of that name; it holds this, and was left alone.
    Taken(Held),
}

/// What is there for that object, from memory where that is enough.
pub(crate) async fn look<K>(
    context: &Context,
    secrets: &Api<Secret>,
    seat: &Seat<'_>,
    object: &K,
) -> Result<Found, Fault>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let found = match context.seen.known(&context.stores.secrets, &seat.place, seat.owner, seat.authority) {
        Known::Held(held, version) => Found { held, version: Some(version) },
        Known::Absent => Found::elsewhere(Held::Missing),
        Known::Nothing => read(context, secrets, seat).await?,
    };
    let cleared = found.held == Held::Foreign && clear(context, object, secrets, seat).await?;
    Ok(if cleared { Found::elsewhere(Held::Missing) } else { found })
}

async fn read(context: &Context, secrets: &Api<Secret>, seat: &Seat<'_>) -> Result<Found, Fault> {
    let secret = secrets.get_opt(&seat.place.1).await?;
    let held = inspect(secret.as_ref(), seat.owner, seat.role, seat.authority);
    match &secret {
        Some(secret) => context.seen.saw(secret, seat.owner, seat.authority, held.clone()),
        None => context.seen.forget(&seat.place),
    }
    Ok(Found { held, version: secret.and_then(|secret| secret.metadata.resource_version) })
}

/// Removes a Secret that an object of this one's name left behind, as the cluster's garbage collector would in its time:
/// it can be late, and the place is taken until then.
async fn clear<K>(context: &Context, object: &K, secrets: &Api<Secret>, seat: &Seat<'_>) -> Result<bool, Fault>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let left = |secret: &Secret| names::is_left_by_a_former(&secret.metadata, &names::owner(object));
    let Some(secret) = secrets.get_opt(&seat.place.1).await?.filter(left) else { return Ok(false) };
    // Who is the former one is the API server's to say: this object may itself be gone, and the Secret its successor's.
    let now: Option<PartialObjectMeta<K>> =
        Api::namespaced(context.client.clone(), &seat.place.0).get_metadata_opt(&object.name_any()).await?;
    if now.and_then(|now| now.metadata.uid).as_deref() != Some(seat.owner) {
        return Ok(false);
    }
    tracing::info!(secret = seat.place.1, namespace = seat.place.0, "a former object left it: removed");
    remove(context, secrets, &secret.metadata).await?;
    context.seen.forget(&seat.place);
    Ok(true)
}

/// Deletes a Secret, if it is still the one that was looked at.
pub(crate) async fn remove(context: &Context, secrets: &Api<Secret>, seen: &ObjectMeta) -> Result<(), Fault> {
    let only = Preconditions { uid: seen.uid.clone(), resource_version: seen.resource_version.clone() };
    let params = DeleteParams { preconditions: Some(only), ..DeleteParams::background() };
    match secrets.delete(seen.name.as_deref().unwrap_or_default(), &params).await {
        Ok(_) => context.metrics.wrote("Secret"),
        Err(kube::Error::Api(status)) if status.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Issues, and writes the Secret: made if there was none, replaced if it is still the one that was found.
pub(crate) async fn write(
    context: &Context,
    secrets: &Api<Secret>,
    seat: &Seat<'_>,
    found: &Found,
    issue: Issue<'_>,
) -> Result<Outcome, Fault> {
    let issued = seat.authority.issue(issue.order, seat.role, issue.subject)?;
    let mut secret = tls_secret(issue.metadata, &issued, seat.authority.bundle());
    let trust = names::trust_annotations(seat.authority.trust_digest(), seat.authority.facts().fingerprint.clone());
    secret.metadata.annotations.get_or_insert_default().extend(trust);
    let written = match &found.version {
        // Made, not applied: an apply would overwrite a Secret that somebody made in between.
        None => {
            let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
            secrets.create(&params, &secret).await
        }
        Some(version) => {
            // With the version we looked at: a conflict if it changed or was made anew since.
            secret.metadata.resource_version = Some(version.clone());
            secrets.patch(&seat.place.1, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&secret)).await
        }
    };
    match written {
        Ok(written) => {
            context.metrics.wrote("Secret");
            let held = inspect(Some(&written), seat.owner, seat.role, seat.authority);
            context.seen.saw(&written, seat.owner, seat.authority, held.clone());
            Ok(Outcome::Written(held))
        }
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            Ok(Outcome::Taken(read(context, secrets, seat).await?.held))
        }
        Err(error) => {
            context.seen.forget(&seat.place);
            Err(error.into())
        }
    }
}

/// Writes the current roots beside a certificate that stays: nothing else of the Secret changes.
pub(crate) async fn write_trust(
    context: &Context,
    secrets: &Api<Secret>,
    seat: &Seat<'_>,
    found: &Found,
) -> Result<Held, Fault> {
    let mut annotations = json!({ names::TRUST: seat.authority.trust_digest() });
    if let (Role::Fleet, Some(map)) = (seat.role, annotations.as_object_mut()) {
        // Who signed an agent's is of no matter to a rotation: its end is known.
        map.insert(names::ISSUER.to_owned(), json!(seat.authority.facts().fingerprint));
    }
    let patch = json!({
        // With the version we looked at: a conflict if it changed since.
        "metadata": {"resourceVersion": found.version, "annotations": annotations},
        "data": {CA: ByteString(seat.authority.bundle().as_bytes().to_vec())},
    });
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    match secrets.patch(&seat.place.1, &params, &Patch::Merge(&patch)).await {
        Ok(written) => {
            context.metrics.wrote("Secret");
            let held = inspect(Some(&written), seat.owner, seat.role, seat.authority);
            context.seen.saw(&written, seat.owner, seat.authority, held.clone());
            Ok(held)
        }
        Err(error) => {
            context.seen.forget(&seat.place);
            Err(error.into())
        }
    }
}

/// Whether a certificate stays whose Secret has other roots than the current ones.
pub(crate) fn lacks_trust(held: &Held, plan: Option<&Plan>) -> bool {
    let stays = matches!(plan, Some(Plan::Keep { .. }));
    stays && matches!(held, Held::Certificate(facts) if !facts.trust_is_current)
}

/// Tells of a certificate that was replaced for more than its age. What happens to every one in its time is counted:
/// an event for each would be a third write beside Secret and status.
pub(crate) async fn announce<K: Resource<DynamicType = ()>>(
    context: &Context,
    object: &K,
    order: &Order,
    held: &Held,
    told: &[Condition],
) {
    let known = !told.is_empty();
    let (type_, reason, why) = match held {
        Held::Missing if !known => return,
        Held::Missing => (EventType::Warning, "SecretDeleted", "its Secret was gone"),
        Held::Unreadable(why) => (EventType::Warning, "SecretChanged", why.as_str()),
        Held::Certificate(facts) if !facts.key_matches => (EventType::Warning, "SecretChanged", order.because),
        _ if told.iter().any(|condition| condition.type_ == ROTATING) => {
            (EventType::Normal, "Rotated", "it can be written again")
        }
        _ if order.because == RENEWAL => return,
        _ => (EventType::Normal, "Issued", order.because),
    };
    let note = format!("a new certificate was issued, valid until {}: {why}", order.not_after);
    let (note, reason) = (Some(note), reason.to_owned());
    context.publish(object, &Event { type_, reason, note, action: "Issue".to_owned(), secondary: None }).await;
}
