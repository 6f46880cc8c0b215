//! What a person and a machine see of an identity: events, columns, metrics.
//!
//! Runs the operator of this process against a real API server. Invariant: each thing that happened is told once, and
//! a touch that means nothing is not told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use support::{ALL, IDENTITY, OURS, Stage, condition, config, is};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

const USER: &str = "system:serviceaccount:sallyport-system:sallyport-operator";

/// How often each reason was told of the identity, repetitions that Kubernetes folds into one event included.
async fn told(stage: &Stage) -> BTreeMap<String, u64> {
    let api = stage.api("events.k8s.io/v1", "Event", "ci").await;
    let mut told = BTreeMap::new();
    for event in api.list(&ListParams::default()).await.unwrap().items {
        if event.data["regarding"]["name"] == "migration-bot" {
            let times = event.data["series"]["count"].as_u64().unwrap_or(1);
            *told.entry(event.data["reason"].as_str().unwrap().to_owned()).or_default() += times;
        }
    }
    told
}

/// Waits until what is told is `wanted`, and fails as soon as it is more.
async fn until_told(stage: &Stage, wanted: &[(&str, u64)]) {
    let wanted: BTreeMap<_, _> = wanted.iter().map(|(reason, times)| ((*reason).to_owned(), *times)).collect();
    let found = async {
        loop {
            let now = told(stage).await;
            let more = now.iter().find(|(reason, times)| wanted.get(*reason).is_none_or(|most| *times > most));
            assert!(more.is_none(), "told too often: {more:?} in {now:?}");
            if now == wanted {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(60), found).await.is_err() {
        panic!("{wanted:?} was not told, but {:?}", told(stage).await);
    }
}

async fn metrics(port: u16) -> String {
    let connected = async {
        loop {
            if let Ok(stream) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
                return stream;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut stream = tokio::time::timeout(Duration::from_secs(60), connected).await.expect("nobody listens");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_story_of_an_identity_is_told_once_and_counted() {
    let stage = Stage::new().await;
    let port = sallyport_harness::free_port().unwrap();
    let mut config = config(None);
    config.admin = Some(([127, 0, 0, 1], port.number()).into());
    let client = stage.plane.user_client(USER, &["system:serviceaccounts", "system:authenticated"]).await.unwrap();
    let stop = CancellationToken::new();
    let operator = tokio::spawn(sallyport_operator::run(config, client, stop.clone()));
    let empty = metrics(port.number()).await;
    assert!(!empty.contains("nearest_certificate_expiry_seconds{"), "no certificate, and yet one ends: {empty}");

    stage.apply_all(&ALL).await;
    let agent = (OURS, "AgentIdentity", "ci", "migration-bot");
    let ready = |o: &Value| is(condition(o, "Ready"), "True", "Ready");
    let first = stage.until(agent.0, agent.1, agent.2, agent.3, ready).await;
    // What happens to every certificate in its time is no event.
    until_told(&stage, &[]).await;

    // Touches that mean nothing.
    let api = stage.api(OURS, "AgentIdentity", "ci").await;
    for touch in 0..5 {
        let patch = json!({"metadata": {"annotations": {"touched": touch.to_string()}}});
        api.patch("migration-bot", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }
    stage.apply(&IDENTITY.replace("spec: {", "spec: {suspend: true, ")).await;
    until_told(&stage, &[("Suspended", 1)]).await;
    stage.apply(IDENTITY).await;
    until_told(&stage, &[("Suspended", 1), ("Ready", 1)]).await;
    stage.delete("v1", "Secret", "ci", "migration-bot-mtls").await;
    let other = |o: &Value| ready(o) && o["status"]["serial"] != first["status"]["serial"];
    stage.until(agent.0, agent.1, agent.2, agent.3, other).await;
    until_told(&stage, &[("Suspended", 1), ("Ready", 1), ("SecretDeleted", 1)]).await;

    // What Prometheus reads, as another parser reads it.
    let text = metrics(port.number()).await;
    openmetrics_parser::openmetrics::parse_openmetrics(&text).unwrap();
    for series in [
        "sallyport_operator_certificates_issued_total{kind=\"AgentIdentity\",outcome=\"first\"} 2",
        "sallyport_operator_renewals_overdue{kind=\"AgentIdentity\"} 0",
        "sallyport_operator_objects{kind=\"AgentIdentity\",condition=\"Ready\",status=\"True\"} 1",
        "sallyport_operator_leading 1",
    ] {
        assert!(text.lines().any(|line| line == series), "{series} in {text}");
    }
    let line = text.lines().find(|line| line.contains("nearest_certificate_expiry_seconds{")).expect("an end");
    let left: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert!((3000.0..=3600.0).contains(&left), "{line}");

    // What a person sees, all at once.
    let table = stage.plane.kubectl().args(["get", "agent,target,policy", "-A"]).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    println!("{table}");
    for name in ["agentidentity.sallyport.dev/migration-bot", "protectedtarget.sallyport.dev/orders-db"] {
        let row = table.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name} in {table}"));
        assert!(!row.contains("<invalid>") && !row.contains("<none>") && row.len() < 240, "{row}");
    }
    stop.cancel();
    operator.await.unwrap().unwrap();
}
