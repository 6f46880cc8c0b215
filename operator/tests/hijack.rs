//! What somebody who may write some objects of a namespace puts in the way of certificates and roots: Secrets with a
//! forged owner, another's certificate, statuses that lie; and what is done to the Secret of the authority.
//!
//! Runs the operator of this process against a real API server. Invariant of all stories: nothing of somebody else's is
//! overwritten, nothing of somebody else's is delivered, it is told where people look, and it heals.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use sallyport_harness::{LeafOptions, Pki};
use serde_json::{Value, json};
use support::{CA, CREDENTIALS, OURS, Stage, TARGET, condition, is};

fn ready(o: &Value) -> bool {
    is(condition(o, "Ready"), "True", "Ready")
}

fn issued_false(reason: &'static str) -> impl Fn(&Value) -> bool {
    move |o| is(condition(o, "Issued"), "False", reason) && !ready(o)
}

async fn identity(stage: &Stage, name: &str, spec: Value) -> Value {
    let object = json!({"apiVersion": OURS, "kind": "AgentIdentity",
        "metadata": {"name": name, "namespace": "ci"}, "spec": spec});
    serde_json::to_value(stage.apply(&object.to_string()).await).unwrap()
}

async fn until_identity(stage: &Stage, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
    stage.until(OURS, "AgentIdentity", "ci", name, holds).await
}

/// A Secret that says it was made for `owner`, as the operator would have made it.
fn forged(owner: &Value, name: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {
            "name": name, "namespace": owner["metadata"]["namespace"],
            "labels": {"app.kubernetes.io/managed-by": "sallyport"},
            "annotations": {"sallyport.dev/trust": "forged", "sallyport.dev/issuer": "forged"},
            "ownerReferences": [{
                "apiVersion": OURS, "kind": owner["kind"], "name": owner["metadata"]["name"],
                "uid": owner["metadata"]["uid"], "controller": true,
            }],
        },
        "stringData": {"tls.crt": "", "tls.key": ""},
    });
    change(&mut secret);
    secret.to_string()
}

async fn create(stage: &Stage, secret: &str) -> Value {
    let object: DynamicObject = serde_json::from_str(secret).unwrap();
    let namespace = object.metadata.namespace.clone().unwrap();
    let made = stage.api("v1", "Secret", &namespace).await.create(&PostParams::default(), &object).await.unwrap();
    serde_json::to_value(made).unwrap()
}

async fn secret(stage: &Stage, namespace: &str, name: &str) -> Value {
    stage.get("v1", "Secret", namespace, name).await.unwrap_or_else(|| panic!("no Secret {namespace}/{name}"))
}

async fn patch(stage: &Stage, of: (&str, &str, &str, &str), change: Value) -> Value {
    let api = stage.api(of.0, of.1, of.2).await;
    let patched = api.patch(of.3, &PatchParams::default(), &Patch::Merge(&change)).await.unwrap();
    serde_json::to_value(patched).unwrap()
}

fn part(secret: &Value, key: &str) -> String {
    let bytes: ByteString = serde_json::from_value(secret["data"][key].clone()).unwrap();
    String::from_utf8(bytes.0).unwrap()
}

