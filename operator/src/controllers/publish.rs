//! Keeps the roots where they are asked for: a ConfigMap in labelled namespaces, a ClusterTrustBundle where served.
//!
//! Owns that loop. Touches the API server. Invariant: a ConfigMap or bundle of that name that is not ours is
//! left alone; what nobody asks for any more is deleted.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Resource, ResourceExt};
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Context, DEADLINE};
use crate::apply::{self, Applied};
use crate::derive::names::{self, FIELD_MANAGER};
use crate::derive::publish;
use crate::fault::Fault;

/// Without a waking: a bundle that somebody edited, an API server that serves more than it did.
const RECHECK: Duration = Duration::from_secs(60);

pub(crate) async fn run(context: Arc<Context>, rung: Arc<Notify>, stop: CancellationToken) {
    let mut failures = 0;
    loop {
        let start = tokio::time::Instant::now();
        let result =
            tokio::time::timeout(DEADLINE, reconcile(&context)).await.unwrap_or(Err(Fault::Deadline(DEADLINE)));
        let outcome = result.as_ref().err().map_or("ok", Fault::label);
        context.metrics.reconciled("Trust", outcome, start.elapsed().as_secs_f64());
        let pause = match result {
            Ok(()) => {
                failures = 0;
                RECHECK
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

async fn reconcile(context: &Context) -> Result<(), Fault> {
    let authority = context.authority();
    let namespaces = context.stores.namespaces.state();
    let asking = publish::asking(namespaces.iter().map(AsRef::as_ref));
    let mut failed = None;
    for namespace in &asking {
        // One namespace that cannot be written to costs itself alone.
        let wanted = publish::config_map(namespace, authority.bundle());
        match apply::apply(&context.client, &context.stores.config_maps, &wanted).await {
            Ok(Applied::Written) => context.metrics.wrote("ConfigMap"),
            Ok(Applied::Unchanged) => {}
            Ok(Applied::NotOurs) => {
                tracing::warn!(namespace, "ConfigMap {} exists and is not ours: left alone", names::TRUST_BUNDLE);
            }
            Err(fault) => failed = Some(fault),
        }
    }
    for map in context.stores.config_maps.state() {
        let namespace = map.namespace().unwrap_or_default();
        if map.name_any() == names::TRUST_BUNDLE && !asking.contains(&namespace) {
            delete(context, &namespace, &map).await?;
        }
    }
    if is_served(context).await? {
        bundle(context, authority.bundle()).await?;
    }
    failed.map_or(Ok(()), Err)
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

async fn bundle(context: &Context, roots: &str) -> Result<(), Fault> {
    let api: Api<ClusterTrustBundle> = Api::all(context.client.clone());
    let wanted = publish::cluster_trust_bundle(roots);
    let found = api.get_opt(names::TRUST_BUNDLE).await?;
    if let Some(found) = &found {
        let ours = found.labels().get(names::MANAGED_BY).is_some_and(|by| by == names::SALLYPORT);
        if !ours {
            tracing::warn!("ClusterTrustBundle {} exists and is not ours: left alone", names::TRUST_BUNDLE);
            return Ok(());
        }
        if found.spec == wanted.spec {
            return Ok(());
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
    context.metrics.wrote("ClusterTrustBundle");
    Ok(())
}
