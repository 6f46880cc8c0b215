//! A trust domain whose CA was given, and what the operator shows of itself: events, readiness, metrics.
//!
//! Runs the operator of this process against a real API server. Certificates are judged by openssl.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::process::Command;

use k8s_openapi::ByteString;
use serde_json::{Value, json};
use support::{IDENTITY, OURS, Stage, condition, config, is};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

fn openssl(at: &std::path::Path, arguments: &str) -> String {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(at).output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn get(port: u16, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_given_ca_signs_and_the_operator_says_what_it_does() {
    let stage = Stage::new().await;
    let dir = tempfile::tempdir().unwrap();
    openssl(
        dir.path(),
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=given -keyout ca.key -out ca.crt",
    );
    let text = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "sallyport-ca", "namespace": "sallyport-system"},
        "stringData": {"tls.crt": text("ca.crt"), "tls.key": text("ca.key")},
    });
    stage.apply(&secret.to_string()).await;

    let port = sallyport_harness::free_port().unwrap();
    let mut config = config(None);
    config.admin = Some(([127, 0, 0, 1], port.number()).into());
    let user = "system:serviceaccount:sallyport-system:sallyport-operator";
    let client = stage.plane.user_client(user, &["system:serviceaccounts", "system:authenticated"]).await.unwrap();
    let stop = CancellationToken::new();
    let operator = tokio::spawn(sallyport_operator::run(config, client, stop.clone()));
    stage.apply(IDENTITY).await;
    let ready = |o: &Value| is(condition(o, "Ready"), "True", "Ready");
    stage.until(OURS, "AgentIdentity", "ci", "migration-bot", ready).await;

    let leaf = stage.get("v1", "Secret", "ci", "migration-bot-mtls").await.unwrap();
    for key in ["tls.crt", "ca.crt"] {
        let bytes: ByteString = serde_json::from_value(leaf["data"][key].clone()).unwrap();
        std::fs::write(dir.path().join(format!("leaf-{key}")), bytes.0).unwrap();
    }
    assert!(openssl(dir.path(), "x509 -noout -issuer -in leaf-tls.crt").contains("given"));
    let verified = openssl(dir.path(), "verify -purpose sslclient -CAfile ca.crt leaf-tls.crt");
    assert!(verified.contains("OK"), "{verified}");
    assert_eq!(text("leaf-ca.crt").trim(), text("ca.crt").trim(), "agents trust the given CA");
    let kept = stage.get("v1", "Secret", "sallyport-system", "sallyport-ca").await.unwrap();
    let bytes: ByteString = serde_json::from_value(kept["data"]["tls.key"].clone()).unwrap();
    assert_eq!(String::from_utf8(bytes.0).unwrap(), text("ca.key"), "a given CA is never overwritten");

    let readiness = get(port.number(), "/readyz").await;
    assert!(readiness.starts_with("HTTP/1.1 200"), "{readiness}");
    let metrics = get(port.number(), "/metrics").await;
    let issued = metrics.lines().any(|line| line.contains("issued") && !line.starts_with('#') && !line.ends_with(" 0"));
    assert!(issued, "no certificate is counted: {metrics}");
    // What happens to every certificate in its time is no event; a Secret that somebody took away is.
    stage.delete("v1", "Secret", "ci", "migration-bot-mtls").await;
    let api = stage.api("events.k8s.io/v1", "Event", "ci").await;
    let found = async {
        loop {
            let events = api.list(&kube::api::ListParams::default()).await.unwrap();
            if events.items.iter().any(|event| {
                event.data["regarding"]["name"] == "migration-bot" && event.data["reason"] == "SecretDeleted"
            }) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), found).await.expect("no event on the identity");
    stop.cancel();
    operator.await.unwrap().unwrap();
}

const TRUST_DOMAIN: &str = "
apiVersion: sallyport.dev/v1alpha1
kind: TrustDomain
metadata: {name: cluster.local}
spec:
  trustDomain: cluster.local
  ca: {source: SecretRef, secretRef: {name: sallyport-ca}}
  rotation: {propagationTime: 10s}
";

