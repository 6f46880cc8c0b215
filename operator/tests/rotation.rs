//! What gets in the way of certificates: hands, clocks, quotas, policies and namespaces that go. All of it heals.
//!
//! Each story has a control plane of its own; the API server refuses as real ones do. Invariant: what is asserted is
//! what a person would see with kubectl, on the metrics page, or with openssl.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use support::{CA, CREDENTIALS, IDENTITY, OURS, Stage, TARGET, condition, config, is};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

const BOT: (&str, &str, &str, &str) = (OURS, "AgentIdentity", "ci", "migration-bot");

fn ready(object: &Value) -> bool {
    is(condition(object, "Ready"), "True", "Ready")
}

/// The identity once it is Ready with another certificate than that.
async fn renewed(stage: &Stage, serial: &Value) -> Value {
    let object = stage.until(BOT.0, BOT.1, BOT.2, BOT.3, |o| o["status"]["serial"] != *serial && ready(o)).await;
    object["status"]["serial"].clone()
}

async fn patch(stage: &Stage, version: &str, kind: &str, namespace: &str, name: &str, change: Value) {
    let api = stage.api(version, kind, namespace).await;
    api.patch(name, &PatchParams::default(), &Patch::Merge(&change)).await.unwrap();
}

/// How openssl calls the key of the certificate in a Secret, once it fits.
async fn key_of(stage: &Stage) -> String {
    let secret = stage.get("v1", "Secret", "ci", "migration-bot-mtls").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (key, value) in secret["data"].as_object().unwrap() {
        let bytes: ByteString = serde_json::from_value(value.clone()).unwrap();
        std::fs::write(dir.path().join(key), bytes.0).unwrap();
    }
    let openssl = |arguments: &str| {
        let mut command = std::process::Command::new("openssl");
        let output = command.args(arguments.split(' ')).current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(openssl("verify -CAfile ca.crt -purpose sslclient tls.crt").contains("OK"));
    assert_eq!(openssl("x509 -noout -pubkey -in tls.crt"), openssl("pkey -pubout -in tls.key"));
    openssl("x509 -noout -text -in tls.crt")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hands_do_to_a_secret_is_put_right_and_told() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    stage.apply_all(&[CREDENTIALS, CA, IDENTITY, TARGET]).await;
    let serial = renewed(&stage, &Value::Null).await;

    // Edited: half of it is somebody else's.
    let garbage = json!({"data": {"tls.key": "bm90IGEga2V5"}});
    patch(&stage, "v1", "Secret", "ci", "migration-bot-mtls", garbage).await;
    let serial = renewed(&stage, &serial).await;
    stage.event("ci", ("AgentIdentity", "migration-bot"), "SecretChanged", "tls.key holds no private key").await;
    // Its label taken off: the watch does not show it any more.
    let bare = json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": null}}});
    patch(&stage, "v1", "Secret", "ci", "migration-bot-mtls", bare).await;
    let labelled = |o: &Value| o["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "sallyport";
    stage.until("v1", "Secret", "ci", "migration-bot-mtls", labelled).await;
    let serial = renewed(&stage, &serial).await;
    // Deleted; and a fleet's own.
    stage.delete("v1", "Secret", "ci", "migration-bot-mtls").await;
    let serial = renewed(&stage, &serial).await;
    stage.event("ci", ("AgentIdentity", "migration-bot"), "SecretDeleted", "its Secret was gone").await;
    let server = stage.until("v1", "Secret", "prod", "orders-db-server", |_| true).await;
    stage.until(OURS, "ProtectedTarget", "prod", "orders-db", |o| o["status"]["conditions"].is_array()).await;
    stage.delete("v1", "Secret", "prod", "orders-db-server").await;
    let other = |o: &Value| o["metadata"]["uid"] != server["metadata"]["uid"];
    wait(async || stage.get("v1", "Secret", "prod", "orders-db-server").await.filter(other)).await;
    stage.event("prod", ("ProtectedTarget", "orders-db"), "SecretDeleted", "its Secret was gone").await;

    // Each kind of key, as openssl sees it; the certificate is replaced at once.
    let mut serial = serial;
    for (algorithm, told) in [("ECDSA-P384", "secp384r1"), ("Ed25519", "ED25519"), ("ECDSA-P256", "prime256v1")] {
        let spec = json!({"spec": {"certificate": {"keyAlgorithm": algorithm}}});
        patch(&stage, BOT.0, BOT.1, BOT.2, BOT.3, spec).await;
        serial = renewed(&stage, &serial).await;
        let text = key_of(&stage).await;
        assert!(text.contains(told), "{told} in {text}");
    }

    // A namespace that goes, held up by a finalizer: nothing is issued into it, and the others go on.
    stage.apply("{apiVersion: v1, kind: Namespace, metadata: {name: leaving}}").await;
    let held = IDENTITY.replace("namespace: ci", "namespace: leaving, finalizers: [example.com/hold]");
    stage.apply(&held).await;
    stage.until(OURS, "AgentIdentity", "leaving", "migration-bot", ready).await;
    stage.delete("v1", "Namespace", "", "leaving").await;
    stage
        .until(OURS, "AgentIdentity", "leaving", "migration-bot", |o| !o["metadata"]["deletionTimestamp"].is_null())
        .await;
    stage.until_gone("v1", "Secret", "leaving", "migration-bot-mtls").await;
    stage.apply(&IDENTITY.replace("name: migration-bot", "name: another")).await;
    stage.until(OURS, "AgentIdentity", "ci", "another", ready).await;
    assert!(stage.get("v1", "Secret", "leaving", "migration-bot-mtls").await.is_none());
    patch(&stage, OURS, "AgentIdentity", "leaving", "migration-bot", json!({"metadata": {"finalizers": null}})).await;
    operator.stop().await;
}

async fn wait<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..1200 {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never came to be so");
}

/// How far the clock of the operator in the story below is ahead.
static AHEAD: AtomicI64 = AtomicI64::new(0);

fn wall() -> Timestamp {
    Timestamp::now() + SignedDuration::from_secs(AHEAD.load(Ordering::SeqCst))
}

/// Waits until the metrics page says so.
async fn metric(port: u16, line: &str) {
    let mut page = String::new();
    for _ in 0..600 {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        page.clear();
        stream.read_to_string(&mut page).await.unwrap();
        if page.lines().any(|found| found.trim() == line) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{line} is not on the page:\n{page}");
}

const DENIAL: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: no-certificates}
spec:
  failurePolicy: Fail
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [secrets]}]}
  validations: [{expression: "object.metadata.name != 'migration-bot-mtls'", message: not on a friday}]
