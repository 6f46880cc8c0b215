//! `PodCertificateRequest`: whether a pod gets the certificate that its kubelet asks for, and as whom.
//!
//! Owns that decision. Touches nothing. Invariant: a request is signed only when the cluster itself vouches for
//! every name in it, and it is answered once.

use std::time::Duration;

use k8s_openapi::api::certificates::v1::PodCertificateRequest;
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use sallyport_crds::{AgentIdentity, Delivery};

use super::Settings;
use super::certificate::{self, Order, Wanted};
use super::identity::wanted;

/// The name that this signer answers to.
pub const SIGNER: &str = "sallyport.dev/agent";
/// The annotation of a projection that says which identity the pod wants.
pub const IDENTITY: &str = "sallyport.dev/identity";

/// Kubernetes takes no certificate of a shorter life.
const SHORTEST: Duration = Duration::from_secs(3600);
/// Kubernetes takes no renewal nearer to either end of the life.
const MARGIN: Duration = Duration::from_secs(600);

/// Conditions of a request that are the last word on it.
const ANSWERS: [&str; 3] = [ISSUED, "Denied", "Failed"];
const ISSUED: &str = "Issued";

/// Reasons of a denial, and of waiting.
#[allow(missing_docs, reason = "the words are what they say; docs/pod-certificates.md lists them")]
pub mod because {
    /// Kubernetes' own word for it.
    pub const KEY_TYPE: &str = "UnsupportedKeyType";
    /// Kubernetes' own word for it.
    pub const ANNOTATIONS: &str = "InvalidUnverifiedUserAnnotations";
    pub const REQUEST: &str = "InvalidRequest";
    pub const POD: &str = "PodMismatch";
    pub const NODE: &str = "NodeMismatch";
    pub const ACCOUNT: &str = "ServiceAccountMismatch";
    pub const KEY_REUSED: &str = "KeyReused";
    pub const NOT_FOUND: &str = "IdentityNotFound";
    pub const AMBIGUOUS: &str = "AmbiguousIdentity";
    pub const DELIVERY: &str = "DeliveryNotPodCertificate";
    pub const SUSPENDED: &str = "Suspended";
    pub const INVALID: &str = "Invalid";
    pub const NOT_YET: &str = "RevokeBeforeAhead";

    /// Those that end a request.
    pub const DENIED: [&str; 7] = [KEY_TYPE, ANNOTATIONS, REQUEST, POD, NODE, ACCOUNT, KEY_REUSED];
}

/// What the request's PKCS #10 part holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stub {
    /// It cannot be read.
    Unreadable,
    /// It can.
    Read {
        /// Whether agents' certificates are signed for keys of that kind, else the kind.
        key: Result<(), String>,
        /// It is signed with the key that it holds.
        proven: bool,
        /// It asks for no name, extension or attribute.
        empty: bool,
    },
}

/// What a decision is made from. Pod, node and account are as the API server has them now, not as a cache does.
#[derive(Debug, Clone)]
pub struct View<'a> {
    /// The request.
    pub request: &'a PodCertificateRequest,
    /// What its PKCS #10 part holds.
    pub stub: Stub,
    /// Other requests with the same key.
    pub same_key: Vec<&'a PodCertificateRequest>,
    /// The identities of the request's namespace.
    pub identities: Vec<&'a AgentIdentity>,
    /// The pod of that name.
    pub pod: Option<&'a Pod>,
    /// The node of that name.
    pub node: Option<&'a Node>,
    /// The service account of that name.
    pub account: Option<&'a ServiceAccount>,
}

/// What to do about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: it was answered, or is addressed to somebody else.
    Leave,
    /// Sign it.
    Sign(Box<Signature>),
    /// Never: what is wrong with it cannot become right.
    Deny(Refusal),
    /// Not now: an edit of an identity, or time, can make it right. The kubelet waits as well.
    Wait(Refusal, Option<Duration>),
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// A word for machines.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Name of the identity.
    pub identity: String,
    /// Its UID.
    pub uid: Option<String>,
    /// The certificate.
    pub order: Order,
    /// When the kubelet is to ask for the next one.
    pub refresh: Timestamp,
}

fn refusal(reason: &'static str, message: impl Into<String>) -> Refusal {
    Refusal { reason, message: message.into() }
}

/// Whether `request` is addressed to this signer and has no answer.
#[must_use]
pub fn is_open(request: &PodCertificateRequest) -> bool {
    request.spec.signer_name == SIGNER && !is_answered(request)
}

fn is_answered(request: &PodCertificateRequest) -> bool {
    ANSWERS.iter().any(|type_| has(request, type_))
}

fn has(request: &PodCertificateRequest, type_: &str) -> bool {
    let mut conditions = request.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == type_)
}

