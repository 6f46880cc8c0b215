//! Tells of each `AccessRequest` where it stands, and clears away those of long ago.
//!
//! Owns that loop and the one watch of the kind; what was asked is not kept, only what a phase hangs on. Touches the API
//! server. Invariant: nothing that counts is written here: no decision, no use of one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, ResourceExt};
use sallyport_crds::{AccessRequest, Command};
use serde_json::json;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Context, DEADLINE};
use crate::derive::request::{self, Plan};
use crate::fault::Fault;
use crate::stores::watching;

pub(crate) const KIND: &str = "AccessRequest";
/// One that could not be written is looked at again after this.
const RECHECK: Duration = Duration::from_secs(15);

/// What is known of a question, and when it is to be looked at.
struct Known {
    request: AccessRequest,
    due: Instant,
}

pub(crate) async fn run(context: Arc<Context>, stop: CancellationToken) {
    let all: Api<AccessRequest> = Api::all(context.client.clone());
    let mut events = watch::watcher(all, watching()).default_backoff().boxed();
    let mut known: HashMap<String, Known> = HashMap::new();
    loop {
        let next = known.values().map(|known| known.due).min();
        tokio::select! {
            () = stop.cancelled() => return,
            event = events.next() => match event {
                Some(Ok(Event::Apply(request) | Event::InitApply(request))) => {
                    let known_now = look(&context, request).await;
                    if let Some((uid, one)) = known_now {
                        known.insert(uid, one);
                    }
                }
                Some(Ok(Event::Delete(request))) => drop(known.remove(&request.uid().unwrap_or_default())),
                Some(Ok(Event::Init)) => known.clear(),
                Some(Ok(Event::InitDone)) => {}
                Some(Err(error)) => tracing::warn!(kind = KIND, %error, "watch failed, trying again"),
                None => return,
            },
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                let now = Instant::now();
                let due: Vec<_> = known.extract_if(|_, known| known.due <= now).collect();
                for (_, Known { request, .. }) in due {
                    if let Some((uid, one)) = look(&context, request).await {
                        known.insert(uid, one);
                    }
                }
            }
        }
    }
}

/// Does what there is to do about a question; says when to look at it again, if ever.
async fn look(context: &Context, mut request: AccessRequest) -> Option<(String, Known)> {
    let uid = request.uid()?;
    // What was asked takes room, and nothing here hangs on it.
    request.spec.command = Command::default();
    request.metadata.managed_fields = None;
    let plan = request::plan(&request, &context.settings().trust_domain, context.now());
    let start = Instant::now();
    let acted = tokio::time::timeout(DEADLINE, act(context, &request, &plan)).await;
    let acted = acted.unwrap_or(Err(Fault::Deadline(DEADLINE)));
    let outcome = acted.as_ref().err().map_or("ok", Fault::label);
    context.metrics.reconciled(KIND, outcome, start.elapsed().as_secs_f64());
    let pause = match acted {
        Ok(()) => plan.again?,
        Err(fault) => {
            tracing::warn!(kind = KIND, request = request.name_any(), %fault, "reconcile did not finish, trying again");
            RECHECK
        }
    };
    Some((uid, Known { request, due: Instant::now() + pause }))
}

async fn act(context: &Context, request: &AccessRequest, plan: &Plan) -> Result<(), Fault> {
    let api: Api<AccessRequest> = Api::namespaced(context.client.clone(), &request.namespace().unwrap_or_default());
    let name = request.name_any();
    let written = if plan.clear_away {
        let preconditions = Some(Preconditions { uid: request.uid(), resource_version: None });
        api.delete(&name, &DeleteParams { preconditions, ..DeleteParams::default() }).await.map(drop)
    } else if let Some(phase) = plan.phase {
        // With the version that was read: who answers or uses an answer up meanwhile is told of by the watch.
        let patch = json!({"metadata": {"resourceVersion": request.resource_version()}, "status": {"phase": phase}});
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
    } else {
        return Ok(());
    };
    match written {
        Ok(()) => context.metrics.wrote("AccessRequest/status"),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
