//! Keeps the roots where they are asked for: a ConfigMap in labelled namespaces, a ClusterTrustBundle where served.
//!
//! Owns that loop. Touches the API server. Invariant: a ConfigMap or bundle of that name that is not ours is
//! left alone and told of; what nobody asks for any more is deleted.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::events::{Event, EventType};
use kube::{Resource, ResourceExt};
use sallyport_crds::conditions::{PUBLISHED, reason};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Context, DEADLINE};
use crate::apply::{self, Applied};
use crate::bell::Bell;
use crate::derive::names::{self, FIELD_MANAGER};
use crate::derive::publish::{self, Unpublished};
use crate::fault::Fault;

/// Without a waking: a bundle that somebody edited, an API server that serves more than it did.
const RECHECK: Duration = Duration::from_secs(60);
/// After a refusal.
const RETRY: Duration = Duration::from_secs(15);
const CONFIG_MAP: &str = "ConfigMap";
const CLUSTER_BUNDLE: &str = "ClusterTrustBundle";

pub(crate) async fn run(context: Arc<Context>, bell: Bell, stop: CancellationToken) {
    let (rung, mut failures) = (bell.publish_rung(), 0);
    loop {
        let start = tokio::time::Instant::now();
        let result = tokio::time::timeout(DEADLINE, reconcile(&context, failures))
            .await
            .unwrap_or(Err(Fault::Deadline(DEADLINE)));
        let outcome = result.as_ref().err().map_or("ok", Fault::label);
        context.metrics.reconciled("Trust", outcome, start.elapsed().as_secs_f64());
        let pause = match result {
            Ok(unpublished) => {
                failures = 0;
                let refused = unpublished.iter().any(|place| place.reason != reason::NOT_OURS);
                tell(&context, &bell, unpublished).await;
                if refused { RETRY } else { RECHECK }
            }
            Err(fault) => {
                tracing::warn!(%fault, "the roots are not published everywhere, trying again");
                failures += 1;
                fault.pause(failures)
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = rung.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Tells of places that lack the roots since this look: in their namespaces, and by waking who tells the `TrustDomain`.
async fn tell(context: &Context, bell: &Bell, unpublished: Vec<Unpublished>) {
    let told = {
        let mut told = context.unpublished.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *told, unpublished.clone())
    };
    if told != unpublished {
        bell.trust();
    }
    for place in unpublished.iter().filter(|place| !told.contains(place)) {
        tracing::warn!(why = place.why, "the roots are not published everywhere");
        let object = ObjectReference {
            api_version: Some(if place.namespace.is_some() { "v1" } else { "certificates.k8s.io/v1" }.to_owned()),
            kind: Some(place.kind.to_owned()),
            name: Some(names::TRUST_BUNDLE.to_owned()),
            namespace: place.namespace.clone(),
            ..ObjectReference::default()
        };
        let (reason, note) = (place.reason.to_owned(), Some(place.why.clone()));
        let event = Event { type_: EventType::Warning, reason, note, action: PUBLISHED.to_owned(), secondary: None };
        context.publish_at(&object, &event).await;
    }
}

/// Publishes wherever that is possible; returns where it is not.
async fn reconcile(context: &Context, failures: u32) -> Result<Vec<Unpublished>, Fault> {
    let authority = context.authority();
    let namespaces = context.stores.namespaces.state();
    let asking = publish::asking(namespaces.iter().map(AsRef::as_ref));
    // One place that cannot be written to costs itself alone: what fails again and again is told beside the others.
    let (mut unpublished, mut failed) = (Vec::new(), None);
    for namespace in &asking {
        let wanted = publish::config_map(namespace, authority.bundle());
        match apply::apply(&context.client, &context.stores.config_maps, &wanted).await {
            Ok(Applied::Written) => context.metrics.wrote("ConfigMap"),
            Ok(Applied::Unchanged) => {}
            Ok(Applied::NotOurs) => unpublished.push(Unpublished::not_ours(CONFIG_MAP, Some(namespace))),
            Err(fault) => match fault.refusal(failures) {
                Some(refusal) => unpublished.push(Unpublished::refused(CONFIG_MAP, Some(namespace), &refusal)),
                None => failed = Some(fault),
            },
        }
    }
    for map in context.stores.config_maps.state() {
        let namespace = map.namespace().unwrap_or_default();
        if map.name_any() == names::TRUST_BUNDLE
            && !asking.contains(&namespace)
            && let Err(fault) = delete(context, &namespace, &map).await
        {
            failed = Some(fault);
        }
    }
    if is_served(context).await? {
        match bundle(context, authority.bundle()).await {
            Ok(foreign) => unpublished.extend(foreign),
            Err(fault) => match fault.refusal(failures) {
                Some(refusal) => unpublished.push(Unpublished::refused(CLUSTER_BUNDLE, None, &refusal)),
                None => failed = Some(fault),
            },
        }
    }
    failed.map_or(Ok(unpublished), Err)
}

async fn delete(context: &Context, namespace: &str, map: &ConfigMap) -> Result<(), Fault> {
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), namespace);
    let preconditions = Some(Preconditions { uid: map.uid(), resource_version: None });
    match api.delete(names::TRUST_BUNDLE, &DeleteParams { preconditions, ..DeleteParams::default() }).await {
        Ok(_) => context.metrics.wrote("ConfigMap"),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

async fn is_served(context: &Context) -> Result<bool, Fault> {
    match context.client.list_api_group_resources("certificates.k8s.io/v1").await {
        Ok(list) => Ok(list.resources.iter().any(|resource| resource.kind == "ClusterTrustBundle")),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Returns it where it is somebody else's.
async fn bundle(context: &Context, roots: &str) -> Result<Option<Unpublished>, Fault> {
    let api: Api<ClusterTrustBundle> = Api::all(context.client.clone());
    let wanted = publish::cluster_trust_bundle(roots);
    let found = api.get_opt(names::TRUST_BUNDLE).await?;
    if let Some(found) = &found {
        let ours = found.labels().get(names::MANAGED_BY).is_some_and(|by| by == names::SALLYPORT);
        if !ours {
            return Ok(Some(Unpublished::not_ours(CLUSTER_BUNDLE, None)));
        }
        if found.spec == wanted.spec {
            return Ok(None);
        }
    }
    let mut body = serde_json::to_value(&wanted)?;
    if let Some(object) = body.as_object_mut() {
        object.insert("apiVersion".to_owned(), json!(ClusterTrustBundle::api_version(&())));
        object.insert("kind".to_owned(), json!(ClusterTrustBundle::kind(&())));
    }
    // The first write is not forced: whoever makes one of that name in between keeps it.
    let params = PatchParams::apply(FIELD_MANAGER);
    let params = if found.is_some() { params.force() } else { params };
    api.patch(names::TRUST_BUNDLE, &params, &Patch::Apply(&body)).await?;
    context.metrics.wrote(CLUSTER_BUNDLE);
    Ok(None)
}
