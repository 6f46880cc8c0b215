//! Stories of the operator against a real API server.
//!
//! Each has a control plane of its own and drives the operator of this process with the rights of its
//! service account. Invariant of all: what is asserted is what a person would see with kubectl.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::Duration;

use k8s_openapi::ByteString;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use support::{ALL, CA, CREDENTIALS, IDENTITY, OURS, POLICY, Stage, TARGET, ancestor, condition, is};

/// Waits until everything is told, and the controller-manager (some seconds after its start) has made pods: two, or
/// three where the template changed after the first (nothing becomes ready here, so a rollout stays half-way).
async fn settled(stage: &Stage) {
    stage.until(OURS, "AgentIdentity", "ci", "migration-bot", |o| is(condition(o, "Ready"), "True", "Ready")).await;
    let resolved = |o: &Value| {
        is(condition(o, "ResolvedRefs"), "True", "ResolvedRefs") && is(condition(o, "Programmed"), "False", "Pending")
    };
    stage.until(OURS, "ProtectedTarget", "prod", "orders-db", resolved).await;
    let accepted = |o: &Value| {
        is(ancestor(o, "Accepted"), "True", "Accepted") && is(ancestor(o, "Programmed"), "False", "Pending")
    };
    stage.until(OURS, "AccessPolicy", "prod", "migrations", accepted).await;
}

/// Names what differs, not all that is.
fn assert_same(now: &Value, wanted: &Value, when: &str) {
    for (part, value) in wanted.as_object().unwrap() {
        assert_eq!(&now[part], value, "{part} {when}");
    }
}

