//! Who gets a certificate for a key that a kubelet made: every check, one change at a time.
//!
//! Pure: a request that is signed, and for each change of it or of the cluster what is said instead. Invariant:
//! no change of one fact turns a refusal into a signature for somebody else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use k8s_openapi::api::certificates::v1::PodCertificateRequest;
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use sallyport_crds::AgentIdentity;
use sallyport_operator::derive::Settings;
use sallyport_operator::derive::pod_certificate::{Decision, Signature, Stub, View, decide};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// A cluster, as far as a request goes.
#[derive(Clone)]
struct World {
    request: Value,
    stub: Stub,
    same_key: Vec<Value>,
    identities: Vec<Value>,
    pod: Option<Value>,
    node: Option<Value>,
    account: Option<Value>,
}

fn read<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn now() -> Timestamp {
    "2026-11-23T10:00:00.5Z".parse().unwrap()
}

fn settings() -> Settings {
    Settings {
        trust_domain: "cluster.local".into(),
        cluster_domain: "cluster.local".into(),
        proxy_image: "sallyport-proxy:dev".into(),
        since: Timestamp::MIN,
    }
}

fn world() -> World {
    let annotations = json!({"sallyport.dev/identity": "bot"});
    World {
        request: json!({
            "metadata": {"name": "req-1", "namespace": "ci", "uid": "u-req", "creationTimestamp": "2026-11-23T09:59:59Z"},
            "spec": {
                "signerName": "sallyport.dev/agent", "podName": "agent", "podUID": "u-pod", "nodeName": "n1", "nodeUID": "u-node",
                "serviceAccountName": "bot", "serviceAccountUID": "u-sa", "maxExpirationSeconds": 86400, "stubPKCS10Request": "",
                "unverifiedUserAnnotations": annotations,
            },
        }),
        stub: Stub::Read { key: Ok(()), proven: true, empty: true },
        same_key: Vec::new(),
        identities: vec![identity("bot", "bot"), identity("other", "other")],
        pod: Some(json!({
            "metadata": {"name": "agent", "namespace": "ci", "uid": "u-pod"},
            "spec": {
                "nodeName": "n1", "serviceAccountName": "bot", "containers": [],
                "volumes": [{"name": "identity", "projected": {"sources": [
                    {"podCertificate": {"signerName": "sallyport.dev/agent", "keyType": "ECDSAP256", "userAnnotations": annotations}},
                ]}}],
            },
            "status": {"phase": "Pending"},
        })),
        node: Some(json!({"metadata": {"name": "n1", "uid": "u-node"}})),
        account: Some(json!({"metadata": {"name": "bot", "namespace": "ci", "uid": "u-sa"}})),
    }
}

fn identity(name: &str, account: &str) -> Value {
    json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AgentIdentity",
        "metadata": {"name": name, "namespace": "ci", "uid": format!("u-{name}"), "creationTimestamp": "2026-11-23T09:00:00Z"},
        "spec": {"serviceAccountName": account, "certificate": {"delivery": "PodCertificate", "duration": "2h"}},
    })
}

impl World {
    fn decide(&self) -> Decision {
        let request: PodCertificateRequest = read(&self.request);
        let same_key: Vec<PodCertificateRequest> = self.same_key.iter().map(read).collect();
        let identities: Vec<AgentIdentity> = self.identities.iter().map(read).collect();
        let pod: Option<Pod> = self.pod.as_ref().map(read);
        let node: Option<Node> = self.node.as_ref().map(read);
        let account: Option<ServiceAccount> = self.account.as_ref().map(read);
        let view = View {
            request: &request,
            stub: self.stub.clone(),
            same_key: same_key.iter().collect(),
            identities: identities.iter().collect(),
            pod: pod.as_ref(),
            node: node.as_ref(),
            account: account.as_ref(),
        };
        decide(&view, &settings(), now())
    }

    fn signed(&self) -> Signature {
        match self.decide() {
            Decision::Sign(signature) => *signature,
            other => panic!("{other:?}"),
        }
    }
}

/// The decision in two words.
fn told(decision: &Decision) -> (&'static str, &'static str) {
    match decision {
        Decision::Leave => ("leave", ""),
        Decision::Sign(_) => ("sign", ""),
        Decision::Deny(refusal) => ("deny", refusal.reason),
        Decision::Wait(refusal, _) => ("wait", refusal.reason),
    }
}

