//! Keeps the `sallyport-fleets` RoleBindings: who may read the identities of which namespace.
//!
//! Owns that loop. Touches the API server. Invariants: computed from complete stores, so that a right is
//! never taken away because something was not seen yet; a namespace that takes no binding costs itself alone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Preconditions};
use kube::runtime::events::{Event, EventType};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Context, DEADLINE};
use crate::apply::{self, Applied};
use crate::derive::{fleets, names};
use crate::fault::Fault;

/// A namespace that does not exist yet, or has somebody else's binding, is looked at again after this: neither is watched.
const RECHECK: Duration = Duration::from_secs(15);

pub(crate) async fn run(context: Arc<Context>, rung: Arc<Notify>, stop: CancellationToken) {
    let mut failures = 0;
    let mut pause = Duration::ZERO;
    let mut told = BTreeSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = rung.notified() => {}
            () = tokio::time::sleep(pause), if !pause.is_zero() => {}
        }
        let start = tokio::time::Instant::now();
        let result = tokio::time::timeout(DEADLINE, reconcile(&context, &mut told))
            .await
            .unwrap_or(Err(Fault::Deadline(DEADLINE)));
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

/// Returns whether a namespace is to be looked at again. `told` are the namespaces where somebody else's binding was met and told of.
async fn reconcile(context: &Context, told: &mut BTreeSet<String>) -> Result<bool, Fault> {
    let (targets, policies) = (context.stores.targets.state(), context.stores.policies.state());
    let wanted = fleets::role_bindings(targets.iter().map(AsRef::as_ref), policies.iter().map(AsRef::as_ref));
    let (mut waiting, mut failed, mut foreign) = (false, None, BTreeSet::new());
    for binding in &wanted {
        match apply::apply(&context.client, &context.stores.role_bindings, binding).await {
            Ok(Applied::Written) => context.metrics.wrote("RoleBinding"),
            Ok(Applied::Unchanged) => {}
            Ok(Applied::NotOurs) => {
                let namespace = binding.namespace().unwrap_or_default();
                if !told.contains(&namespace) {
                    tell(context, binding).await;
                }
                foreign.insert(namespace);
            }
            // A policy may speak of a namespace before there is one; the others go on.
            Err(Fault::Api(kube::Error::Api(status))) if status.is_not_found() => waiting = true,
            Err(fault) => failed = Some(fault),
        }
    }
    waiting |= !foreign.is_empty();
    *told = foreign;
    let kept: BTreeSet<_> = wanted.iter().filter_map(ResourceExt::namespace).collect();
    for binding in context.stores.role_bindings.state() {
        let namespace = binding.namespace().unwrap_or_default();
        if binding.name_any() == names::FLEETS
            && !kept.contains(&namespace)
            && let Err(fault) = delete(context, &namespace, &binding).await
        {
            failed = Some(fault);
        }
    }
    failed.map_or(Ok(waiting), Err)
}

/// Fleets that may not read who is in a namespace let nobody in from there, and say so; why is told where it is put right.
async fn tell(context: &Context, binding: &RoleBinding) {
    let namespace = binding.namespace().unwrap_or_default();
    tracing::warn!(namespace, "RoleBinding {} exists and is not ours: left alone", names::FLEETS);
    let note = format!(
        "RoleBinding {} exists and belongs to somebody else: fleets cannot read the identities of this namespace and let \
         none of them in. Delete it, and it is made anew",
        names::FLEETS
    );
    let (reason, note) = (sallyport_crds::conditions::reason::NOT_OURS.to_owned(), Some(note));
    let event = Event { type_: EventType::Warning, reason, note, action: "Bind".to_owned(), secondary: None };
    context.publish(binding, &event).await;
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