/// What openssl says of the certificate in a Secret.
fn openssl(secret: &Value, arguments: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    for key in ["tls.crt", "ca.crt"] {
        std::fs::write(dir.path().join(key), part(secret, key)).unwrap();
    }
    let output = std::process::Command::new("openssl").args(arguments.split(' ')).current_dir(dir.path()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_was_put_there_first_is_neither_overwritten_nor_delivered_nor_mounted() {
    let stage = Stage::new().await;
    let first = stage.operator().await;
    identity(&stage, "lender", json!({})).await;
    let lender = until_identity(&stage, "lender", ready).await;
    let lent = secret(&stage, "ci", "lender-mtls").await;
    first.stop().await;

    // While no operator looks: whoever may create Secrets knows every UID.
    let (owner, name) =
        (async |name: &str| identity(&stage, name, json!({})).await, |name: &str| format!("{name}-mtls"));
    let mine = |data: &mut Value| data["stringData"] = json!({"tls.crt": "", "tls.key": "", "mine": "yes-mine"});
    let mut before = BTreeMap::new();
    let retyped = forged(&owner("retyped").await, &name("retyped"), |it| {
        mine(it);
        it["type"] = json!("Opaque");
    });
    let frozen = forged(&owner("frozen").await, &name("frozen"), |it| {
        mine(it);
        it["immutable"] = json!(true);
    });
    let huge = forged(&owner("huge").await, &name("huge"), |it| {
        it["stringData"]["mine"] = json!("x".repeat(1024 * 1024 - 600));
    });
    let beside = forged(&owner("beside").await, &name("beside"), |it| {
        mine(it);
        it["metadata"]["ownerReferences"][0]["controller"] = json!(false);
    });
    let labelled = forged(&owner("labelled").await, &name("labelled"), |it| {
        mine(it);
        it["metadata"]["ownerReferences"] = json!([]);
    });
    let of_another = forged(&lender, &name("of-another"), mine);
    owner("of-another").await;
    for (who, text) in [
        ("retyped", &retyped),
        ("frozen", &frozen),
        ("huge", &huge),
        ("beside", &beside),
        ("labelled", &labelled),
        ("of-another", &of_another),
    ] {
        before.insert(who, create(&stage, text).await);
    }
    // Another agent's certificate and key, signed by our own authority; and names of a kind that none has.
    let borrowed = forged(&owner("borrower").await, &name("borrower"), |it| {
        it["metadata"]["annotations"] = lent["metadata"]["annotations"].clone();
        it["data"] = lent["data"].clone();
        it.as_object_mut().unwrap().remove("stringData");
    });
    create(&stage, &borrowed).await;
    let dir = tempfile::tempdir().unwrap();
    let names = format!("subjectAltName=email:{}@example", "a".repeat(3000));
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=odd"])
        .args(["-addext", &names, "-keyout", "key", "-out", "crt"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let odd = forged(&owner("odd").await, &name("odd"), |it| {
        let text = |file: &str| json!(std::fs::read_to_string(dir.path().join(file)).unwrap());
        it["stringData"] = json!({"tls.crt": text("crt"), "tls.key": text("key"), "ca.crt": text("crt")});
    });
    create(&stage, &odd).await;
    // Names at their limits, and names that meet.
    let (long, longest) = ("n".repeat(63), vec!["s".repeat(62); 4].join("."));
    identity(&stage, &long, json!({})).await;
    identity(&stage, "a.b-c", json!({})).await;
    identity(&stage, "far", json!({"certificate": {"secretName": longest}})).await;
    identity(&stage, "twin-a", json!({"certificate": {"secretName": "shared"}})).await;
    identity(&stage, "twin-b", json!({"certificate": {"secretName": "shared"}})).await;
    // Fleets: their pods trust the roots in that Secret.
    let stranger = Pki::new("stranger").unwrap();
    stage.apply_all(&[CREDENTIALS, CA]).await;
    let roots = json!({"tls.crt": "", "tls.key": "", "ca.crt": stranger.ca_pem()});
    let foreign = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "orders-db-server", "namespace": "prod"}, "stringData": roots});
    let foreign = create(&stage, &foreign.to_string()).await;
    stage.apply(TARGET).await;
    let audit = stage.apply(&TARGET.replace("name: orders-db,", "name: audit-db,")).await;
    let audit = forged(&serde_json::to_value(audit).unwrap(), "audit-db-server", |it| {
        it["stringData"] = roots.clone();
        it["immutable"] = json!(true);
    });
    let audit = create(&stage, &audit).await;

    let operator = stage.operator().await;
    for who in ["retyped", "frozen", "huge"] {
        let told = until_identity(&stage, who, issued_false("WriteRefused")).await;
        assert!(told["status"]["serial"].is_null(), "{told:#}");
    }
    for who in ["beside", "labelled", "of-another"] {
        until_identity(&stage, who, issued_false("NotOurs")).await;
        stage.event("ci", ("AgentIdentity", who), "NotOurs", "").await;
    }
    stage.event("ci", ("AgentIdentity", "frozen"), "WriteRefused", "").await;
    let borrower = until_identity(&stage, "borrower", ready).await;
    let kept = secret(&stage, "ci", "borrower-mtls").await;
    assert_ne!(borrower["status"]["serial"], lender["status"]["serial"]);
    assert_ne!(part(&kept, "tls.key"), part(&lent, "tls.key"));
    assert!(openssl(&kept, "x509 -noout -ext subjectAltName -in tls.crt").contains("/ns/ci/agent/borrower"));
    assert!(openssl(&kept, "verify -CAfile ca.crt -purpose sslclient tls.crt").contains("OK"));
    until_identity(&stage, "odd", ready).await;
    let note = stage.event("ci", ("AgentIdentity", "odd"), "SecretChanged", "").await;
    assert!(note.contains("neither a URI nor a DNS name") && !note.contains("aaaa"), "{note}");
    for who in [long.as_str(), "a.b-c", "far"] {
        let one = until_identity(&stage, who, ready).await;
        let kept = secret(&stage, "ci", one["status"]["secretName"].as_str().unwrap()).await;
        assert!(openssl(&kept, "x509 -noout -ext subjectAltName -in tls.crt").contains(&format!("/ns/ci/agent/{who}")));
    }
    // One of the twins has it; the other is told, and has it when the first is gone.
    let twins = async || {
        let (a, b) = (until_identity(&stage, "twin-a", settled).await, until_identity(&stage, "twin-b", settled).await);
        (ready(&a), ready(&b), secret(&stage, "ci", "shared").await)
    };
    let (a, b, shared) = twins().await;
    assert!(a != b, "one and only one of both");
    let has = if a { "twin-a" } else { "twin-b" };
    assert_eq!(shared["metadata"]["ownerReferences"][0]["name"], has);

    let blocked = |o: &Value| is(condition(o, "Ready"), "False", "NotOurs");
    let told = stage.until(OURS, "ProtectedTarget", "prod", "orders-db", blocked).await;
    assert!(told["status"]["conditions"].to_string().contains("Secret orders-db-server"), "{:#}", told["status"]);
    let refused = |o: &Value| is(condition(o, "Rotating"), "False", "WriteRefused");
    stage.until(OURS, "ProtectedTarget", "prod", "audit-db", refused).await;
    operator.at_rest().await;
    for fleet in ["orders-db-proxy", "audit-db-proxy"] {
        assert!(stage.get("apps/v1", "Deployment", "prod", fleet).await.is_none(), "{fleet} would trust a stranger");
    }
    assert_eq!(secret(&stage, "prod", "orders-db-server").await["data"], foreign["data"]);
    assert_eq!(secret(&stage, "prod", "audit-db-server").await["data"], audit["data"]);
    for (who, was) in &before {
        let now = secret(&stage, "ci", &name(who)).await;
        assert_eq!((&now["data"], &now["type"]), (&was["data"], &was["type"]), "{who}");
    }

    // Taken away, all of it is as if it had never been there.
    for who in before.keys() {
        stage.delete("v1", "Secret", "ci", &name(who)).await;
    }
    for fleet in ["orders-db", "audit-db"] {
        stage.delete("v1", "Secret", "prod", &format!("{fleet}-server")).await;
    }
    // The ones that say nothing of us are not watched: an edit of the identity has them looked at again.
    for who in ["beside", "labelled", "of-another"] {
        identity(&stage, who, json!({"groups": ["again"]})).await;
    }
    for who in before.keys() {
        until_identity(&stage, who, ready).await;
    }
    patch(&stage, (OURS, "ProtectedTarget", "prod", "orders-db"), json!({"spec": {"proxy": {"replicas": 3}}})).await;
    for fleet in ["orders-db", "audit-db"] {
        stage.until("apps/v1", "Deployment", "prod", &format!("{fleet}-proxy"), |_| true).await;
        let kept = secret(&stage, "prod", &format!("{fleet}-server")).await;
        assert!(!part(&kept, "ca.crt").contains(stranger.ca_pem().trim()));
        assert!(openssl(&kept, "verify -CAfile ca.crt -purpose sslserver tls.crt").contains("OK"));
    }

    // The same name again and again, as fast as it goes: what is told at the end is of the last.
    let api = stage.api(OURS, "AgentIdentity", "ci").await;
    for _ in 0..12 {
        api.delete("lender", &DeleteParams::default()).await.unwrap();
        identity(&stage, "lender", json!({})).await;
    }
    // A status that came late for one of them would make the last Ready before it has a Secret.
    let last = until_identity(&stage, "lender", ready).await;
    let kept = secret(&stage, "ci", "lender-mtls").await;
    let subject = openssl(&kept, "x509 -noout -subject -nameopt multiline -in tls.crt");
    assert!(subject.contains(last["metadata"]["uid"].as_str().unwrap()), "{subject}");
    operator.stop().await;
}

/// A status without the times of its conditions, which begin anew.
fn timeless(o: &Value) -> Value {
    let mut status = o["status"].clone();
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        condition["lastTransitionTime"] = Value::Null;
    }
    status
}

