//! Keeps the certificate of each `AgentIdentity` current.
//!
//! Owns nothing but the order of steps: read the Secret, ask `derive`, issue, write, tell. Touches the API
//! server. Invariant: a Secret that is not the identity's is never written.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType};
use kube::{Resource, ResourceExt};
use sallyport_crds::{AgentIdentity, Delivery};

use super::{Context, again, pod_certificate};
use crate::certificates;
use crate::derive::certificate::{Held, Order, Plan};
use crate::derive::{identity, names};
use crate::fault::Fault;
use crate::issue::inspect::inspect;
use crate::issue::leaf::{Role, Subject};

pub(crate) const KIND: &str = "AgentIdentity";

pub(crate) async fn reconcile(object: Arc<AgentIdentity>, context: Arc<Context>) -> Result<Action, Fault> {
    let namespace = object.namespace().unwrap_or_default();
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    let uid = object.uid().unwrap_or_default();
    let authority = context.authority();
    let look = |secret: Option<&Secret>| inspect(secret, &uid, Role::Agent, &authority);

    let (found, held) = match object.spec.certificate.delivery {
        Delivery::Secret => {
            let found = secrets.get_opt(&names::identity_secret(&object)).await?;
            let held = look(found.as_ref());
            (found, held)
        }
        Delivery::PodCertificate => match pod_certificate::held(&object, &context).await? {
            Some(held) => (None, held),
            None => return Ok(Action::requeue(Duration::from_secs(1))),
        },
    };
    let pods = context.stores.agent_pods.of(&object);
    let mut plan = identity::plan(&object, &held, pods.as_deref(), &context.settings(), context.now());

    if let Some(Plan::Issue(order)) = &plan.certificate {
        let metadata =
            certificates::metadata(&plan.secret, &namespace, names::owner(object.as_ref()), names::managed());
        let subject = Subject { common_name: &object.name_any(), uid: object.metadata.uid.as_deref() };
        let issue = certificates::Issue { authority: &authority, order, role: Role::Agent, subject, metadata };
        let written = certificates::write(&context, &secrets, found.as_ref(), issue).await?;
        announce(&context, object.as_ref(), order, &held).await;
        // The same question again, with what is there now: the status is of what was written.
        plan = identity::plan(&object, &look(Some(&written)), pods.as_deref(), &context.settings(), context.now());
    }

    let version = crate::apply::status(&context.client, object.as_ref(), object.status.as_ref(), &plan.status).await?;
    if version.is_some() {
        context.metrics.wrote("AgentIdentity/status");
        let before = object.status.as_ref().map_or(&[][..], |status| &status.conditions);
        context.report(KIND, object.as_ref(), before, &plan.status.conditions).await;
    }
    context.memory.wrote(object.as_ref(), version);
    Ok(again(plan.again))
}

async fn announce<K: Resource<DynamicType = ()>>(context: &Context, object: &K, order: &Order, held: &Held) {
    context.metrics.issued(KIND, *held == Held::Missing);
    let note = format!("certificate issued, valid until {}: {}", order.not_after, order.because);
    let event = Event {
        type_: EventType::Normal,
        reason: "Issued".to_owned(),
        note: Some(note),
        action: "Issue".to_owned(),
        secondary: None,
    };
    context.publish(object, &event).await;
}
