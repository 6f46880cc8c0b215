//! The signer of `PodCertificateRequest`s: keys that kubelets make, for identities that have none in a Secret.
//!
//! Owns the order of steps: look whether the cluster has such requests, watch them, ask `derive`, sign, answer.
//! Touches the API server. Invariant: what is signed was read from the API server in the same step.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::certificates::v1::{PodCertificateRequest, PodCertificateRequestStatus};
use k8s_openapi::api::core::v1::{Node, Pod, Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::Api;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use sallyport_crds::AgentIdentity;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Context, again};
use crate::bell::Bell;
use crate::certificates;
use crate::derive::certificate::Held;
use crate::derive::names;
use crate::derive::pod_certificate::{self, Decision, Refusal, SIGNER, Signature, View};
use crate::fault::Fault;
use crate::issue::leaf::{Role, Subject};
use crate::issue::request;
use crate::stores::watching;

pub(crate) const KIND: &str = "PodCertificateRequest";

/// How often is looked whether the cluster has such requests: an upgrade gives them to it.
const LOOK: Duration = Duration::from_secs(60);
/// The same after a look that failed.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// A wait below this is not worth an event.
const SHORT: Duration = Duration::from_secs(5);

/// What is known of requests in this cluster; at first not even whether it has any.
#[derive(Default)]
pub(crate) struct Requests {
    served: AtomicU8,
    store: OnceLock<Store<PodCertificateRequest>>,
}

impl std::fmt::Debug for Requests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Requests").field("served", &self.known()).finish_non_exhaustive()
    }
}

impl Requests {
    /// Whether this cluster serves PodCertificateRequest at v1.
    fn known(&self) -> Option<bool> {
        match self.served.load(Ordering::Acquire) {
            1 => Some(false),
            2 => Some(true),
            _ => None,
        }
    }

    /// Whether that is news.
    fn set(&self, served: bool) -> bool {
        self.served.swap(1 + u8::from(served), Ordering::AcqRel) != 1 + u8::from(served)
    }
}