/// What to do about the request in `view`.
#[must_use]
pub fn decide(view: &View<'_>, settings: &Settings, now: Timestamp) -> Decision {
    if !is_open(view.request) {
        return Decision::Leave;
    }
    let denied = request_itself(view).or_else(|| replayed(view)).or_else(|| pod(view)).or_else(|| places(view));
    if let Some(refusal) = denied {
        return Decision::Deny(refusal);
    }
    let identity = match identity(view) {
        Ok(identity) => identity,
        Err(decision) => return decision,
    };
    if identity.spec.suspend {
        let message = format!("AgentIdentity {} is suspended", identity.name_any());
        return Decision::Wait(refusal(because::SUSPENDED, message), None);
    }
    let wanted = match wanted(identity, settings) {
        Ok((_, wanted)) if wanted.lifetime >= SHORTEST => wanted,
        Ok(_) => {
            let message = "certificate.duration is under 1h: Kubernetes takes no shorter one";
            return Decision::Wait(refusal(because::INVALID, message), None);
        }
        Err(message) => return Decision::Wait(refusal(because::INVALID, message), None),
    };
    sign(view.request, identity, wanted, now)
}

/// What can be judged without looking at anything else.
fn request_itself(view: &View<'_>) -> Option<Refusal> {
    let spec = &view.request.spec;
    let unknown = spec.unverified_user_annotations.iter().flatten().find(|(key, _)| key.as_str() != IDENTITY);
    if let Some((key, _)) = unknown {
        let message = format!("userAnnotations: {key:?} is not known here: the one annotation is {IDENTITY}");
        return Some(refusal(because::ANNOTATIONS, message));
    }
    if longest(view.request) < SHORTEST {
        return Some(refusal(because::REQUEST, "maxExpirationSeconds is under 3600"));
    }
    match &view.stub {
        Stub::Unreadable => Some(refusal(because::REQUEST, "stubPKCS10Request cannot be read")),
        Stub::Read { key: Err(kind), .. } => {
            let message = format!("keyType: {kind} is not signed for: use ECDSAP256, ECDSAP384 or ED25519");
            Some(refusal(because::KEY_TYPE, message))
        }
        // The names come from the cluster; whoever asks for one by hand is no kubelet.
        Stub::Read { empty: false, .. } => Some(refusal(
            because::REQUEST,
            "stubPKCS10Request asks for a name, extension or attribute: it must be empty",
        )),
        Stub::Read { proven: false, .. } => {
            Some(refusal(because::REQUEST, "stubPKCS10Request is not signed with the key that it holds"))
        }
        Stub::Read { .. } => None,
    }
}

/// A kubelet makes a key for each request. Of two with one key the first counts; that a later one was denied for it
/// must not tell against the first, or a replay could end what it replays.
fn replayed(view: &View<'_>) -> Option<Refusal> {
    let age = |request: &PodCertificateRequest| {
        // Times are whole seconds; within one, versions count up.
        let version: Option<u64> = request.resource_version().and_then(|version| version.parse().ok());
        (request.metadata.creation_timestamp.as_ref().map(|time| time.0), version, request.uid())
    };
    let is_earlier = |other: &&&PodCertificateRequest| has(other, ISSUED) || age(other) < age(view.request);
    let earlier = view.same_key.iter().filter(|other| other.uid() != view.request.uid()).find(is_earlier)?;
    let message = format!("its key is that of request {}: every request needs a new key", earlier.name_any());
    Some(refusal(because::KEY_REUSED, message))
}

fn pod(view: &View<'_>) -> Option<Refusal> {
    let (spec, wrong) = (&view.request.spec, |message: String| Some(refusal(because::POD, message)));
    let name = &spec.pod_name;
    let Some(pod) = view.pod.filter(|pod| pod.uid().as_deref() == Some(spec.pod_uid.as_str())) else {
        return wrong(format!("there is no pod {name} with UID {}", spec.pod_uid));
    };
    if pod.status.iter().any(|status| matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))) {
        return wrong(format!("pod {name} has ended"));
    }
    let running = pod.spec.as_ref();
    if running.and_then(|spec| spec.node_name.as_deref()) != Some(spec.node_name.as_str()) {
        return Some(refusal(because::NODE, format!("pod {name} does not run on node {}", spec.node_name)));
    }
    if running.and_then(|spec| spec.service_account_name.as_deref()) != Some(spec.service_account_name.as_str()) {
        let message = format!("pod {name} does not run as service account {}", spec.service_account_name);
        return Some(refusal(because::ACCOUNT, message));
    }
    let volumes = running.into_iter().flat_map(|spec| spec.volumes.iter().flatten());
    let sources = volumes.filter_map(|volume| volume.projected.as_ref()?.sources.as_ref()).flatten();
    let asked = spec.unverified_user_annotations.clone().unwrap_or_default();
    // What a pod's author did not ask for, its node has no reason to.
    let projects = sources
        .filter_map(|source| source.pod_certificate.as_ref())
        .any(|source| source.signer_name == SIGNER && source.user_annotations.clone().unwrap_or_default() == asked);
    if projects { None } else { wrong(format!("pod {name} projects no such podCertificate volume")) }
}

