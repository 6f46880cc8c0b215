//! The signer of PodCertificateRequests against the real API server, its authorizer and its admission.
//!
//! A node of this cluster is a name: the test asks with the rights of its kubelet, as a kubelet would. Invariant:
//! who asks for more than its own gets no certificate, whether the API server sees it or the operator does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::Duration;

use k8s_openapi::ByteString;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType, SignatureAlgorithm};
use serde_json::{Value, json};
use support::{OURS, Stage, condition, is};

const V1: &str = "certificates.k8s.io/v1";
const KIND: &str = "PodCertificateRequest";
const POLICY: &str = "sallyport-pod-certificates";

/// A namespace `ci` with nodes `n1` and `n2`, service accounts `bot` and `other`, and an identity of each.
async fn set(stage: &Stage) {
    for node in ["n1", "n2"] {
        stage.apply(&format!("{{apiVersion: v1, kind: Node, metadata: {{name: {node}}}}}")).await;
    }
    for name in ["bot", "other"] {
        stage
            .apply(&format!("{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {name}, namespace: ci}}}}"))
            .await;
        identity(stage, name, name, "").await;
    }
}

async fn identity(stage: &Stage, name: &str, account: &str, more: &str) {
    let spec =
        format!("{{serviceAccountName: {account}, certificate: {{delivery: PodCertificate, duration: 2h}}{more}}}");
    stage
        .apply(&format!(
            "{{apiVersion: {OURS}, kind: AgentIdentity, metadata: {{name: {name}, namespace: ci}}, spec: {spec}}}"
        ))
        .await;
}

/// A pod of `bot` on `n1` that projects a certificate with these annotations.
async fn pod(stage: &Stage, name: &str, annotations: Value) {
    let projection = json!({
        "signerName": "sallyport.dev/agent", "keyType": "ECDSAP256", "credentialBundlePath": "bundle.pem", "userAnnotations": annotations,
    });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "ci"},
        "spec": {
            "nodeName": "n1", "serviceAccountName": "bot", "automountServiceAccountToken": false,
            "containers": [{"name": "agent", "image": "none"}],
            "volumes": [{"name": "identity", "projected": {"sources": [{"podCertificate": projection}]}}],
        },
    });
    stage.apply(&pod.to_string()).await;
}

async fn uid(stage: &Stage, kind: &str, name: &str) -> Value {
    let namespace = if kind == "Node" { "" } else { "ci" };
    stage.get("v1", kind, namespace, name).await.unwrap_or_else(|| panic!("no {kind} {name}"))["metadata"]["uid"]
        .clone()
}

fn csr(algorithm: &'static SignatureAlgorithm, name: Option<&str>) -> (KeyPair, ByteString) {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = name.map(|uri| SanType::URI(uri.try_into().unwrap())).into_iter().collect();
    let request = params.serialize_request(&key).unwrap();
    (key, ByteString(request.der().to_vec()))
}

/// What the kubelet of `n1` asks for that pod.
async fn asked(stage: &Stage, name: &str, pod: &str) -> Value {
    let (pod_object, pod_uid) = (stage.get("v1", "Pod", "ci", pod).await.unwrap(), uid(stage, "Pod", pod).await);
    let projection = &pod_object["spec"]["volumes"][0]["projected"]["sources"][0]["podCertificate"];
    json!({
        "apiVersion": V1, "kind": KIND, "metadata": {"name": name, "namespace": "ci"},
        "spec": {
            "signerName": "sallyport.dev/agent", "podName": pod, "podUID": pod_uid,
            "serviceAccountName": "bot", "serviceAccountUID": uid(stage, "ServiceAccount", "bot").await,
            "nodeName": "n1", "nodeUID": uid(stage, "Node", "n1").await, "maxExpirationSeconds": 86400,
            "stubPKCS10Request": csr(&rcgen::PKCS_ECDSA_P256_SHA256, None).1,
            "unverifiedUserAnnotations": projection["userAnnotations"],
        },
    })
}

