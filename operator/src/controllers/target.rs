//! Keeps the fleet of each `ProtectedTarget` as it should be.
//!
//! Owns nothing but the order of steps: read, ask `derive`, write, tell. Touches the API server; of the
//! Secrets it looks at it learns which keys are there. Invariant: the bundle is written before anything that takes longer.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use sallyport_crds::conditions::{PROGRAMMED, ROTATING};
use sallyport_crds::{AccessPolicy, BundleSourceKind, ProtectedTarget, ProtectedTargetStatus};
use serde_json::json;
use tokio::time::Instant;

use super::{Context, again};
use crate::apply::{self, Applied};
use crate::certificates::{self, Outcome, Seat};
use crate::derive::certificate::{self, Held, Plan};
use crate::derive::children::Child;
use crate::derive::names::{self, FIELD_MANAGER};
use crate::derive::refs::{self, Found, Reference, References};
use crate::derive::rotation;
use crate::derive::target::{self, Fleet, TargetPlan, TargetView};
use crate::fault::Fault;
use crate::issue::leaf::{Role, Subject};
use crate::issue::mask_key_secret;

pub(crate) const KIND: &str = "ProtectedTarget";

pub(crate) async fn reconcile(object: Arc<ProtectedTarget>, context: Arc<Context>) -> Result<Action, Fault> {
    let began = Instant::now();
    let namespace = object.namespace().unwrap_or_default();
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    let uid = object.uid().unwrap_or_default();
    let authority = context.authority();
    let place = (namespace.clone(), names::server_secret(&object.name_any()));
    let seat = Seat { place, owner: &uid, role: Role::Fleet, authority: &authority };

    let policies = policies_of(&context, &namespace);
    let look = certificates::look(&context, &secrets, &seat, object.as_ref());
    let (references, server) = futures::future::try_join(references(&context, &object), look).await?;
    let mut view = TargetView {
        target: &object,
        policies: policies.iter().map(AsRef::as_ref).collect(),
        references,
        server: server.held.clone(),
        fleet: fleet_of(&context, &namespace, &object.name_any()),
        foreign: Vec::new(),
    };
    let mut plan = target::plan(&view, &context.settings(), context.now());

    // A child that cannot be written keeps no certificate from its renewal.
    let foreign = write_children(&context, &plan, |child| !is_fleet(child)).await;
    let mut stuck = None;
    if certificates::lacks_trust(&server.held, plan.server.as_ref()) {
        // What keeps the roots from being written keeps nothing else back.
        match certificates::write_trust(&context, &secrets, &seat, &server).await {
            Ok(held) => view.server = held,
            Err(fault) => match fault.refusal(context.memory.failures(&uid)) {
                Some(refusal) => stuck = Some((fault, refusal)),
                None => return Err(fault),
            },
        }
    }
    if let Some(Plan::Issue(order)) = &plan.server {
        let labels = names::labels(&object.name_any());
        let metadata = certificates::metadata(&seat.place.1, &namespace, names::owner(object.as_ref()), labels);
        let subject = Subject { common_name: &object.name_any(), uid: None };
        let issue = certificates::Issue { order, subject, metadata };
        context.memory.due(&uid, KIND, context.now(), context.now());
        match certificates::write(&context, &secrets, &seat, &server, issue).await {
            Ok(Outcome::Written(held)) => {
                context.metrics.issued(KIND, server.held == Held::Missing);
                let told = object.status.as_ref().map_or(&[][..], |status| &status.conditions);
                certificates::announce(&context, object.as_ref(), order, &server.held, told).await;
                view.server = held;
            }
            Ok(Outcome::Taken(held)) => view.server = held,
            Err(fault) => match fault.refusal(context.memory.failures(&uid)) {
                Some(refusal) => stuck = Some((fault, refusal)),
                None => return Err(fault),
            },
        }
    }
    if plan.needs_mask_key {
        make_mask_key(&context, &secrets, &object).await?;
    }
    view.foreign = foreign?;
    if target::may_mount(&view) {
        view.foreign.extend(write_children(&context, &plan, is_fleet).await?);
    }
    // The same question again, with what is there now: the status is of what was written.
    plan = target::plan(&view, &context.settings(), context.now());
    if let Some(Plan::Keep { renewal, .. }) = &plan.server {
        context.memory.due(&uid, KIND, *renewal, context.now());
    }
    if let Some((_, refusal)) = &stuck {
        let before = object.status.as_ref().map_or(&[][..], |status| &status.conditions);
        let (others, generation) = (std::mem::take(&mut plan.status.conditions), object.metadata.generation);
        plan.status.conditions = rotation::stuck(ROTATING, before, others, refusal, generation, context.now());
    }

    tell(&context, &object, &plan).await?;
    time_convergence(&context, &object, &plan, began);
    prune(&context, &object, &plan.departed).await?;
    match stuck {
        Some((source, _)) => {
            let longest = certificate::patience(&server.held, context.now());
            Err(Fault::Stuck { source: Box::new(source), longest })
        }
        None => Ok(again(plan.again)),
    }
}