/// That node and service account are those which have these names now.
fn places(view: &View<'_>) -> Option<Refusal> {
    let spec = &view.request.spec;
    if view.node.and_then(ResourceExt::uid).as_deref() != Some(spec.node_uid.as_str()) {
        let message = format!("there is no node {} with UID {}", spec.node_name, spec.node_uid);
        return Some(refusal(because::NODE, message));
    }
    if view.account.and_then(ResourceExt::uid).as_deref() != Some(spec.service_account_uid.as_str()) {
        let message =
            format!("there is no service account {} with UID {}", spec.service_account_name, spec.service_account_uid);
        return Some(refusal(because::ACCOUNT, message));
    }
    None
}

/// The identity that the pod's author named; unnamed, the only one of the pod's service account.
fn identity<'a>(view: &View<'a>) -> Result<&'a AgentIdentity, Decision> {
    let wait = |reason, message: String| Err(Decision::Wait(refusal(reason, message), None));
    let spec = &view.request.spec;
    let account = &spec.service_account_name;
    let holds = |identity: &AgentIdentity| identity.spec.service_account_name.as_ref() == Some(account);
    let mut living = view.identities.iter().filter(|identity| identity.metadata.deletion_timestamp.is_none());
    if let Some(name) = spec.unverified_user_annotations.as_ref().and_then(|all| all.get(IDENTITY)) {
        let Some(identity) = living.find(|identity| identity.name_any() == *name) else {
            return wait(because::NOT_FOUND, format!("there is no AgentIdentity {name:?} in this namespace"));
        };
        if !holds(identity) {
            let message = format!("pods of service account {account} may not hold AgentIdentity {name}");
            return Err(Decision::Deny(refusal(because::ACCOUNT, message)));
        }
        if identity.spec.certificate.delivery != Delivery::PodCertificate {
            let message = format!("AgentIdentity {name} does not have certificate.delivery PodCertificate");
            return wait(because::DELIVERY, message);
        }
        return Ok(identity);
    }
    let mut fits = living.filter(|it| holds(it) && it.spec.certificate.delivery == Delivery::PodCertificate);
    match (fits.next(), fits.next()) {
        (Some(identity), None) => Ok(identity),
        (None, _) => {
            let message =
                format!("no AgentIdentity has serviceAccountName {account} and certificate.delivery PodCertificate");
            wait(because::NOT_FOUND, message)
        }
        (Some(one), Some(two)) => {
            let (one, two) = (one.name_any(), two.name_any());
            let message = format!(
                "AgentIdentities {one} and {two} both fit: name one in userAnnotations of the projection, as {IDENTITY}"
            );
            wait(because::AMBIGUOUS, message)
        }
    }
}

fn longest(request: &PodCertificateRequest) -> Duration {
    let seconds = request.spec.max_expiration_seconds.unwrap_or(24 * 3600);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn sign(request: &PodCertificateRequest, identity: &AgentIdentity, wanted: Wanted, now: Timestamp) -> Decision {
    let not_before = Timestamp::from_second(now.as_second()).unwrap_or(now);
    if not_before < wanted.not_before {
        // Kubernetes takes no certificate whose life begins later; ours are never dated back.
        let message =
            format!("certificates of AgentIdentity {} are dead before {}", identity.name_any(), wanted.not_before);
        let again = certificate::until(wanted.not_before, now);
        return Decision::Wait(refusal(because::NOT_YET, message), Some(again));
    }
    let lifetime = wanted.lifetime.min(longest(request));
    let renew_before = if lifetime < wanted.lifetime { lifetime / 3 } else { wanted.renew_before };
    let latest = lifetime.saturating_sub(MARGIN);
    let refresh = lifetime.saturating_sub(renew_before).clamp(MARGIN.min(latest), latest);
    Decision::Sign(Box::new(Signature {
        identity: identity.name_any(),
        uid: wanted.uid,
        order: Order {
            // The kubelet made the key; this says nothing about it.
            key_algorithm: sallyport_crds::KeyAlgorithm::default(),
            names: wanted.names,
            not_before,
            not_after: certificate::plus(not_before, lifetime),
            because: "a pod asked for it",
        },
        refresh: certificate::plus(not_before, refresh),
    }))
}
