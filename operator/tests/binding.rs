//! Stories of identities that are bound to pods, against a real API server.
//!
//! Nothing runs pods there: the test says what a kubelet would say of them. Invariant of all: what is asserted is
//! what a fleet reads.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use support::{OURS, Stage, condition, is};

const RUNNER: &str = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: runner, namespace: ci}}";
const OTHER: &str = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: other, namespace: ci}}";
const FREE: &str = "
apiVersion: sallyport.dev/v1alpha1
kind: AgentIdentity
metadata: {name: free, namespace: prod}
spec: {}
";
const BOUND: &str = "
apiVersion: sallyport.dev/v1alpha1
kind: AgentIdentity
metadata: {name: bot, namespace: ci}
spec: {serviceAccountName: runner, boundTo: {podSelector: {matchLabels: {app: bot}}}}
";
const BINDING: &str = "app=bot; serviceAccountName=runner";

/// A pod that its kubelet has started.
async fn start(stage: &Stage, name: &str, account: &str, addresses: &[&str]) {
    stage
        .apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: ci, labels: {{app: bot}}}}, spec: {{serviceAccountName: {account}, containers: [{{name: a, image: a}}]}}}}"
        ))
        .await;
    let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    let status = json!({"status": {"phase": "Running", "podIP": addresses[0], "podIPs": ips}});
    let api = stage.api("v1", "Pod", "ci").await;
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
}

async fn change(stage: &Stage, name: &str, patch: Value) {
    let api = stage.api("v1", "Pod", "ci").await;
    api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

/// As when the kubelet has ended it.
async fn end(stage: &Stage, name: &str) {
    let api = stage.api("v1", "Pod", "ci").await;
    api.delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
}

fn addresses(object: &Value) -> Vec<&str> {
    object["status"]["boundAddresses"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

async fn until_bound(stage: &Stage, wanted: &[&str]) -> Value {
    let holds = |o: &Value| o["status"]["boundFor"] == BINDING && addresses(o) == wanted;
    stage.until(OURS, "AgentIdentity", "ci", "bot", holds).await
}

fn watched(operator: &support::Operator, namespace: &str) -> bool {
    operator.reads.lock().unwrap().contains(&format!("/api/v1/namespaces/{namespace}/pods"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_follows_its_pods_wherever_they_go() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    stage.apply_all(&[RUNNER, OTHER, FREE, BOUND]).await;
    let ready = |o: &Value| is(condition(o, "Ready"), "True", "Ready");
    stage.until(OURS, "AgentIdentity", "prod", "free", ready).await;
    let alone = |o: &Value| is(condition(o, "Bound"), "False", "NoPods") && ready(o);
    stage.until(OURS, "AgentIdentity", "ci", "bot", alone).await;
    assert!(until_bound(&stage, &[]).await["status"]["conditions"].to_string().contains("no pod with app=bot"));

    // It comes, with two families; beside it one that wears its label under another account.
    start(&stage, "bot-1", "runner", &["10.0.0.9", "fd00::9"]).await;
    let object = until_bound(&stage, &["10.0.0.9", "fd00::9"]).await;
    assert!(is(condition(&object, "Bound"), "True", "Bound"));
    start(&stage, "impostor", "other", &["10.0.0.66"]).await;
    let told =
        |o: &Value| o["status"]["conditions"].to_string().contains("left out: 1 pod under another service account");
    let object = stage.until(OURS, "AgentIdentity", "ci", "bot", told).await;
    assert_eq!(addresses(&object), ["10.0.0.9", "fd00::9"]);

    // It is replaced by one with another address, and joined by one that gets its label only then.
    start(&stage, "bot-2", "runner", &["10.0.0.10"]).await;
    end(&stage, "bot-1").await;
    until_bound(&stage, &["10.0.0.10"]).await;
    change(&stage, "bot-2", json!({"metadata": {"labels": {"app": "retired"}}})).await;
    until_bound(&stage, &[]).await;
    change(&stage, "bot-2", json!({"metadata": {"labels": {"app": "bot"}}})).await;
    until_bound(&stage, &["10.0.0.10"]).await;

    // A new operator knows no pods at first: nobody is put out meanwhile, nothing is written.
    operator.stop().await;
    let second = stage.operator().await;
    let looks = async {
        while !watched(&second, "ci") {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), looks).await.expect("it never looks for pods");
    second.at_rest().await;
    let written = second.log.lock().unwrap().clone();
    assert!(!written.iter().any(|write| write.contains("agentidentities/bot")), "{written:?}");
    assert_eq!(addresses(&stage.get(OURS, "AgentIdentity", "ci", "bot").await.unwrap()), ["10.0.0.10"]);

    // What ended without being deleted (a Job's pod) is gone as well.
    start(&stage, "bot-3", "runner", &["10.0.0.11"]).await;
    until_bound(&stage, &["10.0.0.10", "10.0.0.11"]).await;
    let api = stage.api("v1", "Pod", "ci").await;
    let done = json!({"status": {"phase": "Succeeded"}});
    api.patch_status("bot-3", &PatchParams::default(), &Patch::Merge(&done)).await.unwrap();
    until_bound(&stage, &["10.0.0.10"]).await;

    // Pods are watched where somebody is bound, and nowhere else.
    assert!(watched(&second, "ci") && !watched(&second, "prod") && !watched(&second, "kube-system"));

    // No longer bound: nothing is left of it in the status.
    let free = json!({"spec": {"boundTo": null}});
    let api = stage.api(OURS, "AgentIdentity", "ci").await;
    api.patch("bot", &PatchParams::default(), &Patch::Merge(&free)).await.unwrap();
    let unbound = |o: &Value| o["status"]["boundFor"].is_null() && condition(o, "Bound").is_none();
    let object = stage.until(OURS, "AgentIdentity", "ci", "bot", unbound).await;
    assert!(addresses(&object).is_empty());
    second.stop().await;
}