/// Makes the key of a target's masks, once: with another one no hash or token would be equal to those before.
async fn make_mask_key(context: &Context, secrets: &Api<Secret>, target: &ProtectedTarget) -> Result<(), Fault> {
    let (name, namespace) = (names::mask_key(&target.name_any()), target.namespace().unwrap_or_default());
    if context.stores.secrets.get(&ObjectRef::new(&name).within(&namespace)).is_some() {
        return Ok(());
    }
    let labels = names::labels(&target.name_any());
    let metadata = certificates::metadata(&name, &namespace, names::owner(target), labels);
    let secret = mask_key_secret(metadata);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    match secrets.create(&params, &secret).await {
        Ok(_) => context.metrics.wrote("Secret"),
        // It is there, and a key is a key: the fleet uses what it finds.
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

pub(crate) fn policies_of(context: &Context, namespace: &str) -> Vec<Arc<AccessPolicy>> {
    let mut policies = context.stores.policies.state();
    policies.retain(|policy| policy.metadata.namespace.as_deref() == Some(namespace));
    policies
}

pub(crate) fn fleet_of(context: &Context, namespace: &str, target: &str) -> Fleet {
    let deployment = context.stores.deployments.get(&ObjectRef::new(&names::fleet(target)).within(namespace));
    let pods = context.stores.pods.state_filter(|pod| {
        pod.metadata.namespace.as_deref() == Some(namespace)
            && pod.metadata.deletion_timestamp.is_none()
            && pod.metadata.labels.as_ref().and_then(|labels| labels.get(names::TARGET)).map(String::as_str)
                == Some(target)
    });
    let pods: BTreeSet<_> = pods.iter().map(|pod| pod.name_any()).collect();
    Fleet::of(deployment.as_deref(), pods)
}

/// Looks at what the target names. Content is dropped here: only the names of keys go on.
async fn references(context: &Context, target: &ProtectedTarget) -> Result<References, Fault> {
    let namespace = target.namespace().unwrap_or_default();
    let looked = refs::of(target).into_iter().map(|reference| async {
        let found = look_up(context, &namespace, &reference).await?;
        Ok::<_, Fault>((reference, found))
    });
    Ok(try_join_all(looked).await?.into_iter().collect())
}

async fn look_up(context: &Context, namespace: &str, reference: &Reference) -> Result<Found, Fault> {
    let present: Option<BTreeSet<String>> = match reference.kind {
        BundleSourceKind::Secret => {
            let api: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
            let secret = api.get_opt(&reference.name).await?;
            secret.map(|secret| {
                let data = secret.data.unwrap_or_default();
                data.into_iter().filter(|(_, value)| !value.0.is_empty()).map(|(key, _)| key).collect()
            })
        }
        BundleSourceKind::ConfigMap => {
            let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), namespace);
            let map = api.get_opt(&reference.name).await?;
            map.map(|map| {
                let data = map.data.unwrap_or_default();
                data.into_iter().filter(|(_, value)| !value.is_empty()).map(|(key, _)| key).collect()
            })
        }
    };
    let Some(present) = present else { return Ok(Found::Missing) };
    let lacking: Vec<_> = reference.keys.iter().filter(|key| !present.contains(*key)).cloned().collect();
    Ok(if lacking.is_empty() { Found::Complete } else { Found::Lacks(lacking) })
}

fn is_fleet(child: &Child) -> bool {
    matches!(child, Child::Deployment(_))
}