/// Signs until `stop`, from the moment on that the cluster has something to sign.
pub(crate) async fn run(context: Arc<Context>, bell: Bell, stop: CancellationToken) {
    let mut signing = JoinSet::new();
    loop {
        let pause = match look(&context.client).await {
            Ok(served) => {
                if context.requests.set(served) {
                    tracing::info!(served, "looked whether the cluster serves PodCertificateRequest");
                    bell.everything();
                }
                if served && signing.is_empty() {
                    start(&mut signing, &context, &bell, &stop);
                }
                LOOK
            }
            Err(error) => {
                tracing::warn!(%error, "cannot see whether the cluster serves PodCertificateRequest, trying again");
                LOOK_AGAIN
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    // The controller ends by itself at `stop`.
    while signing.join_next().await.is_some() {}
}

async fn look(client: &Client) -> kube::Result<bool> {
    match client.list_api_group_resources("certificates.k8s.io/v1").await {
        Ok(list) => Ok(list.resources.iter().any(|resource| resource.kind == KIND)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

fn start(tasks: &mut JoinSet<()>, context: &Arc<Context>, bell: &Bell, stop: &CancellationToken) {
    let (store, mut writer) = reflector::store::<PodCertificateRequest>();
    let _ = context.requests.store.set(store.clone());
    bell.attach_requests(store.clone());
    // Of other signers' requests nothing is seen.
    let config = watching().fields(&format!("spec.signerName={SIGNER}"));
    let mut stream =
        watcher(Api::<PodCertificateRequest>::all(context.client.clone()), config).default_backoff().boxed();
    let (woken, ended) = (bell.clone(), stop.clone());
    tasks.spawn(async move {
        let watch = async {
            while let Some(event) = stream.next().await {
                match event {
                    Ok(event) => {
                        writer.apply_watcher_event(&event);
                        if let watcher::Event::Apply(request) | watcher::Event::InitApply(request) = &event {
                            woken.request_changed(request);
                        }
                    }
                    Err(error) => tracing::warn!(kind = KIND, %error, "watch failed, trying again"),
                }
            }
        };
        tokio::select! { () = ended.cancelled() => {}, () = watch => {} }
    });
    let (context, requests, stop) = (Arc::clone(context), bell.requests(), stop.clone());
    tasks.spawn(async move {
        if store.wait_until_ready().await.is_ok() {
            super::run(KIND, context, store, requests, stop, reconcile).await;
        }
    });
}

async fn reconcile(object: Arc<PodCertificateRequest>, context: Arc<Context>) -> Result<Action, Fault> {
    if !pod_certificate::is_open(&object) {
        return Ok(Action::await_change());
    }
    let (spec, namespace) = (&object.spec, object.namespace().unwrap_or_default());
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
    let accounts: Api<ServiceAccount> = Api::namespaced(context.client.clone(), &namespace);
    let nodes: Api<Node> = Api::all(context.client.clone());
    let (pod, account, node) = tokio::try_join!(
        pods.get_opt(&spec.pod_name),
        accounts.get_opt(&spec.service_account_name),
        nodes.get_opt(&spec.node_name)
    )?;
    let of_namespace = |identity: &Arc<AgentIdentity>| identity.namespace().as_deref() == Some(namespace.as_str());
    let identities: Vec<_> = context.stores.identities.state().into_iter().filter(of_namespace).collect();
    let same_key = same_key(&object, &context);
    let view = View {
        request: &object,
        stub: request::read(&spec.stub_pkc_s10_request.0),
        same_key: same_key.iter().map(AsRef::as_ref).collect(),
        identities: identities.iter().map(AsRef::as_ref).collect(),
        pod: pod.as_ref(),
        node: node.as_ref(),
        account: account.as_ref(),
    };
    match pod_certificate::decide(&view, &context.settings(), context.now()) {
        Decision::Leave => Ok(Action::await_change()),
        Decision::Sign(signature) => {
            let known = view.identities.iter().find(|identity| identity.name_any() == signature.identity);
            if !is_current(known.copied(), &signature.identity, &namespace, &context).await? {
                // The change comes through the watch in a moment.
                return Ok(Action::requeue(Duration::from_millis(100)));
            }
            sign(&object, &signature, &context).await
        }
        Decision::Deny(refusal) => deny(&object, refusal, &context).await,
        Decision::Wait(refusal, after) => {
            tracing::info!(request = object.name_any(), namespace, reason = refusal.reason, "{}", refusal.message);
            if let Some(pod) = pod.as_ref().filter(|_| after.is_none_or(|after| after >= SHORT)) {
                context.publish(pod, &waiting(&refusal)).await;
            }
            Ok(again(after))
        }
    }
}

/// Requests that ask for the same key: replays.
fn same_key(object: &PodCertificateRequest, context: &Context) -> Vec<Arc<PodCertificateRequest>> {
    let key = request::public_key(&object.spec.stub_pkc_s10_request.0);
    let is_same = |other: &Arc<PodCertificateRequest>| {
        key.is_some() && request::public_key(&other.spec.stub_pkc_s10_request.0) == key
    };
    context.requests.store.get().map(Store::state).unwrap_or_default().into_iter().filter(is_same).collect()
}

/// Whether the cache has the identity as the API server does.
async fn is_current(
    known: Option<&AgentIdentity>,
    name: &str,
    namespace: &str,
    context: &Context,
) -> Result<bool, Fault> {
    let api: Api<AgentIdentity> = Api::namespaced(context.client.clone(), namespace);
    let now = api.get_opt(name).await?;
    Ok(known.zip(now.as_ref()).is_some_and(|(known, now)| {
        known.uid() == now.uid() && known.spec == now.spec && now.metadata.deletion_timestamp.is_none()
    }))
}

async fn sign(object: &PodCertificateRequest, signature: &Signature, context: &Context) -> Result<Action, Fault> {
    let Signature { identity, uid, order, refresh } = signature;
    let subject = Subject { common_name: identity, uid: uid.as_deref() };
    let signed = context.authority().sign(&object.spec.stub_pkc_s10_request.0, order, Role::Agent, subject)?;
    let serial = &signed.serial;
    let status = PodCertificateRequestStatus {
        conditions: Some(vec![answer("Issued", "Issued", format!("{serial} for AgentIdentity {identity}"), context)]),
        certificate_chain: Some(signed.chain),
        not_before: Some(Time(order.not_before)),
        not_after: Some(Time(order.not_after)),
        begin_refresh_at: Some(Time(*refresh)),
    };
    write(object, &status, context).await?;
    let (pod, node) = (&object.spec.pod_name, &object.spec.node_name);
    let namespace = object.namespace().unwrap_or_default();
    tracing::info!(namespace, identity, pod, node, serial, until = %order.not_after, "certificate issued to a pod");
    context.metrics.answered(KIND, "Issued");
    Ok(Action::await_change())
}

async fn deny(object: &PodCertificateRequest, refusal: Refusal, context: &Context) -> Result<Action, Fault> {
    let Refusal { reason, message } = refusal;
    let status = PodCertificateRequestStatus {
        conditions: Some(vec![answer("Denied", reason, message.clone(), context)]),
        ..PodCertificateRequestStatus::default()
    };
    write(object, &status, context).await?;
    let (namespace, pod) = (object.namespace().unwrap_or_default(), &object.spec.pod_name);
    tracing::warn!(namespace, pod, request = object.name_any(), reason, "certificate denied to a pod: {message}");
    context.metrics.answered(KIND, reason);
    // The kubelet tells it on the pod.
    Ok(Action::await_change())
}

/// The API server takes one answer to a request, and from those alone who may sign as [`SIGNER`].
async fn write(
    object: &PodCertificateRequest,
    status: &PodCertificateRequestStatus,
    context: &Context,
) -> Result<(), Fault> {
    let version = crate::apply::status(&context.client, object, object.status.as_ref(), status).await?;
    context.metrics.wrote("PodCertificateRequest/status");
    context.memory.wrote(object, version);
    Ok(())
}

fn answer(type_: &str, reason: &str, message: String, context: &Context) -> Condition {
    Condition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: Time(context.now()),
        observed_generation: None,
    }
}

fn waiting(refusal: &Refusal) -> Event {
    Event {
        type_: EventType::Warning,
        reason: refusal.reason.to_owned(),
        note: Some(format!("no certificate yet: {}", refusal.message).chars().take(900).collect()),
        action: "Sign".to_owned(),
        secondary: None,
    }
}

/// What an identity holds whose keys are made by kubelets; nothing while it is not known whether they can be.
pub(super) async fn held(object: &AgentIdentity, context: &Context) -> Result<Option<Held>, Fault> {
    let Some(served) = context.requests.known() else { return Ok(None) };
    if served {
        // A key that lies in a Secret can travel. Where pods cannot get one otherwise, it is left to expire.
        remove_secrets(object, context).await?;
    }
    Ok(Some(Held::InPods { served }))
}

async fn remove_secrets(object: &AgentIdentity, context: &Context) -> Result<(), Fault> {
    let (namespace, uid) = (object.namespace().unwrap_or_default(), object.uid().unwrap_or_default());
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    for secret in context.stores.secrets.state() {
        if secret.namespace().as_deref() != Some(namespace.as_str()) || !names::is_owned_by(&secret.metadata, &uid) {
            continue;
        }
        certificates::remove(context, &api, &secret.metadata).await?;
    }
    Ok(())
}
