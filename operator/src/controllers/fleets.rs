//! Keeps the `sallyport-fleets` RoleBindings: who may read the identities of which namespace.
//!
//! Owns that loop. Touches the API server. Invariant: computed from complete stores, so that a right is
//! never taken away because something was not seen yet.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Preconditions};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Context, DEADLINE};
use crate::apply::{self, Applied};
use crate::derive::{fleets, names};
use crate::fault::Fault;

/// A namespace that does not exist yet is looked at again after this.
const RECHECK: Duration = Duration::from_secs(15);

pub(crate) async fn run(context: Arc<Context>, rung: Arc<Notify>, stop: CancellationToken) {
    let mut failures = 0;
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = rung.notified() => {}
            () = tokio::time::sleep(pause), if !pause.is_zero() => {}
        }
        let start = tokio::time::Instant::now();
        let result =
            tokio::time::timeout(DEADLINE, reconcile(&context)).await.unwrap_or(Err(Fault::Deadline(DEADLINE)));
        let outcome = result.as_ref().err().map_or("ok", Fault::label);
        context.metrics.reconciled("Fleets", outcome, start.elapsed().as_secs_f64());
        (failures, pause) = match result {
            Ok(waiting) => (0, if waiting { RECHECK } else { Duration::ZERO }),
            Err(fault) => {
                tracing::warn!(%fault, "role bindings of agent namespaces not written, trying again");
                (failures + 1, fault.pause(failures))
            }
        };
    }
}

/// Returns whether a namespace is missing.
pub(crate) async fn reconcile(context: &Context) -> Result<bool, Fault> {
    let (targets, policies) = (context.stores.targets.state(), context.stores.policies.state());
    let wanted = fleets::role_bindings(targets.iter().map(AsRef::as_ref), policies.iter().map(AsRef::as_ref));
    let mut waiting = false;
    for binding in &wanted {
        match apply::apply(&context.client, &context.stores.role_bindings, binding).await {
            Ok(Applied::Written) => context.metrics.wrote("RoleBinding"),
            Ok(Applied::Unchanged) => {}
            Ok(Applied::NotOurs) => {
                let namespace = binding.namespace().unwrap_or_default();
                tracing::warn!(namespace, "RoleBinding {} exists and is not ours: left alone", names::FLEETS);
            }
            // A policy may speak of a namespace before there is one; the others go on.
            Err(Fault::Api(kube::Error::Api(status))) if status.is_not_found() => waiting = true,
            Err(fault) => return Err(fault),
        }
    }
    let kept: BTreeSet<_> = wanted.iter().filter_map(ResourceExt::namespace).collect();
    for binding in context.stores.role_bindings.state() {
        let namespace = binding.namespace().unwrap_or_default();
        if binding.name_any() == names::FLEETS && !kept.contains(&namespace) {
            delete(context, &namespace, &binding).await?;
        }
    }
    Ok(waiting)
}

async fn delete(context: &Context, namespace: &str, binding: &RoleBinding) -> Result<(), Fault> {
    let api: Api<RoleBinding> = Api::namespaced(context.client.clone(), namespace);
    let preconditions = Some(Preconditions { uid: binding.uid(), resource_version: None });
    match api.delete(names::FLEETS, &DeleteParams { preconditions, ..DeleteParams::default() }).await {
        Ok(_) => context.metrics.wrote("RoleBinding"),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