"#;
const DENIED: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: no-certificates}
spec: {policyName: no-certificates, validationActions: [Deny]}
";
const QUOTA: &str = "
apiVersion: v1
kind: ResourceQuota
metadata: {name: full, namespace: prod}
spec: {hard: {secrets: 2}}
";

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_jump_and_writes_that_are_refused_are_told_and_outlived() {
    let stage = Stage::new().await;
    let port = sallyport_harness::free_port().unwrap();
    let mut config = config(None);
    config.admin = Some(([127, 0, 0, 1], port.number()).into());
    let user = "system:serviceaccount:sallyport-system:sallyport-operator";
    let client = stage.plane.user_client(user, &["system:serviceaccounts", "system:authenticated"]).await.unwrap();
    let stop = CancellationToken::new();
    let operator = tokio::spawn(sallyport_operator::run_by(wall, config, client, stop.clone()));
    stage.apply(IDENTITY).await;
    let serial = renewed(&stage, &Value::Null).await;

    // Two hours ahead: it has expired. Back again: its successor is valid only from a time to come.
    AHEAD.store(7200, Ordering::SeqCst);
    let serial = renewed(&stage, &serial).await;
    // Not to where it was: whoever looks only every few seconds would see no jump.
    AHEAD.store(60, Ordering::SeqCst);
    let serial = renewed(&stage, &serial).await;
    stage.event("ci", ("AgentIdentity", "migration-bot"), "Issued", "the clock was set back").await;

    // No Secret may be written any more, and the renewal is due: the certificate serves on, and it is told.
    stage.apply(DENIAL).await;
    stage.apply(DENIED).await;
    let probe = r#"{apiVersion: v1, kind: Secret, metadata: {name: migration-bot-mtls, namespace: ci}, type: kubernetes.io/tls, stringData: {tls.crt: "", tls.key: ""}}"#;
    wait(async || stage.kubectl_apply_would(probe).err().filter(|said| said.contains("friday"))).await;
    AHEAD.store(52 * 60, Ordering::SeqCst);
    let refused = |o: &Value| is(condition(o, "Rotating"), "False", "WriteRefused");
    let told = stage.until(BOT.0, BOT.1, BOT.2, BOT.3, refused).await;
    assert!(ready(&told) && is(condition(&told, "Issued"), "True", "Issued"), "{:#}", told["status"]);
    assert_eq!(told["status"]["serial"], serial);
    assert!(told["status"]["conditions"].to_string().contains("not on a friday"));
    stage.event("ci", ("AgentIdentity", "migration-bot"), "WriteRefused", "not on a friday").await;
    AHEAD.store(55 * 60, Ordering::SeqCst);
    let overdue = "sallyport_operator_renewals_overdue{kind=\"AgentIdentity\"}";
    metric(port.number(), &format!("{overdue} 1")).await;
    // It has ended: that is told too.
    AHEAD.store(65 * 60, Ordering::SeqCst);
    let ended = |o: &Value| is(condition(o, "Issued"), "False", "WriteRefused") && !ready(o);
    stage.until(BOT.0, BOT.1, BOT.2, BOT.3, ended).await;

    // Meanwhile a namespace without room for another Secret: the same for a fleet.
    stage.apply_all(&[CREDENTIALS, CA, QUOTA]).await;
    stage.until("v1", "ResourceQuota", "prod", "full", |o| o["status"]["used"]["secrets"] == "2").await;
    stage.apply(TARGET).await;
    let told = stage.until(OURS, "ProtectedTarget", "prod", "orders-db", refused).await;
    assert!(told["status"]["conditions"].to_string().contains("exceeded quota"), "{:#}", told["status"]);
    assert!(stage.get("v1", "ConfigMap", "prod", "orders-db-bundle").await.is_some(), "the rest goes on");

    // Both heal by themselves.
    stage.delete("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding", "", "no-certificates").await;
    stage.delete("v1", "ResourceQuota", "prod", "full").await;
    renewed(&stage, &serial).await;
    let healed = |o: &Value| condition(o, "Rotating").is_none();
    stage.until(OURS, "ProtectedTarget", "prod", "orders-db", healed).await;
    stage.until("v1", "Secret", "prod", "orders-db-server", |_| true).await;
    metric(port.number(), &format!("{overdue} 0")).await;
    stop.cancel();
    operator.await.unwrap().unwrap();
}