/// The Secret of a CA that openssl makes, with `change` done to its parts.
fn ca_secret(name: &str, change: impl FnOnce(&mut Value)) -> String {
    let dir = tempfile::tempdir().unwrap();
    openssl(
        dir.path(),
        &format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN={name} -keyout ca.key -out ca.crt"
        ),
    );
    let text = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let mut parts = json!({"tls.crt": text("ca.crt"), "tls.key": text("ca.key")});
    change(&mut parts);
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": "sallyport-ca", "namespace": "sallyport-system"}, "stringData": parts,
    })
    .to_string()
}

async fn issuer(stage: &Stage) -> String {
    let leaf = stage.get("v1", "Secret", "ci", "migration-bot-mtls").await.unwrap();
    let bytes: ByteString = serde_json::from_value(leaf["data"]["tls.crt"].clone()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tls.crt"), bytes.0).unwrap();
    openssl(dir.path(), "x509 -noout -issuer -in tls.crt")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_secret_that_cannot_be_used_is_told_and_changes_nothing() {
    let stage = Stage::new().await;
    stage.apply(&ca_secret("first", |_| {})).await;
    let operator = stage.operator().await;
    stage.apply(IDENTITY).await;
    let ready = |o: &Value| is(condition(o, "Ready"), "True", "Ready");
    let first = stage.until(OURS, "AgentIdentity", "ci", "migration-bot", ready).await;

    let events = stage.api("events.k8s.io/v1", "Event", "sallyport-system").await;
    let told = async |words: &str| {
        let look = async {
            loop {
                let all = events.list(&kube::api::ListParams::default()).await.unwrap();
                let about = |event: &&kube::core::DynamicObject| event.data["regarding"]["name"] == "sallyport-ca";
                if all.items.iter().filter(about).any(|event| event.data["note"].as_str().unwrap_or("").contains(words))
                {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), look)
            .await
            .unwrap_or_else(|_| panic!("not told: {words}"));
    };
    let other: Value = serde_json::from_str(&ca_secret("other", |_| {})).unwrap();
    stage.apply(&ca_secret("mismatch", |parts| parts["tls.key"] = other["stringData"]["tls.key"].clone())).await;
    told("tls.key is not the key of the certificate").await;
    stage.apply(&ca_secret("keyless", |parts| parts["tls.key"] = json!(""))).await;
    told("tls.key is missing or empty").await;
    stage.apply(&ca_secret("text", |parts| parts["tls.crt"] = json!("no certificate"))).await;
    told("tls.crt: holds no PEM certificate").await;
    let after = stage.get(OURS, "AgentIdentity", "ci", "migration-bot").await.unwrap();
    assert_eq!(after["status"]["serial"], first["status"]["serial"], "the last good authority stays in force");
    // Made anew under the last good one, while its Secret cannot be used.
    stage.delete("v1", "Secret", "ci", "migration-bot-mtls").await;
    let again = |o: &Value| ready(o) && o["status"]["serial"] != first["status"]["serial"];
    let second = stage.until(OURS, "AgentIdentity", "ci", "migration-bot", again).await;
    assert!(issuer(&stage).await.contains("first"));

    // Another one signs once everybody has its root: here that is this one Secret, and ten seconds.
    stage.apply(TRUST_DOMAIN).await;
    stage.apply(&ca_secret("second", |_| {})).await;
    let phase = |phase: &'static str| move |o: &Value| o["status"]["phase"] == phase;
    stage.until(OURS, "TrustDomain", "", "cluster.local", phase("Retiring")).await;
    let after = stage.get(OURS, "AgentIdentity", "ci", "migration-bot").await.unwrap();
    assert_eq!(
        after["status"]["serial"], second["status"]["serial"],
        "what the first signed goes on until its renewal"
    );
    stage.delete("v1", "Secret", "ci", "migration-bot-mtls").await;
    let again = |o: &Value| ready(o) && o["status"]["serial"] != second["status"]["serial"];
    stage.until(OURS, "AgentIdentity", "ci", "migration-bot", again).await;
    assert!(issuer(&stage).await.contains("second"), "a good one is taken without a restart");
    operator.stop().await;
}