async fn kubelet(stage: &Stage, node: &str) -> Client {
    stage.plane.user_client(&format!("system:node:{node}"), &["system:nodes", "system:authenticated"]).await.unwrap()
}

async fn create(client: &Client, request: &Value) -> kube::Result<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("certificates.k8s.io", "v1", KIND));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "ci", &resource);
    api.create(&PostParams::default(), &serde_json::from_value(request.clone()).unwrap()).await
}

/// The admission judges by caches of its own: a pod that was just made is not in them yet.
async fn create_once_seen(client: &Client, request: &Value) {
    let last = async {
        while let Err(error) = create(client, request).await {
            let kube::Error::Api(status) = &error else { panic!("{error}") };
            assert!(status.message.contains("while retrieving") || status.message.contains("differs"), "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), last).await.expect("the admission never saw the pod");
}

/// The policy is in force a moment after it was applied.
async fn refused_to_people(stage: &Stage, request: &Value) {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("certificates.k8s.io", "v1", KIND));
    let api: Api<DynamicObject> = Api::namespaced_with(stage.client.clone(), "ci", &resource);
    let (object, params) =
        (serde_json::from_value(request.clone()).unwrap(), PostParams { dry_run: true, ..PostParams::default() });
    let told = async {
        loop {
            match api.create(&params, &object).await {
                Err(error) => break error.to_string(),
                Ok(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(60), told).await.expect("the policy never came into force");
    assert!(told.contains("only kubelets ask for certificates of agents"), "{told}");
}

/// As an administrator, once the policy that forbids it is gone.
async fn create_by_hand(stage: &Stage, request: &Value) {
    let made = async {
        while let Err(error) = create(&stage.client, request).await {
            assert!(error.to_string().contains("only kubelets"), "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), made).await.expect("the policy never went out of force");
}

async fn answer(stage: &Stage, name: &str) -> (String, String, Value) {
    let request = stage.until(V1, KIND, "ci", name, |o| o["status"]["conditions"].is_array()).await;
    let condition = &request["status"]["conditions"][0];
    let word = |part: &str| condition[part].as_str().unwrap().to_owned();
    (word("type"), word("reason"), request)
}

fn seconds(value: &Value) -> i64 {
    value.as_str().unwrap().parse::<k8s_openapi::jiff::Timestamp>().unwrap().as_second()
}

fn openssl(dir: &std::path::Path, arguments: &str) -> String {
    let output = std::process::Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output().unwrap();
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelets_key_is_signed_for_its_pods_identity_and_no_secret_is_left() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    // An identity that had a Secret before.
    stage
        .apply(
            "{apiVersion: sallyport.dev/v1alpha1, kind: AgentIdentity, metadata: {name: bot, namespace: ci}, spec: {}}",
        )
        .await;
    stage.until("v1", "Secret", "ci", "bot-mtls", |_| true).await;
    set(&stage).await;
    stage.until_gone("v1", "Secret", "ci", "bot-mtls").await;
    let told =
        |o: &Value| is(condition(o, "Issued"), "True", "OnRequest") && is(condition(o, "Ready"), "True", "Ready");
    let bot = stage.until(OURS, "AgentIdentity", "ci", "bot", told).await;
    for field in ["serial", "secretName", "notBefore", "notAfter", "renewalTime"] {
        assert!(bot["status"].get(field).is_none(), "{field} is nobody's: {}", bot["status"]);
    }

    pod(&stage, "agent", json!({"sallyport.dev/identity": "bot"})).await;
    let (key, stub) = csr(&rcgen::PKCS_ECDSA_P256_SHA256, None);
    let mut request = asked(&stage, "first", "agent").await;
    request["spec"]["stubPKCS10Request"] = json!(stub);
    let n1 = kubelet(&stage, "n1").await;
    create_once_seen(&n1, &request).await;
    let (type_, _, issued) = answer(&stage, "first").await;
    assert_eq!(type_, "Issued", "{issued:#}");

    // As openssl sees it: the identity's name alone, a client, for the kubelet's key, from the trust domain.
    let dir = tempfile::tempdir().unwrap();
    let authority = stage.get("v1", "Secret", "sallyport-system", "sallyport-ca").await.unwrap();
    let ca: ByteString = serde_json::from_value(authority["data"]["ca.crt"].clone()).unwrap();
    std::fs::write(dir.path().join("ca.crt"), ca.0).unwrap();
    std::fs::write(dir.path().join("tls.crt"), issued["status"]["certificateChain"].as_str().unwrap()).unwrap();
    std::fs::write(dir.path().join("tls.key"), key.serialize_pem()).unwrap();
    assert!(openssl(dir.path(), "verify -CAfile ca.crt -purpose sslclient tls.crt").contains("OK"));
    let told = openssl(dir.path(), "x509 -noout -text -in tls.crt");
    assert!(told.contains("URI:spiffe://cluster.local/ns/ci/agent/bot"), "{told}");
    assert!(told.matches("URI:").count() == 1 && !told.contains("DNS:") && !told.contains("TLS Web Server"), "{told}");
    assert!(told.contains(bot["metadata"]["uid"].as_str().unwrap()), "it is of this object: {told}");
    let [of_key, of_certificate] =
        ["pkey -in tls.key -pubout", "x509 -in tls.crt -noout -pubkey"].map(|arguments| openssl(dir.path(), arguments));
    assert_eq!(of_key, of_certificate);
    let status = &issued["status"];
    assert_eq!(seconds(&status["notAfter"]) - seconds(&status["notBefore"]), 2 * 3600);
    assert_eq!(seconds(&status["notAfter"]) - seconds(&status["beginRefreshAt"]), 2 * 3600 / 3);

    // Replayed: as it was, under another name, and after an operator has come anew.
    let mut again = request.clone();
    again["metadata"]["name"] = json!("replayed");
    create(&n1, &again).await.unwrap();
    let (type_, reason, replayed) = answer(&stage, "replayed").await;
    assert_eq!((type_.as_str(), reason.as_str()), ("Denied", "KeyReused"), "{replayed:#}");
    assert!(replayed["status"].get("certificateChain").is_none());
    operator.at_rest().await;
    operator.stop().await;
    let operator = stage.operator().await;
    create(&n1, &asked(&stage, "second", "agent").await).await.unwrap();
    assert_eq!(answer(&stage, "second").await.0, "Issued");
    assert_eq!(operator.at_rest().await, 1, "what is answered is left alone: {:?}", operator.log.lock().unwrap());
    let kept = stage.get(V1, KIND, "ci", "first").await.unwrap();
    assert_eq!(kept["metadata"]["resourceVersion"], issued["metadata"]["resourceVersion"]);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_more_than_its_own_is_refused_with_a_reason() {
    let stage = Stage::new().await;
    set(&stage).await;
    pod(&stage, "agent", json!({"sallyport.dev/identity": "bot"})).await;
    pod(&stage, "greedy", json!({"sallyport.dev/identity": "other"})).await;
    pod(&stage, "chatty", json!({"sallyport.dev/identity": "bot", "example.com/role": "root"})).await;
    let operator = stage.operator().await;
    let (n1, n2) = (kubelet(&stage, "n1").await, kubelet(&stage, "n2").await);

    // What the API server itself does not take from a kubelet, once it has seen the pod.
    create_once_seen(&n1, &asked(&stage, "good", "agent").await).await;
    assert_eq!(answer(&stage, "good").await.0, "Issued");
    let refused = create(&n2, &asked(&stage, "stolen", "agent").await).await.unwrap_err().to_string();
    assert!(refused.contains("not the requesting node"), "{refused}");
    let mut elsewhere = asked(&stage, "elsewhere", "agent").await;
    elsewhere["spec"]["nodeName"] = json!("n2");
    elsewhere["spec"]["nodeUID"] = uid(&stage, "Node", "n2").await;
    let refused = create(&n2, &elsewhere).await.unwrap_err().to_string();
    assert!(refused.contains("is not running on node"), "{refused}");
    let mut account = asked(&stage, "account", "agent").await;
    account["spec"]["serviceAccountName"] = json!("other");
    account["spec"]["serviceAccountUID"] = uid(&stage, "ServiceAccount", "other").await;
    let refused = create(&n1, &account).await.unwrap_err().to_string();
    assert!(refused.contains("differs from running pod"), "{refused}");
    let mut forged = asked(&stage, "forged", "agent").await;
    let ByteString(mut bytes) = csr(&rcgen::PKCS_ECDSA_P256_SHA256, None).1;
    *bytes.last_mut().unwrap() ^= 1;
    forged["spec"]["stubPKCS10Request"] = json!(ByteString(bytes));
    let refused = create(&n1, &forged).await.unwrap_err().to_string();
    assert!(refused.contains("invalid signature") || refused.contains("valid PKCS#10"), "{refused}");

    // What it takes from kubelets, and the operator does not sign.
    create_once_seen(&n1, &asked(&stage, "another-identity", "greedy").await).await;
    create_once_seen(&n1, &asked(&stage, "annotations", "chatty").await).await;
    let mut unasked = asked(&stage, "unasked", "agent").await;
    unasked["spec"]["unverifiedUserAnnotations"] = json!({});
    create(&n1, &unasked).await.unwrap();
    let mut named = asked(&stage, "named", "agent").await;
    let other = Some("spiffe://cluster.local/ns/ci/agent/other");
    named["spec"]["stubPKCS10Request"] = json!(csr(&rcgen::PKCS_ECDSA_P256_SHA256, other).1);
    create(&n1, &named).await.unwrap();
    let mut key = asked(&stage, "key", "agent").await;
    key["spec"]["stubPKCS10Request"] = json!(csr(&rcgen::PKCS_ECDSA_P521_SHA512, None).1);
    create(&n1, &key).await.unwrap();
    // An administrator, whom those checks pass by, is told that kubelets alone may ask.
    refused_to_people(&stage, &asked(&stage, "by-hand", "agent").await).await;
    stage.delete("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding", "", POLICY).await;
    // And without that policy, the operator is there.
    elsewhere["spec"]["stubPKCS10Request"] = json!(csr(&rcgen::PKCS_ECDSA_P256_SHA256, None).1);
    create_by_hand(&stage, &elsewhere).await;
    create_by_hand(&stage, &account).await;
    for (name, field) in [("old-pod", "podUID"), ("old-node", "nodeUID"), ("old-account", "serviceAccountUID")] {
        let mut old = asked(&stage, name, "agent").await;
        old["spec"][field] = json!("5f0e");
        create_by_hand(&stage, &old).await;
    }
    for (name, reason) in [
        ("another-identity", "ServiceAccountMismatch"),
        ("annotations", "InvalidUnverifiedUserAnnotations"),
        ("unasked", "PodMismatch"),
        ("named", "InvalidRequest"),
        ("key", "UnsupportedKeyType"),
        ("elsewhere", "NodeMismatch"),
        ("account", "ServiceAccountMismatch"),
        ("old-pod", "PodMismatch"),
        ("old-node", "NodeMismatch"),
        ("old-account", "ServiceAccountMismatch"),
    ] {
        let (type_, told, request) = answer(&stage, name).await;
        assert_eq!((type_.as_str(), told.as_str()), ("Denied", reason), "{name}: {:#}", request["status"]);
        assert!(request["status"].get("certificateChain").is_none(), "{name}");
    }

    // Somebody else's signer: neither does the operator look at it, nor would it be let.
    let mut foreign = asked(&stage, "foreign", "agent").await;
    foreign["spec"]["signerName"] = json!("example.com/agent");
    create(&stage.client, &foreign).await.unwrap();
    operator.at_rest().await;
    let foreign = stage.get(V1, KIND, "ci", "foreign").await.unwrap();
    assert!(foreign["status"].get("conditions").is_none(), "{foreign:#}");
    let user = "system:serviceaccount:sallyport-system:sallyport-operator";
    let rights = stage.plane.user_client(user, &["system:serviceaccounts", "system:authenticated"]).await.unwrap();
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("certificates.k8s.io", "v1", KIND));
    let api: Api<DynamicObject> = Api::namespaced_with(rights, "ci", &resource);
    let denied = json!({"type": "Denied", "status": "True", "reason": "X", "message": "x", "lastTransitionTime": "2026-11-23T10:00:00Z"});
    let body = json!({"apiVersion": V1, "kind": KIND, "status": {"conditions": [denied]}});
    let refused = api.patch_status("foreign", &PatchParams::apply("sallyport").force(), &Patch::Apply(&body)).await;
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("not permitted to \\\"sign\\\"") || refused.contains("not permitted to \"sign\""),
        "{refused}"
    );
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_edit_can_heal_waits_and_is_told_on_the_pod() {
    let stage = Stage::new().await;
    set(&stage).await;
    identity(&stage, "second", "bot", "").await;
    identity(&stage, "paused", "bot", ", suspend: true").await;
    pod(&stage, "unnamed", json!({})).await;
    pod(&stage, "early", json!({"sallyport.dev/identity": "not-yet"})).await;
    pod(&stage, "paused", json!({"sallyport.dev/identity": "paused"})).await;
    let operator = stage.operator().await;
    let n1 = kubelet(&stage, "n1").await;
    for name in ["unnamed", "early", "paused"] {
        create_once_seen(&n1, &asked(&stage, name, name).await).await;
    }
    let events = stage.api("events.k8s.io/v1", "Event", "ci").await;
    for (pod, reason) in [("unnamed", "AmbiguousIdentity"), ("early", "IdentityNotFound"), ("paused", "Suspended")] {
        let told = async {
            loop {
                let all = events.list(&Default::default()).await.unwrap();
                if all
                    .items
                    .iter()
                    .any(|event| event.data["regarding"]["name"] == pod && event.data["reason"] == reason)
                {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), told)
            .await
            .unwrap_or_else(|_| panic!("{reason} is not told on {pod}"));
        let request = stage.get(V1, KIND, "ci", pod).await.unwrap();
        assert!(request["status"].get("conditions").is_none(), "it is not the last word: {request:#}");
    }
    identity(&stage, "not-yet", "bot", "").await;
    identity(&stage, "paused", "bot", ", suspend: false").await;
    for name in ["early", "paused"] {
        assert_eq!(answer(&stage, name).await.0, "Issued", "{name}");
    }
    for name in ["second", "paused", "not-yet"] {
        stage.delete(OURS, "AgentIdentity", "ci", name).await;
    }
    assert_eq!(answer(&stage, "unnamed").await.0, "Issued", "one is left, and meant");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_cluster_has_no_such_requests_a_condition_says_so() {
    let stage = Stage::without(&["PodCertificateRequest"]).await;
    let operator = stage.operator().await;
    stage.apply("{apiVersion: sallyport.dev/v1alpha1, kind: AgentIdentity, metadata: {name: plain, namespace: ci}, spec: {}}").await;
    stage.until(OURS, "AgentIdentity", "ci", "plain", |o| is(condition(o, "Ready"), "True", "Ready")).await;
    identity(&stage, "bot", "bot", "").await;
    let told = |o: &Value| {
        let why = "PodCertificatesNotServed";
        is(condition(o, "Issued"), "False", why) && is(condition(o, "Ready"), "False", why)
    };
    stage.until(OURS, "AgentIdentity", "ci", "bot", told).await;
    // The one Secret that there is stays until there is something in its place.
    identity(&stage, "plain", "bot", "").await;
    stage.until(OURS, "AgentIdentity", "ci", "plain", told).await;
    operator.at_rest().await;
    assert!(stage.get("v1", "Secret", "ci", "plain-mtls").await.is_some());
    operator.stop().await;
}