fn settled(o: &Value) -> bool {
    ready(o) || is(condition(o, "Issued"), "False", "NotOurs")
}

const FORGER: &str = r#"{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: forger, namespace: ci},
rules: [{apiGroups: [sallyport.dev], resources: [agentidentities/status], verbs: [patch, update]}]}"#;
const FORGES: &str = r#"{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding,
metadata: {name: forger, namespace: ci}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: forger},
subjects: [{kind: User, apiGroup: rbac.authorization.k8s.io, name: forger}]}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_lies_and_an_authority_that_is_tampered_with_are_put_right_or_told() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    let domain = |rotation: Value| {
        let spec = json!({"trustDomain": "cluster.local", "rotation": rotation});
        json!({"apiVersion": OURS, "kind": "TrustDomain", "metadata": {"name": "cluster.local"}, "spec": spec})
    };
    stage.apply(&domain(json!({"propagationTime": "10s"})).to_string()).await;
    let bound = json!({"boundTo": {"podSelector": {"matchLabels": {"app": "bot"}}}});
    identity(&stage, "bound", bound).await;
    identity(&stage, "plain", json!({})).await;
    let truth = |o: &Value| ready(o) && is(condition(o, "Bound"), "False", "NoPods");
    let bound = until_identity(&stage, "bound", truth).await;
    let plain = until_identity(&stage, "plain", ready).await;
    operator.at_rest().await;

    // Rights to the status alone, and a pod's address that nobody has: as a merge, and as a manager of its own.
    stage.apply_all(&[FORGER, FORGES]).await;
    let forger = stage.plane.user_client("forger", &["system:authenticated"]).await.unwrap();
    let gvk = kube::core::GroupVersionKind::gvk("sallyport.dev", "v1alpha1", "AgentIdentity");
    let resource = kube::core::ApiResource::from_gvk_with_plural(&gvk, "agentidentities");
    let forger: Api<DynamicObject> = Api::namespaced_with(forger, "ci", &resource);
    let lie = json!({"boundFor": bound["status"]["boundFor"], "boundAddresses": ["10.6.6.6"], "serial": "ff",
        "secretName": "theirs", "spiffeId": "spiffe://cluster.local/ns/ci/agent/root",
        "conditions": [{"type": "Forged", "status": "True", "reason": "Forged", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    for (who, was) in [("bound", &bound), ("plain", &plain)] {
        let as_manager = json!({"apiVersion": OURS, "kind": "AgentIdentity", "metadata": {"name": who}, "status": lie});
        for attempt in 0..3 {
            let forged = if attempt == 1 {
                let params = PatchParams::apply("forger").force();
                forger.patch_status(who, &params, &Patch::Apply(&as_manager)).await
            } else {
                forger.patch_status(who, &PatchParams::default(), &Patch::Merge(&json!({"status": lie}))).await
            };
            let told = serde_json::to_value(forged.unwrap()).unwrap();
            assert_eq!(told["status"]["boundAddresses"], json!(["10.6.6.6"]), "until the operator has seen it");
            until_identity(&stage, who, |o| timeless(o) == timeless(was)).await;
        }
    }
    let quiet = operator.at_rest().await;
    assert_eq!(operator.at_rest().await, quiet, "and nobody argues any more");

    // The Secret of the authority. Whatever is done to it, what signs is what was written down last.
    let ca = ("v1", "Secret", "sallyport-system", "sallyport-ca");
    let td = async |holds: &dyn Fn(&Value) -> bool| stage.until(OURS, "TrustDomain", "", "cluster.local", holds).await;
    let stable = td(&|o| o["status"]["phase"] == "Stable" && ready(o)).await;
    let good = secret(&stage, ca.2, ca.3).await;
    let other = Pki::new("cluster.local").unwrap();
    let leaf = other.leaf(&LeafOptions::default()).unwrap();
    let text = |text: &str| json!(ByteString(text.as_bytes().to_vec()));
    let attacks = [
        (json!({"tls.key": text("")}), "CAIncomplete"),
        (json!({"tls.key": text(&other.ca_key_pem())}), "CAKeyMismatch"),
        (
            json!({"tls.crt": text(&leaf.cert_pem), "tls.key": text(&leaf.key_pem), "ca.crt": text(&other.ca_pem())}),
            "CACertificateInvalid",
        ),
        (json!({"state.json": text("{")}), "CAStateInvalid"),
        (json!({"tls.crt": text(&"x".repeat(100_000))}), "CACertificateInvalid"),
    ];
    for (number, (change, word)) in attacks.iter().enumerate() {
        patch(&stage, ca, json!({"data": change})).await;
        td(&|o| is(condition(o, "Ready"), "False", word)).await;
        stage.event(ca.2, (ca.1, ca.3), word, "").await;
        // Issued under load all the same, by the last good one.
        let names: Vec<_> = (0..5).map(|one| format!("load-{number}-{one}")).collect();
        for name in &names {
            identity(&stage, name, json!({})).await;
        }
        for name in &names {
            until_identity(&stage, name, ready).await;
            let kept = secret(&stage, "ci", &format!("{name}-mtls")).await;
            assert_eq!(part(&kept, "ca.crt").trim(), part(&good, "ca.crt").trim(), "{word}: nothing else is trusted");
            assert!(openssl(&kept, "verify -CAfile ca.crt tls.crt").contains("OK"));
        }
        patch(&stage, ca, json!({"data": good["data"]})).await;
        let healed = td(&ready).await;
        assert_eq!(healed["status"]["active"], stable["status"]["active"], "{word}");
    }
    // Its label and annotations are no seal: without them it is a given one, and the same.
    let label = "app.kubernetes.io/managed-by";
    patch(
        &stage,
        ca,
        json!({"metadata": {"labels": {label: null}, "annotations": {"sallyport.dev/issuer": "forged"}}}),
    )
    .await;
    operator.at_rest().await;
    let after = stage.get(OURS, "TrustDomain", "", "cluster.local").await.unwrap();
    assert_eq!(after["status"]["active"], stable["status"]["active"]);
    patch(&stage, ca, json!({"metadata": {"labels": {label: "sallyport"}}})).await;
    stage.delete("v1", "Secret", ca.2, "sallyport-ca-state").await;

    // Made immutable: a rotation that is asked for cannot be written down, and that is told. Deleted: it is written again.
    patch(&stage, ca, json!({"immutable": true})).await;
    let made: Timestamp = stable["status"]["active"]["notBefore"].as_str().unwrap().parse().unwrap();
    while Timestamp::now().as_second() <= made.as_second() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let asked = json!({"propagationTime": "10s", "requestedAt": Timestamp::from_second(Timestamp::now().as_second()).unwrap().to_string()});
    stage.apply(&domain(asked).to_string()).await;
    let told = td(&|o| is(condition(o, "Ready"), "False", "WriteRefused")).await;
    assert_eq!(told["status"]["active"], stable["status"]["active"]);
    stage.event(ca.2, (ca.1, ca.3), "WriteRefused", "immutable").await;
    // And an agent's Secret that takes no other roots: it holds the rotation up, by name, and is told; nothing else waits.
    patch(&stage, ("v1", "Secret", "ci", "plain-mtls"), json!({"immutable": true})).await;
    stage.delete(ca.0, ca.1, ca.2, ca.3).await;
    stage.event(ca.2, (ca.1, ca.3), "RotationBegun", "").await;
    let stuck = until_identity(&stage, "plain", |o| is(condition(o, "Rotating"), "False", "WriteRefused")).await;
    assert!(ready(&stuck) && stuck["status"]["serial"] == plain["status"]["serial"], "it serves on");
    td(&|o| o["status"]["phase"] == "Propagating" && o.to_string().contains("Secret ci/plain-mtls")).await;
    let bound = secret(&stage, "ci", "bound-mtls").await;
    assert_eq!(part(&bound, "ca.crt").matches("BEGIN").count(), 2);
    stage.delete("v1", "Secret", "ci", "plain-mtls").await;
    td(&|o| o["status"]["phase"] == "Retiring" && ready(o)).await;
    operator.stop().await;
}