#[test]
fn what_the_cluster_vouches_for_is_signed_for_the_identity_alone() {
    let signature = world().signed();
    assert_eq!((signature.identity.as_str(), signature.uid.as_deref()), ("bot", Some("u-bot")));
    assert_eq!(signature.order.names.uris, ["spiffe://cluster.local/ns/ci/agent/bot"]);
    assert!(signature.order.names.dns.is_empty());
    assert_eq!(signature.order.not_before.to_string(), "2026-11-23T10:00:00Z");
    assert_eq!(signature.order.not_after.to_string(), "2026-11-23T12:00:00Z");
    assert_eq!(signature.refresh.to_string(), "2026-11-23T11:20:00Z");
}

#[test]
fn each_fact_that_is_wrong_is_told() {
    type Change = fn(&mut World);
    let stub = |key, proven, empty| Stub::Read { key, proven, empty };
    let cases: Vec<(Change, (&str, &str))> = vec![
        // Not ours to judge.
        (|w| w.request["spec"]["signerName"] = json!("example.com/agent"), ("leave", "")),
        (|w| w.request["status"] = answered("Issued"), ("leave", "")),
        (|w| w.request["status"] = answered("Denied"), ("leave", "")),
        (|w| w.request["status"] = answered("Failed"), ("leave", "")),
        // The request itself.
        (
            |w| w.request["spec"]["unverifiedUserAnnotations"]["example.com/x"] = json!(""),
            ("deny", "InvalidUnverifiedUserAnnotations"),
        ),
        (|w| w.request["spec"]["maxExpirationSeconds"] = json!(3599), ("deny", "InvalidRequest")),
        (|w| w.stub = Stub::Unreadable, ("deny", "InvalidRequest")),
        // Pod, node and account.
        (|w| w.pod = None, ("deny", "PodMismatch")),
        (|w| w.request["spec"]["podUID"] = json!("u-older"), ("deny", "PodMismatch")),
        (|w| w.pod.as_mut().unwrap()["status"]["phase"] = json!("Succeeded"), ("deny", "PodMismatch")),
        (|w| w.pod.as_mut().unwrap()["spec"]["volumes"] = json!([]), ("deny", "PodMismatch")),
        (|w| w.pod.as_mut().unwrap()["spec"]["nodeName"] = json!("n2"), ("deny", "NodeMismatch")),
        (
            |w| w.pod.as_mut().unwrap()["spec"]["serviceAccountName"] = json!("default"),
            ("deny", "ServiceAccountMismatch"),
        ),
        (|w| w.node = None, ("deny", "NodeMismatch")),
        (|w| w.request["spec"]["nodeUID"] = json!("u-older"), ("deny", "NodeMismatch")),
        (|w| w.account = None, ("deny", "ServiceAccountMismatch")),
        (|w| w.request["spec"]["serviceAccountUID"] = json!("u-older"), ("deny", "ServiceAccountMismatch")),
        // Another's identity, though the pod's author asks for it.
        (|w| name(w, "other"), ("deny", "ServiceAccountMismatch")),
        // What an edit can heal.
        (|w| name(w, "missing"), ("wait", "IdentityNotFound")),
        (|w| w.identities.clear(), ("wait", "IdentityNotFound")),
        (
            |w| w.identities[0]["metadata"]["deletionTimestamp"] = json!("2026-11-23T09:59:00Z"),
            ("wait", "IdentityNotFound"),
        ),
        (|w| w.identities[0]["spec"]["suspend"] = json!(true), ("wait", "Suspended")),
        (|w| w.identities[0]["spec"]["certificate"] = json!({"duration": "2h"}), ("wait", "DeliveryNotPodCertificate")),
        (|w| w.identities[0]["spec"]["certificate"]["duration"] = json!("30m"), ("wait", "Invalid")),
        (|w| w.identities[0]["spec"]["certificate"]["duration"] = json!("soon"), ("wait", "Invalid")),
        (|w| w.identities[0]["spec"]["revokeBefore"] = json!("2026-11-23T10:00:30Z"), ("wait", "RevokeBeforeAhead")),
    ];
    for (at, (change, wanted)) in cases.into_iter().enumerate() {
        let mut world = world();
        change(&mut world);
        assert_eq!(told(&world.decide()), wanted, "case {at}: {:?}", world.decide());
    }
    for (stub, wanted) in [
        (stub(Err("RSA of 3072 bits".into()), true, true), "UnsupportedKeyType"),
        (stub(Ok(()), false, true), "InvalidRequest"),
        (stub(Ok(()), true, false), "InvalidRequest"),
    ] {
        assert_eq!(told(&World { stub, ..world() }.decide()), ("deny", wanted));
    }
}

fn answered(type_: &str) -> Value {
    let at = "2026-11-23T10:00:00Z";
    json!({"conditions": [{"type": type_, "status": "True", "reason": "x", "message": "", "lastTransitionTime": at}]})
}