const CHILDREN: [(&str, &str, &str); 10] = [
    ("v1", "ServiceAccount", "orders-db-proxy"),
    ("rbac.authorization.k8s.io/v1", "Role", "orders-db-proxy"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", "orders-db-proxy"),
    ("v1", "ConfigMap", "orders-db-bundle"),
    ("v1", "Secret", "orders-db-server"),
    ("apps/v1", "Deployment", "orders-db-proxy"),
    ("v1", "Service", "orders-db"),
    ("policy/v1", "PodDisruptionBudget", "orders-db-proxy"),
    ("networking.k8s.io/v1", "NetworkPolicy", "orders-db-proxy"),
    ("sallyport.dev/v1alpha1", "AccessPolicy", "migrations"),
];

/// What a person would compare: the specs of all children and the words of all conditions, without times and serials.
async fn picture(stage: &Stage) -> Value {
    let mut picture = serde_json::Map::new();
    for (version, kind, name) in CHILDREN.iter().chain([&(OURS, "ProtectedTarget", "orders-db")]) {
        let object = stage.get(version, kind, "prod", name).await.unwrap_or_else(|| panic!("no {kind} {name}"));
        picture.insert(format!("{kind} {name}"), told(&object));
    }
    let identity = stage.get(OURS, "AgentIdentity", "ci", "migration-bot").await.unwrap();
    picture.insert("AgentIdentity".into(), told(&identity));
    let fleets = stage.get("rbac.authorization.k8s.io/v1", "RoleBinding", "ci", "sallyport-fleets").await.unwrap();
    picture.insert("fleets".into(), fleets["subjects"].clone());
    Value::Object(picture)
}

fn told(object: &Value) -> Value {
    let words = |conditions: Option<&Value>| -> Vec<String> {
        let all = conditions.and_then(Value::as_array).into_iter().flatten();
        let mut all: Vec<_> = all.map(|c| format!("{}={} {}", c["type"], c["status"], c["reason"])).collect();
        all.sort();
        all
    };
    let bundle = object.pointer("/data/bundle.json").cloned();
    let ours = object["apiVersion"] == OURS;
    let spec =
        if object["kind"] == "Service" { object["spec"]["ports"][0]["port"].clone() } else { object["spec"].clone() };
    json!({
        "spec": spec, "bundle": bundle, "rules": object["rules"],
        "conditions": words(object.pointer("/status/conditions").filter(|_| ours)),
        "ancestor": words(object.pointer("/status/ancestors/0/conditions")),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn three_objects_become_a_certificate_a_fleet_and_statuses() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    stage.apply_all(&ALL).await;
    settled(&stage).await;
    operator.at_rest().await;

    let target = stage.get(OURS, "ProtectedTarget", "prod", "orders-db").await.unwrap();
    for (version, kind, name) in CHILDREN.iter().take(9) {
        let child = stage.get(version, kind, "prod", name).await.unwrap_or_else(|| panic!("no {kind} {name}"));
        assert_eq!(child["metadata"]["ownerReferences"][0]["uid"], target["metadata"]["uid"], "{kind}");
        assert_eq!(child["metadata"]["labels"]["app.kubernetes.io/managed-by"], "sallyport", "{kind}");
    }
    let fleets = stage.get("rbac.authorization.k8s.io/v1", "RoleBinding", "ci", "sallyport-fleets").await.unwrap();
    assert_eq!(fleets["subjects"][0]["name"], "orders-db-proxy");
    assert_eq!(fleets["subjects"][0]["namespace"], "prod");

    // The certificate, as openssl sees it.
    let secret = stage.get("v1", "Secret", "ci", "migration-bot-mtls").await.unwrap();
    assert_eq!(secret["type"], "kubernetes.io/tls");
    let told = openssl(&secret, &["x509", "-noout", "-text", "-in", "tls.crt"]);
    for part in [
        "URI:spiffe://cluster.local/ns/ci/agent/migration-bot",
        "TLS Web Client Authentication",
        "prime256v1",
        "CA:FALSE",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    assert!(
        !told.contains("TLS Web Server Authentication") && told.matches("URI:").count() == 1 && !told.contains("DNS:")
    );
    assert!(openssl(&secret, &["verify", "-CAfile", "ca.crt", "-purpose", "sslclient", "tls.crt"]).contains("OK"));
    let server = stage.get("v1", "Secret", "prod", "orders-db-server").await.unwrap();
    assert!(openssl(&server, &["verify", "-CAfile", "ca.crt", "-purpose", "sslserver", "tls.crt"]).contains("OK"));
    let told = openssl(&server, &["x509", "-noout", "-text", "-in", "tls.crt"]);
    assert!(told.contains("DNS:orders-db.prod.svc.cluster.local"), "{told}");

    // Every field of the identity's status.
    let identity = stage.get(OURS, "AgentIdentity", "ci", "migration-bot").await.unwrap();
    let status = &identity["status"];
    assert_eq!(status["spiffeId"], "spiffe://cluster.local/ns/ci/agent/migration-bot");
    assert_eq!(status["secretName"], "migration-bot-mtls");
    for field in ["serial", "notBefore", "notAfter", "renewalTime"] {
        assert!(status[field].as_str().is_some_and(|text| !text.is_empty()), "{field}");
    }
    assert!(is(condition(&identity, "Issued"), "True", "Issued"));

    // The fleet is programmed once every replica says so, each with an entry of its own.
    let bundle = stage.get("v1", "ConfigMap", "prod", "orders-db-bundle").await.unwrap();
    let bundle: Value = serde_json::from_str(bundle["data"]["bundle.json"].as_str().unwrap()).unwrap();
    assert_eq!(target["status"]["bundleRevision"], bundle["revision"]);
    assert_eq!(target["status"]["endpoint"], "orders-db.prod.svc.cluster.local:5432");
    assert_eq!(target["status"]["attachedPolicies"], 1);
    let pods = stage.api("v1", "Pod", "prod").await;
    let pods = wait_for(async || {
        let list = pods.list(&kube::api::ListParams::default()).await.unwrap();
        let names: Vec<_> = list.items.into_iter().filter_map(|pod| pod.metadata.name).collect();
        (names.len() == 2).then_some(names)
    })
    .await;
    let api = stage.api(OURS, "ProtectedTarget", "prod").await;
    for pod in pods.iter().map(String::as_str).chain(["long-gone"]) {
        let entry = json!({"apiVersion": OURS, "kind": "ProtectedTarget", "status": {"replicas": [{"pod": pod, "revision": bundle["revision"]}]}});
        api.patch_status("orders-db", &PatchParams::apply(pod).force(), &Patch::Apply(&entry)).await.unwrap();
    }
    let target = stage
        .until(OURS, "ProtectedTarget", "prod", "orders-db", |o| {
            is(condition(o, "Programmed"), "True", "Programmed")
                && o["status"]["replicas"].as_array().is_some_and(|all| all.len() == 2)
        })
        .await;
    assert!(is(condition(&target, "Ready"), "False", "NoReplicas"), "nothing runs pods here: {target:#}");
    stage
        .until(OURS, "AccessPolicy", "prod", "migrations", |o| is(ancestor(o, "Programmed"), "True", "Programmed"))
        .await;
    let policy = stage.get(OURS, "AccessPolicy", "prod", "migrations").await.unwrap();
    assert_eq!(policy["status"]["matchedAgents"], 1);

    // No secret byte anywhere but in Secrets.
    let everything = serde_json::to_string(&picture(&stage).await).unwrap() + &policy.to_string() + &target.to_string();
    assert!(!everything.contains("hunter2"));

    // What a person sees.
    let table = stage.plane.kubectl().args(["get", "agentidentities", "-n", "ci"]).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    println!("{table}");
    let columns: Vec<_> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(columns, ["NAME", "READY", "IDENTITY", "EXPIRES", "RENEWS", "AGE"]);
    assert!(!table.contains("invalid"));

    // A policy that leaves takes its right with it.
    stage.delete(OURS, "AccessPolicy", "prod", "migrations").await;
    stage.until_gone("rbac.authorization.k8s.io/v1", "RoleBinding", "ci", "sallyport-fleets").await;
    stage.until(OURS, "ProtectedTarget", "prod", "orders-db", |o| o["status"]["attachedPolicies"] == 0).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_pass_and_a_restart_write_nothing() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    stage.apply_all(&ALL).await;
    settled(&stage).await;
    let before = operator.at_rest().await;
    let first = picture(&stage).await;
    // A touch that means nothing wakes every controller.
    for (kind, namespace, name) in [
        ("AgentIdentity", "ci", "migration-bot"),
        ("ProtectedTarget", "prod", "orders-db"),
        ("AccessPolicy", "prod", "migrations"),
    ] {
        let touch = json!({"metadata": {"annotations": {"touched": "yes"}}});
        let api = stage.api(OURS, kind, namespace).await;
        api.patch(name, &PatchParams::default(), &Patch::Merge(&touch)).await.unwrap();
    }
    let after = operator.at_rest().await;
    assert_eq!(after, before, "{:#?}", operator.log.lock().unwrap().get(before..));
    operator.stop().await;

    let again = stage.operator().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(again.at_rest().await, 0, "{:#?}", again.log.lock().unwrap());
    assert_same(&picture(&stage).await, &first, "after a restart");
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_by_somebody_else_is_put_right_and_a_field_taken_out_goes() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    let with_limits =
        TARGET.replace("  postgres:", "  proxy: {resources: {requests: {cpu: 1}, limits: {memory: 1Gi}}}\n  postgres:");
    stage.apply_all(&[CREDENTIALS, CA, &with_limits, IDENTITY, POLICY]).await;
    let memory = |o: &Value| o["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"].clone();
    stage.until("apps/v1", "Deployment", "prod", "orders-db-proxy", |o| memory(o) == "1Gi").await;
    let api = stage.api("apps/v1", "Deployment", "prod").await;
    let edit = json!({"spec": {"replicas": 7}});
    api.patch("orders-db-proxy", &PatchParams::default(), &Patch::Merge(&edit)).await.unwrap();
    stage.until("apps/v1", "Deployment", "prod", "orders-db-proxy", |o| o["spec"]["replicas"] == 2).await;
    let without = TARGET.replace("  postgres:", "  proxy: {resources: {requests: {cpu: 1}}}\n  postgres:");
    stage.apply(&without).await;
    stage.until("apps/v1", "Deployment", "prod", "orders-db-proxy", |o| memory(o).is_null()).await;
    stage.delete("v1", "Service", "prod", "orders-db").await;
    stage.until("v1", "Service", "prod", "orders-db", |o| o["metadata"]["deletionTimestamp"].is_null()).await;
    // The identity was applied with the others, its certificate may come after their children.
    stage.until("v1", "Secret", "ci", "migration-bot-mtls", |o| o["data"]["tls.key"].is_string()).await;
    stage.delete("v1", "Secret", "ci", "migration-bot-mtls").await;
    stage.until("v1", "Secret", "ci", "migration-bot-mtls", |o| o["metadata"]["deletionTimestamp"].is_null()).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_order_ends_in_the_same_state() {
    let mut pictures = Vec::new();
    for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [3, 4, 0, 2, 1], [4, 2, 0, 1, 3]] {
        let stage = Stage::new().await;
        let operator = stage.operator().await;
        for at in order {
            stage.apply(ALL[at]).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        settled(&stage).await;
        operator.at_rest().await;
        pictures.push(picture(&stage).await);
        operator.stop().await;
    }
    for other in &pictures[1..] {
        assert_same(other, &pictures[0], "in another order");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_any_write_the_next_one_finishes() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    stage.apply_all(&ALL).await;
    settled(&stage).await;
    operator.at_rest().await;
    let whole = picture(&stage).await;
    operator.stop().await;
    for writes in [1, 2, 3, 5, 8, 12] {
        for (kind, namespace, name) in [
            ("AccessPolicy", "prod", "migrations"),
            ("ProtectedTarget", "prod", "orders-db"),
            ("AgentIdentity", "ci", "migration-bot"),
        ] {
            stage.delete(OURS, kind, namespace, name).await;
        }
        stage.until_gone("apps/v1", "Deployment", "prod", "orders-db-proxy").await;
        stage.until_gone("v1", "Secret", "ci", "migration-bot-mtls").await;
        stage.until_gone("v1", "Secret", "prod", "orders-db-server").await;
        let broken = stage.operator_that_fails_after(writes).await;
        stage.apply_all(&[IDENTITY, TARGET, POLICY]).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        broken.kill();
        let next = stage.operator().await;
        settled(&stage).await;
        next.at_rest().await;
        assert_same(&picture(&stage).await, &whole, &format!("after {writes} writes"));
        next.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_is_told_and_resolves_by_itself() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    stage.apply_all(&[TARGET, POLICY, IDENTITY]).await;
    let target = stage
        .until(OURS, "ProtectedTarget", "prod", "orders-db", |o| {
            is(condition(o, "ResolvedRefs"), "False", "SecretNotFound")
        })
        .await;
    let message = target["status"]["conditions"].to_string();
    assert!(
        message.contains("orders-db-credentials") && message.contains("orders-ca") && message.contains("username"),
        "{message}"
    );
    assert!(
        stage.get("apps/v1", "Deployment", "prod", "orders-db-proxy").await.is_none(),
        "no fleet without the CA bundle it must verify with"
    );
    stage.apply(CA).await;
    stage.apply(&CREDENTIALS.replace("username: app, ", "")).await;
    stage
        .until(OURS, "ProtectedTarget", "prod", "orders-db", |o| {
            is(condition(o, "ResolvedRefs"), "False", "SecretIncomplete")
        })
        .await;
    stage.until("apps/v1", "Deployment", "prod", "orders-db-proxy", |_| true).await;
    stage.apply(CREDENTIALS).await;
    // Not `settled`: nothing runs pods here, so the fleet may stand still in the middle of its second rollout.
    let resolved = |o: &Value| is(condition(o, "ResolvedRefs"), "True", "ResolvedRefs");
    stage.until(OURS, "ProtectedTarget", "prod", "orders-db", resolved).await;
    stage
        .until("apps/v1", "Deployment", "prod", "orders-db-proxy", |o| o.to_string().contains("credential-default"))
        .await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_is_left_alone_and_told() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    stage
        .apply(
            "{apiVersion: v1, kind: Service, metadata: {name: orders-db, namespace: prod}, spec: {ports: [{port: 1}]}}",
        )
        .await;
    stage.apply("{apiVersion: v1, kind: Secret, metadata: {name: migration-bot-mtls, namespace: ci}, stringData: {mine: yes-mine}}").await;
    let binding = "{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: sallyport-fleets, namespace: ci},
        roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: mine}}";
    stage.apply(binding).await;
    stage.apply_all(&ALL).await;
    let target = stage
        .until(OURS, "ProtectedTarget", "prod", "orders-db", |o| is(condition(o, "Ready"), "False", "NotOurs"))
        .await;
    assert!(target["status"]["conditions"].to_string().contains("Service orders-db"));
    stage.until(OURS, "AgentIdentity", "ci", "migration-bot", |o| is(condition(o, "Issued"), "False", "NotOurs")).await;
    stage.event("ci", ("RoleBinding", "sallyport-fleets"), "NotOurs", "let none of them in").await;
    operator.at_rest().await;
    let bindings = ("rbac.authorization.k8s.io/v1", "RoleBinding", "ci", "sallyport-fleets");
    let left = stage.get(bindings.0, bindings.1, bindings.2, bindings.3).await.unwrap();
    assert_eq!(left["roleRef"]["name"], "mine");
    stage.delete(bindings.0, bindings.1, bindings.2, bindings.3).await;
    stage.until(bindings.0, bindings.1, bindings.2, bindings.3, |o| o["subjects"].is_array()).await;
    let service = stage.get("v1", "Service", "prod", "orders-db").await.unwrap();
    assert_eq!(service["spec"]["ports"][0]["port"], 1);
    let secret = stage.get("v1", "Secret", "ci", "migration-bot-mtls").await.unwrap();
    assert_eq!(secret["data"].as_object().unwrap().keys().collect::<Vec<_>>(), ["mine"]);
    assert!(stage.get("v1", "ConfigMap", "prod", "orders-db-bundle").await.is_some(), "the rest goes on");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_made_again_or_revoked_has_a_new_certificate() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    stage.apply(IDENTITY).await;
    let ready = |o: &Value| is(condition(o, "Ready"), "True", "Ready");
    let first = stage.until(OURS, "AgentIdentity", "ci", "migration-bot", ready).await;
    let named = async || {
        let secret = stage.get("v1", "Secret", "ci", "migration-bot-mtls").await.unwrap();
        openssl(&secret, &["x509", "-noout", "-subject", "-nameopt", "multiline", "-in", "tls.crt"])
    };
    let uid = |o: &Value| o["metadata"]["uid"].as_str().unwrap().to_owned();
    assert!(named().await.contains(&uid(&first)));
    // At once: within the second in which the first was made, or the next.
    stage.delete(OURS, "AgentIdentity", "ci", "migration-bot").await;
    stage.apply(IDENTITY).await;
    let second = stage.until(OURS, "AgentIdentity", "ci", "migration-bot", ready).await;
    assert_ne!(first["status"]["serial"], second["status"]["serial"]);
    assert!(second["status"]["notBefore"].as_str() >= second["metadata"]["creationTimestamp"].as_str());
    let told = named().await;
    assert!(told.contains(&uid(&second)) && !told.contains(&uid(&first)), "{told}");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let now = k8s_openapi::jiff::Timestamp::now().to_string();
    stage.apply(&format!("{}\n", IDENTITY.replace("spec: {", &format!("spec: {{revokeBefore: \"{now}\", ")))).await;
    let third = stage
        .until(OURS, "AgentIdentity", "ci", "migration-bot", |o| {
            o["status"]["serial"] != second["status"]["serial"] && ready(o)
        })
        .await;
    assert!(third["status"]["notBefore"].as_str() > second["status"]["notBefore"].as_str());
    stage.apply(&IDENTITY.replace("spec: {", "spec: {suspend: true, ")).await;
    stage
        .until(OURS, "AgentIdentity", "ci", "migration-bot", |o| is(condition(o, "Ready"), "False", "Suspended"))
        .await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_former_identity_left_gives_way_without_the_garbage_collector_and_what_is_not_of_one_does_not() {
    let mut stage = Stage::new().await;
    stage.plane.stop_controllers().await.unwrap();
    let operator = stage.operator().await;
    let ready = |o: &Value| is(condition(o, "Ready"), "True", "Ready");
    stage.apply(IDENTITY).await;
    stage.until(OURS, "AgentIdentity", "ci", "migration-bot", ready).await;
    let left = stage.get("v1", "Secret", "ci", "migration-bot-mtls").await.unwrap();
    stage.delete(OURS, "AgentIdentity", "ci", "migration-bot").await;
    let still = stage.get("v1", "Secret", "ci", "migration-bot-mtls").await.unwrap();
    assert_eq!(still["metadata"]["uid"], left["metadata"]["uid"], "nobody collects it");
    let second = serde_json::to_value(stage.apply(IDENTITY).await).unwrap();
    stage.until(OURS, "AgentIdentity", "ci", "migration-bot", ready).await;
    let made = stage.get("v1", "Secret", "ci", "migration-bot-mtls").await.unwrap();
    assert_ne!(made["metadata"]["uid"], left["metadata"]["uid"]);
    assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], second["metadata"]["uid"]);

    // The same for a fleet's.
    stage.apply_all(&ALL).await;
    let owner = |o: &Value| o["metadata"]["ownerReferences"][0]["uid"].clone();
    let server = stage.until("v1", "Secret", "prod", "orders-db-server", |_| true).await;
    stage.delete(OURS, "ProtectedTarget", "prod", "orders-db").await;
    stage.apply(TARGET).await;
    stage.until("v1", "Secret", "prod", "orders-db-server", |o| owner(o) != owner(&server)).await;

    // Of another name, of another kind, of two: somebody else's.
    for (name, kind, owner, owners) in [
        ("one", "AgentIdentity", "other", 1),
        ("two", "ProtectedTarget", "two", 1),
        ("three", "AgentIdentity", "three", 2),
    ] {
        let reference = |number: usize| json!({"apiVersion": OURS, "kind": kind, "name": owner, "uid": format!("gone-{number}"), "controller": number == 0});
        let references: Vec<_> = (0..owners).map(reference).collect();
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("{name}-mtls"), "namespace": "ci",
            "labels": {"app.kubernetes.io/managed-by": "sallyport"}, "ownerReferences": references}});
        stage.apply(&secret.to_string()).await;
        let before = stage.get("v1", "Secret", "ci", &format!("{name}-mtls")).await.unwrap();
        let identity = json!({"apiVersion": OURS, "kind": "AgentIdentity", "metadata": {"name": name, "namespace": "ci"}, "spec": {}});
        stage.apply(&identity.to_string()).await;
        let taken = |o: &Value| is(condition(o, "Issued"), "False", "NotOurs");
        stage.until(OURS, "AgentIdentity", "ci", name, taken).await;
        assert_eq!(stage.get("v1", "Secret", "ci", &format!("{name}-mtls")).await.unwrap(), before);
    }
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_object_costs_itself_alone() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    // Names a target that does not exist, and a credential that the other does not have.
    let other = POLICY
        .replace("name: migrations, namespace: prod", "name: broken, namespace: prod")
        .replace("[{name: orders-db}]", "[{name: nowhere}]");
    let unknown = POLICY
        .replace("name: migrations, namespace: prod", "name: ungranted, namespace: prod")
        .replace("  rules:", "  as: [readonly]\n  rules:");
    let denied = POLICY
        .replace("name: migrations, namespace: prod", "name: shut, namespace: prod")
        .replace("{name: read, action: Allow,", "{name: none, action: Deny,");
    stage.apply_all(&[&other, &unknown]).await;
    stage.apply_all(&ALL).await;
    settled(&stage).await;
    stage
        .until(OURS, "AccessPolicy", "prod", "broken", |o| is(ancestor(o, "ResolvedRefs"), "False", "TargetNotFound"))
        .await;
    stage
        .until(OURS, "AccessPolicy", "prod", "ungranted", |o| {
            is(ancestor(o, "ResolvedRefs"), "False", "CredentialNotFound")
        })
        .await;
    stage.apply(&denied).await;
    stage
        .until(OURS, "AccessPolicy", "prod", "migrations", |o| is(ancestor(o, "Accepted"), "False", "Conflicted"))
        .await;
    stage.delete(OURS, "AccessPolicy", "prod", "shut").await;
    stage.until(OURS, "AccessPolicy", "prod", "migrations", |o| is(ancestor(o, "Accepted"), "True", "Accepted")).await;
    stage.apply(&TARGET.replace("name: orders-db, namespace", "name: nowhere, namespace")).await;
    stage
        .until(OURS, "AccessPolicy", "prod", "broken", |o| is(ancestor(o, "ResolvedRefs"), "True", "ResolvedRefs"))
        .await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_policy_is_in_the_bundle_in_a_moment() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    stage.apply_all(&ALL).await;
    settled(&stage).await;
    operator.at_rest().await;
    let mut times = Vec::new();
    for round in 0..20 {
        let table = format!("public.t{round}");
        let start = tokio::time::Instant::now();
        stage.apply(&POLICY.replace("public.orders", &table)).await;
        stage.until("v1", "ConfigMap", "prod", "orders-db-bundle", |o| o.to_string().contains(&table)).await;
        times.push(start.elapsed());
    }
    times.sort();
    println!("apply of a policy to bundle written: median {:?}, worst {:?} (polled every 20 ms)", times[10], times[19]);
    assert!(times[10] < Duration::from_secs(2), "{times:?}");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_leads_the_next_follows_and_who_loses_the_lease_ends() {
    let stage = Stage::new().await;
    let (stop, client) = (tokio_util::sync::CancellationToken::new(), stage.client.clone());
    let first = tokio::spawn(sallyport_operator::run(support::config(Some("one")), client.clone(), stop.clone()));
    let holder = |o: &Value| o["spec"]["holderIdentity"].clone();
    let lease = ("coordination.k8s.io/v1", "Lease", "sallyport-system", "sallyport-operator");
    stage.until(lease.0, lease.1, lease.2, lease.3, |o| holder(o) == "one").await;
    let second_stop = tokio_util::sync::CancellationToken::new();
    let second = tokio::spawn(sallyport_operator::run(support::config(Some("two")), client, second_stop.clone()));
    tokio::time::sleep(Duration::from_secs(3)).await;
    stop.cancel();
    first.await.unwrap().unwrap();
    stage.until(lease.0, lease.1, lease.2, lease.3, |o| holder(o) == "two").await;
    let api = stage.api(lease.0, lease.1, lease.2).await;
    let taken = json!({"spec": {"holderIdentity": "three"}});
    api.patch(lease.3, &PatchParams::default(), &Patch::Merge(&taken)).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), second).await.expect("it must end").unwrap();
    assert!(ended.unwrap_err().to_string().contains("lease"));
}

async fn wait_for<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..600 {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never came to be so");
}

/// Runs openssl beside the files of a Secret.
fn openssl(secret: &Value, arguments: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    for (key, value) in secret["data"].as_object().unwrap() {
        let bytes: ByteString = serde_json::from_value(value.clone()).unwrap();
        std::fs::write(directory.path().join(key), bytes.0).unwrap();
    }
    let output = std::process::Command::new("openssl").args(arguments).current_dir(directory.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
