//! Stories of the authority against a real API server: rotation in order, in need, and with operators that die.
//!
//! Runs the operator of this process with the rights of its service account. Certificates are judged by openssl.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use k8s_openapi::ByteString;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use support::{IDENTITY, OURS, Stage, condition, is};

const DOMAIN: &str = "cluster.local";

fn trust_domain(rotation: Value) -> String {
    let mut rotation = rotation;
    rotation["propagationTime"] = json!("10s");
    json!({
        "apiVersion": OURS, "kind": "TrustDomain", "metadata": {"name": DOMAIN},
        "spec": {"trustDomain": DOMAIN, "rotation": rotation},
    })
    .to_string()
}

fn ready(o: &Value) -> bool {
    is(condition(o, "Ready"), "True", "Ready")
}

fn part(secret: &Value, key: &str) -> String {
    let bytes: ByteString = serde_json::from_value(secret["data"][key].clone()).unwrap();
    String::from_utf8(bytes.0).unwrap()
}

fn roots(secret: &Value) -> usize {
    part(secret, "ca.crt").matches("BEGIN CERTIFICATE").count()
}

/// Whether openssl accepts the certificate of one Secret by the roots in another.
fn accepts(roots: &Value, leaf: &Value) -> bool {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.crt"), part(roots, "ca.crt")).unwrap();
    std::fs::write(dir.path().join("tls.crt"), part(leaf, "tls.crt")).unwrap();
    let arguments = ["verify", "-purpose", "sslclient", "-CAfile", "ca.crt", "tls.crt"];
    std::process::Command::new("openssl").args(arguments).current_dir(dir.path()).output().unwrap().status.success()
}

/// A time that is after the authority was made: certificates know whole seconds.
async fn later(stage: &Stage) -> String {
    let domain = stage.until(OURS, "TrustDomain", "", DOMAIN, |o| o["status"]["active"].is_object()).await;
    let made: Timestamp = domain["status"]["active"]["notBefore"].as_str().unwrap().parse().unwrap();
    while Timestamp::now().as_second() <= made.as_second() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    Timestamp::from_second(Timestamp::now().as_second()).unwrap().to_string()
}

async fn bot(stage: &Stage) -> Value {
    stage.get("v1", "Secret", "ci", "migration-bot-mtls").await.unwrap()
}