/// The pod's author names that identity, and its kubelet says so.
fn name(world: &mut World, identity: &str) {
    let annotations = json!({"sallyport.dev/identity": identity});
    world.request["spec"]["unverifiedUserAnnotations"] = annotations.clone();
    let pod = world.pod.as_mut().unwrap();
    pod["spec"]["volumes"][0]["projected"]["sources"][0]["podCertificate"]["userAnnotations"] = annotations;
}

#[test]
fn a_node_cannot_ask_for_an_identity_that_the_pod_does_not_ask_for() {
    let mut world = world();
    world.identities.push(identity("second", "bot"));
    world.request["spec"]["unverifiedUserAnnotations"] = json!({"sallyport.dev/identity": "second"});
    assert_eq!(told(&world.decide()), ("deny", "PodMismatch"));
}

#[test]
fn unnamed_the_only_identity_of_the_service_account_is_meant_and_two_are_none() {
    let mut world = world();
    world.request["spec"]["unverifiedUserAnnotations"] = Value::Null;
    let pod = world.pod.as_mut().unwrap();
    pod["spec"]["volumes"][0]["projected"]["sources"][0]["podCertificate"]["userAnnotations"] = Value::Null;
    assert_eq!(world.signed().identity, "bot");
    // One that is delivered otherwise is not meant.
    let mut secret = identity("by-secret", "bot");
    secret["spec"]["certificate"] = json!({});
    world.identities.push(secret);
    assert_eq!(world.signed().identity, "bot");
    world.identities.push(identity("second", "bot"));
    let Decision::Wait(refusal, None) = world.decide() else { panic!("{:?}", world.decide()) };
    assert_eq!(refusal.reason, "AmbiguousIdentity");
    assert!(refusal.message.contains("bot and second"), "{}", refusal.message);
}

#[test]
fn a_replayed_key_is_denied_and_the_request_it_was_taken_from_is_not() {
    let mut replay = world();
    let mut first = world().request;
    first["metadata"]["uid"] = json!("u-first");
    first["metadata"]["creationTimestamp"] = json!("2026-11-23T09:00:00Z");
    replay.same_key = vec![replay.request.clone(), first.clone()];
    assert_eq!(told(&replay.decide()), ("deny", "KeyReused"));
    // Seen from the first, the other is later; once it was answered, time does not matter.
    let mut original = world();
    original.request = first;
    original.same_key = vec![replay.request.clone()];
    assert_eq!(told(&original.decide()), ("sign", ""));
    // A replay that was denied does not end what it replayed, though that waits; one that was signed does.
    replay.request["status"] = answered("Denied");
    original.same_key = vec![replay.request.clone()];
    assert_eq!(told(&original.decide()), ("sign", ""));
    replay.request["status"] = answered("Issued");
    original.same_key = vec![replay.request];
    assert_eq!(told(&original.decide()), ("deny", "KeyReused"));
    // Within one second, versions say who was first.
    let mut second = world();
    second.request["metadata"]["resourceVersion"] = json!("101");
    let mut first = world().request;
    first["metadata"]["uid"] = json!("z-first");
    first["metadata"]["resourceVersion"] = json!("99");
    second.same_key = vec![first];
    assert_eq!(told(&second.decide()), ("deny", "KeyReused"));
}

#[test]
fn lifetimes_are_what_kubernetes_takes() {
    let mut world = world();
    world.request["spec"]["maxExpirationSeconds"] = json!(3600);
    let signature = world.signed();
    assert_eq!(signature.order.not_after.duration_since(signature.order.not_before).as_secs(), 3600);
    for (duration, renew_before, refresh) in
        [("1h", "50m", 600), ("1h", "59m", 600), ("1h", "1m", 3000), ("24h", "8h", 16 * 3600)]
    {
        let mut world = self::world();
        world.identities[0]["spec"]["certificate"] =
            json!({"delivery": "PodCertificate", "duration": duration, "renewBefore": renew_before});
        let signature = world.signed();
        let ahead = signature.refresh.duration_since(signature.order.not_before).as_secs();
        assert_eq!(ahead, refresh, "{duration} and {renew_before}");
    }
}

#[test]
fn a_certificate_is_never_valid_from_before_its_identity() {
    let mut world = world();
    world.identities[0]["metadata"]["creationTimestamp"] = json!("2026-11-23T10:00:01Z");
    let Decision::Wait(_, Some(again)) = world.decide() else { panic!("{:?}", world.decide()) };
    assert_eq!(again, Duration::from_millis(500));
}