/// Writes what is not there yet of those that are meant; returns what exists and is not ours.
async fn write_children(context: &Context, plan: &TargetPlan, meant: fn(&Child) -> bool) -> Result<Vec<String>, Fault> {
    let (client, stores) = (&context.client, &context.stores);
    let mut foreign = Vec::new();
    for child in plan.children.iter().filter(|child| meant(child)) {
        let (kind, applied) = match child {
            Child::ServiceAccount(it) => ("ServiceAccount", apply::apply(client, &stores.service_accounts, it).await?),
            Child::Role(it) => ("Role", apply::apply(client, &stores.roles, it).await?),
            Child::RoleBinding(it) => ("RoleBinding", apply::apply(client, &stores.role_bindings, it).await?),
            Child::ConfigMap(it) => ("ConfigMap", apply::apply(client, &stores.config_maps, it).await?),
            Child::Deployment(it) => ("Deployment", apply::apply(client, &stores.deployments, it.as_ref()).await?),
            Child::Service(it) => ("Service", apply::apply(client, &stores.services, it.as_ref()).await?),
            Child::PodDisruptionBudget(it) => ("PodDisruptionBudget", apply::apply(client, &stores.budgets, it).await?),
            Child::NetworkPolicy(it) => ("NetworkPolicy", apply::apply(client, &stores.network_policies, it).await?),
        };
        match applied {
            Applied::Unchanged => {}
            Applied::Written => context.metrics.wrote(kind),
            Applied::NotOurs => foreign.push(format!("{kind} {}", child.meta().name.as_deref().unwrap_or_default())),
        }
    }
    Ok(foreign)
}

async fn tell(context: &Context, object: &ProtectedTarget, plan: &TargetPlan) -> Result<(), Fault> {
    // The replicas' entries are their own.
    let before = object.status.clone().map(|status| ProtectedTargetStatus { replicas: Vec::new(), ..status });
    let version = apply::status(&context.client, object, before.as_ref(), &plan.status).await?;
    if version.is_some() {
        context.metrics.wrote("ProtectedTarget/status");
        let before = before.map(|status| status.conditions).unwrap_or_default();
        context.report(KIND, object, &before, &plan.status.conditions).await;
    }
    context.memory.wrote(object, version);
    Ok(())
}

/// How long a fleet that ran its bundle takes to run the next. One that starts, or whose replica comes up, is no news.
fn time_convergence(context: &Context, object: &ProtectedTarget, plan: &TargetPlan, began: Instant) {
    let runs = |status: &ProtectedTargetStatus| {
        status.conditions.iter().any(|condition| condition.type_ == PROGRAMMED && condition.status == "True")
    };
    let uid = object.uid().unwrap_or_default();
    let before = object.status.as_ref().filter(|status| runs(status));
    if before.is_some_and(|before| before.bundle_revision != plan.status.bundle_revision) {
        context.memory.fell_behind(&uid, began);
    }
    if runs(&plan.status)
        && let Some(since) = context.memory.caught_up(&uid)
    {
        context.metrics.converged(since.elapsed().as_secs_f64());
    }
}

/// Takes out the entries of replicas that are gone; each by position, if it still is the one at that position.
async fn prune(context: &Context, object: &ProtectedTarget, departed: &[String]) -> Result<(), Fault> {
    let entries = object.status.iter().flat_map(|status| status.replicas.iter().enumerate());
    let gone: Vec<_> = entries.filter(|(_, entry)| departed.contains(&entry.pod)).collect();
    if gone.is_empty() {
        return Ok(());
    }
    // From the end, so that positions stay what they were.
    let steps: Vec<_> = gone
        .iter()
        .rev()
        .flat_map(|(at, entry)| {
            let path = format!("/status/replicas/{at}");
            [
                json!({"op": "test", "path": format!("{path}/pod"), "value": entry.pod}),
                json!({"op": "remove", "path": path}),
            ]
        })
        .collect();
    let patch: Patch<ProtectedTarget> = Patch::Json(serde_json::from_value(json!(steps))?);
    let api: Api<ProtectedTarget> = Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    match api.patch_status(&object.name_any(), &params, &patch).await {
        Ok(written) => context.memory.wrote(object, written.resource_version()),
        // Somebody else's entry moved there: the next look sees it.
        Err(kube::Error::Api(status)) if status.is_invalid() => tracing::debug!("replica entries moved"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
