//! Tells each `AccessPolicy` what became of it.
//!
//! Owns nothing but the order of steps. Touches the API server; writes statuses alone: what is enforced is
//! written by the targets' controller. Invariant: what is told is computed from the same bundle.

use std::sync::Arc;

use kube::ResourceExt;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use sallyport_crds::AccessPolicy;

use super::target::{fleet_of, policies_of};
use super::{Context, again};
use crate::derive::compile;
use crate::derive::policy::{self, Attachment};
use crate::fault::Fault;

pub(crate) const KIND: &str = "AccessPolicy";

pub(crate) async fn reconcile(object: Arc<AccessPolicy>, context: Arc<Context>) -> Result<Action, Fault> {
    let namespace = object.namespace().unwrap_or_default();
    let policies = policies_of(&context, &namespace);
    let named = object.spec.target_refs.iter();
    let targets: Vec<_> = named
        .filter_map(|named| context.stores.targets.get(&ObjectRef::new(&named.name).within(&namespace)))
        .filter(|target| target.metadata.deletion_timestamp.is_none())
        .map(|target| {
            let bundle = compile::bundle(&target, policies.iter().map(AsRef::as_ref), &context.settings());
            let fleet = fleet_of(&context, &namespace, &target.name_any());
            (target, bundle, fleet)
        })
        .collect();
    let attachments: Vec<_> =
        targets.iter().map(|(target, bundle, fleet)| Attachment { target, bundle, fleet }).collect();
    let identities = context.stores.identities.state();
    let status = policy::status(&object, &attachments, identities.iter().map(AsRef::as_ref), context.now());

    let version = crate::apply::status(&context.client, object.as_ref(), object.status.as_ref(), &status).await?;
    if version.is_some() {
        context.metrics.wrote("AccessPolicy/status");
        for ancestor in &status.ancestors {
            let before = object.status.iter().flat_map(|status| &status.ancestors);
            let before = before.filter(|old| old.target_ref == ancestor.target_ref).flat_map(|old| &old.conditions);
            let before: Vec<_> = before.cloned().collect();
            context.report(KIND, object.as_ref(), &before, &ancestor.conditions).await;
        }
    }
    context.memory.wrote(object.as_ref(), version);
    Ok(again(None))
}