async fn ca(stage: &Stage) -> Value {
    stage.get("v1", "Secret", "sallyport-system", "sallyport-ca").await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_replaced_in_order_and_one_that_was_stolen_at_once() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    stage.apply(&trust_domain(json!({}))).await;
    stage.apply(IDENTITY).await;
    stage.until(OURS, "AgentIdentity", "ci", "migration-bot", ready).await;
    let stable = stage.until(OURS, "TrustDomain", "", DOMAIN, |o| o["status"]["phase"] == "Stable" && ready(o)).await;
    let (first, old_ca) = (bot(&stage).await, ca(&stage).await);

    let asked = later(&stage).await;
    stage.apply(&trust_domain(json!({"requestedAt": asked}))).await;
    let published = stage.until("v1", "Secret", "ci", "migration-bot-mtls", |o| roots(o) == 2).await;
    assert_eq!(part(&published, "tls.key"), part(&first, "tls.key"), "new roots are no new key");
    let retiring = |o: &Value| o["status"]["phase"] == "Retiring";
    let rotated = stage.until(OURS, "TrustDomain", "", DOMAIN, retiring).await;
    let waited = rotated["status"]["active"]["fingerprint"] != stable["status"]["active"]["fingerprint"];
    assert!(waited && rotated["status"]["previous"][0]["fingerprint"] == stable["status"]["active"]["fingerprint"]);
    let new_ca = ca(&stage).await;
    let keys: Vec<_> = new_ca["data"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["ca.crt", "state.json", "tls.crt", "tls.key"], "the next one's place is empty");
    let texts: Vec<_> = keys.iter().map(|key| part(&new_ca, key)).collect();
    assert!(!texts.concat().contains(part(&old_ca, "tls.key").trim()), "the old key is destroyed");
    // The old leaf is good until its renewal; one made now is the new authority's.
    assert_eq!(part(&bot(&stage).await, "tls.crt"), part(&first, "tls.crt"));
    assert!(accepts(&published, &first));
    stage.apply(&IDENTITY.replace("migration-bot", "late-bot")).await;
    stage.until(OURS, "AgentIdentity", "ci", "late-bot", ready).await;
    let late = stage.get("v1", "Secret", "ci", "late-bot-mtls").await.unwrap();
    assert!(accepts(&published, &late) && !accepts(&old_ca, &late) && accepts(&new_ca, &late));
    operator.at_rest().await;
    let again = stage.get(OURS, "TrustDomain", "", DOMAIN).await.unwrap();
    assert_eq!(again["status"]["active"], rotated["status"]["active"], "a request is met once");

    let stolen = later(&stage).await;
    stage.apply(&trust_domain(json!({"requestedAt": asked, "compromisedBefore": stolen}))).await;
    let stable = |o: &Value| o["status"]["phase"] == "Stable" && o["status"]["active"] != rotated["status"]["active"];
    stage.until(OURS, "TrustDomain", "", DOMAIN, stable).await;
    for name in ["migration-bot-mtls", "late-bot-mtls"] {
        let anew = stage.until("v1", "Secret", "ci", name, |o| roots(o) == 1 && accepts(o, o)).await;
        assert!(!accepts(&anew, &first) && !accepts(&anew, &late), "what the stolen key signed is refused");
    }
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_killed_after_any_write_leaves_a_rotation_that_the_next_one_ends() {
    let stage = Stage::new().await;
    let first = stage.operator().await;
    stage.apply(&trust_domain(json!({}))).await;
    stage.apply(IDENTITY).await;
    stage.until(OURS, "AgentIdentity", "ci", "migration-bot", ready).await;
    first.stop().await;
    let mut last = Value::Null;
    for writes in 0..6 {
        let asked = later(&stage).await;
        let before = stage.get(OURS, "TrustDomain", "", DOMAIN).await.unwrap();
        let broken = stage.operator_that_fails_after(writes).await;
        stage.apply(&trust_domain(json!({"requestedAt": asked}))).await;
        // It comes as far as it may; then the line is cut, and it is killed.
        let cut = async {
            while broken.writes.load(std::sync::atomic::Ordering::SeqCst) < usize::try_from(writes).unwrap() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(40), cut).await.expect("it wrote less than it may");
        broken.kill();
        let leaf = bot(&stage).await;
        assert!(accepts(&leaf, &leaf), "after {writes} writes the agent is refused");
        let next = stage.operator().await;
        let rotated =
            |o: &Value| o["status"]["phase"] == "Retiring" && o["status"]["active"] != before["status"]["active"];
        let rotated = stage.until(OURS, "TrustDomain", "", DOMAIN, rotated).await;
        next.at_rest().await;
        let (leaf, ca) = (bot(&stage).await, ca(&stage).await);
        assert!(accepts(&leaf, &leaf), "after {writes} writes");
        assert_eq!(
            ca["data"].as_object().unwrap().keys().collect::<Vec<_>>(),
            ["ca.crt", "state.json", "tls.crt", "tls.key"]
        );
        assert_ne!(rotated["status"]["active"], last);
        last = rotated["status"]["active"].clone();
        let previous = rotated["status"]["previous"].as_array().unwrap().len();
        assert_eq!(previous, usize::try_from(writes).unwrap() + 1, "rotated once, not twice");
        next.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_trust_domains_the_older_counts_and_one_that_disagrees_changes_nothing() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    stage.apply(IDENTITY).await;
    stage.until(OURS, "AgentIdentity", "ci", "migration-bot", ready).await;
    let before = bot(&stage).await;
    let elsewhere =
        trust_domain(json!({})).replace("\"trustDomain\":\"cluster.local\"", "\"trustDomain\":\"elsewhere.example\"");
    stage.apply(&elsewhere).await;
    stage.until(OURS, "TrustDomain", "", DOMAIN, |o| is(condition(o, "Accepted"), "False", "Disagrees")).await;
    operator.at_rest().await;
    assert_eq!(bot(&stage).await["data"], before["data"], "nothing is issued anew");
    stage.delete(OURS, "TrustDomain", "", DOMAIN).await;

    stage.apply(&trust_domain(json!({}))).await;
    stage.until(OURS, "TrustDomain", "", DOMAIN, ready).await;
    let second = trust_domain(json!({})).replace("\"name\":\"cluster.local\"", "\"name\":\"second\"");
    later(&stage).await;
    stage.apply(&second).await;
    stage.until(OURS, "TrustDomain", "", "second", |o| is(condition(o, "Accepted"), "False", "Conflicted")).await;
    stage.delete(OURS, "TrustDomain", "", DOMAIN).await;
    stage.until(OURS, "TrustDomain", "", "second", ready).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_roots_are_where_they_are_asked_for() {
    let stage = Stage::new().await;
    let mine =
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: sallyport-trust, namespace: prod}, data: {mine: yes-mine}}";
    stage.apply(mine).await;
    // The cluster's own place is taken as well.
    let stranger = sallyport_harness::Pki::new("stranger").unwrap().ca_pem();
    let theirs = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle",
        "metadata": {"name": "sallyport-trust"}, "spec": {"trustBundle": stranger}});
    stage.apply(&theirs.to_string()).await;
    stage.apply(&trust_domain(json!({}))).await;
    let operator = stage.operator().await;
    let namespace = |name: &str, value: &str| {
        format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{sallyport.dev/trust: {value}}}}}}}"
        )
    };
    stage.apply(&namespace("ci", "enabled")).await;
    stage.apply(&namespace("prod", "enabled")).await;
    let map = stage.until("v1", "ConfigMap", "ci", "sallyport-trust", |o| o["data"]["ca.crt"].is_string()).await;
    let roots = part(&ca(&stage).await, "ca.crt");
    assert_eq!(map["data"]["ca.crt"].as_str().unwrap().trim(), roots.trim());
    // What is not ours is left alone, and told of where people look.
    stage.event("prod", ("ConfigMap", "sallyport-trust"), "NotOurs", "").await;
    stage.event("default", ("ClusterTrustBundle", "sallyport-trust"), "NotOurs", "").await;
    let unpublished = |o: &Value| is(condition(o, "Published"), "False", "NotOurs") && ready(o);
    let both = |o: &Value| unpublished(o) && o["status"]["conditions"].to_string().contains("(and 1 more)");
    stage.until(OURS, "TrustDomain", "", DOMAIN, both).await;
    stage.event("default", ("TrustDomain", DOMAIN), "NotOurs", "").await;
    operator.at_rest().await;
    let kept = stage.get("v1", "ConfigMap", "prod", "sallyport-trust").await.unwrap();
    assert_eq!(kept["data"], json!({"mine": "yes-mine"}));
    let bundle = ("certificates.k8s.io/v1", "ClusterTrustBundle", "", "sallyport-trust");
    let kept = stage.get(bundle.0, bundle.1, bundle.2, bundle.3).await.unwrap();
    assert_eq!(kept["spec"], theirs["spec"]);
    // Out of the way, the place is ours; one that cannot be written costs itself alone.
    stage.delete(bundle.0, bundle.1, bundle.2, bundle.3).await;
    stage.delete("v1", "ConfigMap", "prod", "sallyport-trust").await;
    let frozen = json!({"apiVersion": "v1", "kind": "ConfigMap", "immutable": true, "data": {"ca.crt": "none"},
        "metadata": {"name": "sallyport-trust", "namespace": "prod", "labels": {"app.kubernetes.io/managed-by": "sallyport"}}});
    stage.apply(&frozen.to_string()).await;
    let refused = |o: &Value| is(condition(o, "Published"), "False", "WriteRefused");
    stage.until(OURS, "TrustDomain", "", DOMAIN, refused).await;
    let ours = stage.until(bundle.0, bundle.1, bundle.2, bundle.3, |_| true).await;
    assert_eq!(ours["spec"]["trustBundle"].as_str().unwrap().trim(), roots.trim());
    stage.delete("v1", "ConfigMap", "prod", "sallyport-trust").await;
    stage.until("v1", "ConfigMap", "prod", "sallyport-trust", |o| o["data"] == map["data"]).await;
    stage.until(OURS, "TrustDomain", "", DOMAIN, |o| condition(o, "Published").is_none()).await;
    // Another root is in both; a namespace that asks no more loses it.
    let asked = later(&stage).await;
    stage.apply(&trust_domain(json!({"requestedAt": asked}))).await;
    let two = |text: &Value| text.as_str().unwrap().matches("BEGIN CERTIFICATE").count() == 2;
    stage.until("v1", "ConfigMap", "ci", "sallyport-trust", |o| two(&o["data"]["ca.crt"])).await;
    stage
        .until("certificates.k8s.io/v1", "ClusterTrustBundle", "", "sallyport-trust", |o| {
            two(&o["spec"]["trustBundle"])
        })
        .await;
    stage.apply(&namespace("ci", "disabled")).await;
    stage.until_gone("v1", "ConfigMap", "ci", "sallyport-trust").await;
    operator.stop().await;
}
