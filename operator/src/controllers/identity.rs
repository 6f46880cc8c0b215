//! Keeps the certificate of each `AgentIdentity` current.
//!
//! Owns nothing but the order of steps: read the Secret, ask `derive`, issue, write, tell. Touches the API
//! server. Invariant: a Secret that is not the identity's is never written.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::controller::Action;
use sallyport_crds::{AgentIdentity, Delivery};

use super::{Context, again, pod_certificate};
use crate::certificates::{self, Found, Outcome, Seat};
use crate::derive::certificate::{self, Held, Plan};
use crate::derive::{identity, names};
use crate::fault::Fault;
use crate::issue::leaf::{Role, Subject};

pub(crate) const KIND: &str = "AgentIdentity";

pub(crate) async fn reconcile(object: Arc<AgentIdentity>, context: Arc<Context>) -> Result<Action, Fault> {
    let namespace = object.namespace().unwrap_or_default();
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    let uid = object.uid().unwrap_or_default();
    let authority = context.authority();
    let place = (namespace.clone(), names::identity_secret(&object));
    let seat = Seat { place, owner: &uid, role: Role::Agent, authority: &authority };
    let (settings, pods) = (context.settings(), context.stores.agent_pods.of(&object));
    let derive = |held: &Held| identity::plan(&object, held, pods.as_deref(), &settings, context.now());
    let told = object.status.as_ref().map_or(&[][..], |status| &status.conditions);

    let found = match object.spec.certificate.delivery {
        Delivery::Secret => certificates::look(&context, &secrets, &seat, object.as_ref()).await?,
        Delivery::PodCertificate => match pod_certificate::held(&object, &context).await? {
            Some(held) => Found::elsewhere(held),
            None => return Ok(Action::requeue(Duration::from_secs(1))),
        },
    };
    let mut plan = derive(&found.held);
    let in_a_secret = object.spec.certificate.delivery == Delivery::Secret;
    let mut fault = None;
    if in_a_secret
        && certificates::lacks_trust(&found.held, plan.certificate.as_ref())
        && let Err(refused) = certificates::write_trust(&context, &secrets, &seat, &found).await
    {
        // What keeps the roots from being written keeps nothing else back: addresses are told all the same.
        fault = Some(stuck(&context, &object, &found.held, &mut plan, refused)?);
    }
    if let Some(Plan::Issue(order)) = &plan.certificate {
        let metadata =
            certificates::metadata(&plan.secret, &namespace, names::owner(object.as_ref()), names::managed());
        let subject = Subject { common_name: &object.name_any(), uid: object.metadata.uid.as_deref() };
        let issue = certificates::Issue { order, subject, metadata };
        context.memory.due(&uid, KIND, context.now(), context.now());
        match certificates::write(&context, &secrets, &seat, &found, issue).await {
            // The same question again, with what is there now: the status is of what was written.
            Ok(Outcome::Written(held)) => {
                context.metrics.issued(KIND, found.held == Held::Missing);
                certificates::announce(&context, object.as_ref(), order, &found.held, told).await;
                plan = derive(&held);
            }
            Ok(Outcome::Taken(held)) => plan = derive(&held),
            Err(refused) => fault = Some(stuck(&context, &object, &found.held, &mut plan, refused)?),
        }
        if fault.is_none() && matches!(plan.certificate, Some(Plan::Issue(_))) {
            return Err(Fault::Meanwhile);
        }
    }
    if let Some(Plan::Keep { renewal, .. }) = &plan.certificate {
        context.memory.due(&uid, KIND, *renewal, context.now());
    }

    let before = object.status.as_ref();
    let version = crate::apply::whole_status(&context.client, object.as_ref(), before, &plan.status).await?;
    if version.is_some() {
        context.metrics.wrote("AgentIdentity/status");
        context.report(KIND, object.as_ref(), told, &plan.status.conditions).await;
    }
    context.memory.wrote(object.as_ref(), version);
    fault.map_or_else(|| Ok(again(plan.again)), Err)
}

/// Puts into `plan` that the Secret could not be written; an error while another try may well succeed.
fn stuck(
    context: &Context,
    object: &AgentIdentity,
    held: &Held,
    plan: &mut identity::IdentityPlan,
    refused: Fault,
) -> Result<Fault, Fault> {
    let failures = context.memory.failures(object.metadata.uid.as_deref().unwrap_or_default());
    let Some(refusal) = refused.refusal(failures) else { return Err(refused) };
    identity::stuck(plan, object, held, &context.settings(), &refusal, context.now());
    let longest = certificate::patience(held, context.now());
    Ok(Fault::Stuck { source: Box::new(refused), longest })
}
