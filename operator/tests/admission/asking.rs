//! Who may ask, answer and use an answer up: each rule of `config/admission/access-requests.yaml` and of the kind's own
//! schema, with one write that passes and one that is refused.
//!
//! Owns a control plane on which everybody has every right on questions, so that RBAC is never the reason.

use std::time::Duration;

use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use sallyport_crds::AccessRequest;
use serde_json::{Value, json};

use super::support::Stage;
use super::{Case, judge};

const ALICE: &str = "alice@example.com";
const BOB: &str = "bob@example.com";
const FLEET: &str = "system:serviceaccount:prod:orders-db-proxy";
const OPERATOR: &str = "system:serviceaccount:sallyport-system:sallyport-operator";
const CHAT: &str = "system:serviceaccount:chat:ops";
const DIGEST: &str = "sha256:1a8e7b53d40ff3730fed9ec09131614c561e16212a49e16006816e4b5e0c5f41";
const SESSION: &str = "0123456789abcdef0123456789abcdef";
const EVERYBODY: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: everybody-NAME}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: sallyport-NAME}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: 'system:authenticated'}]
";

struct Desk {
    stage: Stage,
}

impl Desk {
    async fn new() -> Self {
        let stage = Stage::new().await;
        for name in ["approver", "requester"] {
            stage.apply(&EVERYBODY.replace("NAME", name)).await;
        }
        let desk = Self { stage };
        // A policy of admission is in force some moments after it was made.
        let until = tokio::time::Instant::now() + Duration::from_secs(60);
        desk.ask(ALICE, "probe", json!({"requestedBy": ALICE})).await.unwrap();
        let by = |policy: &str, answer: Result<(), String>| answer.is_err_and(|error| error.contains(policy));
        for phase in ["Approved", "Pending"].into_iter().cycle() {
            let asking = desk.ask(CHAT, "nobodys", json!({})).await;
            let answering = desk.write(ALICE, "probe", json!({"phase": phase})).await;
            if by("'sallyport-asking'", asking) && by("'sallyport-answering'", answering) {
                break;
            }
            assert!(tokio::time::Instant::now() < until, "the admission policies are not in force");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        desk
    }

    async fn questions(&self, user: &str) -> Api<AccessRequest> {
        Api::namespaced(self.stage.plane.user_client(user, &["system:authenticated"]).await.unwrap(), "prod")
    }

    /// The user asks; `with` replaces fields of the spec, null takes them out.
    async fn ask(&self, user: &str, name: &str, with: Value) -> Result<(), String> {
        let mut spec = json!({
            "agent": {"namespace": "ci", "name": "bot"}, "target": "orders-db", "policy": "migrations", "rule": "ddl",
            "policyRevision": "0123456789abcdef", "approvals": 1, "expiresAt": "2100-01-01T00:00:00Z",
            "command": {"text": "drop table orders", "digest": DIGEST},
        });
        for (field, value) in with.as_object().unwrap() {
            spec[field] = value.clone();
        }
        spec.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let object = json!({"apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessRequest", "metadata": {"name": name}, "spec": spec});
        let object = serde_json::from_value(object).unwrap();
        let made = self.questions(user).await.create(&PostParams::default(), &object).await;
        made.map(drop).map_err(|error| error.to_string())
    }

    /// The fleet asks, as fleets do.
    async fn asked(&self, name: &str, with: Value) {
        let mut all = json!({"session": SESSION});
        all.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        self.ask(FLEET, name, all).await.unwrap();
    }

    /// The user writes a decision of `by` beside those of `others`.
    async fn answer(&self, user: &str, name: &str, by: &str, others: &[Value]) -> Result<(), String> {
        let mut decisions = others.to_vec();
        decisions.push(decision("Approve", by));
        self.write(user, name, json!({"decisions": decisions})).await
    }

    async fn write(&self, user: &str, name: &str, status: Value) -> Result<(), String> {
        let patch = Patch::Merge(json!({"status": status}));
        let written = self.questions(user).await.patch_status(name, &PatchParams::default(), &patch).await;
        written.map(drop).map_err(|error| error.to_string())
    }

    async fn phase(&self, name: &str) -> Value {
        let found = self.stage.get(super::OURS, "AccessRequest", "prod", name).await.unwrap();
        found["status"].clone()
    }
}

fn decision(word: &str, by: &str) -> Value {
    json!({"decision": word, "by": by, "at": "2026-11-23T16:00:00Z"})
}

fn consumed() -> Value {
    json!({"phase": "Consumed", "consumed": {"at": "2026-11-23T16:00:00Z", "session": SESSION, "replica": "orders-db-proxy-0"}})
}

fn refused(result: Result<(), String>, why: &str) {
    let error = result.expect_err(why);
    assert!(error.contains(why), "not told {why:?} but {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_put_by_the_fleet_of_its_target_or_by_a_person_as_themselves() {
    let desk = Desk::new().await;
    desk.ask(FLEET, "of-the-fleet", json!({"session": SESSION})).await.unwrap();
    desk.ask(ALICE, "ahead-of-time", json!({"requestedBy": ALICE})).await.unwrap();
    let only = "only the fleet of the target asks";
    refused(desk.ask(FLEET, "q", json!({"session": SESSION, "target": "other-db"})).await, only);
    for user in ["system:serviceaccount:ci:bot", CHAT, OPERATOR, "system:node:one", "sallyport:agent:ci/bot"] {
        refused(desk.ask(user, "q", json!({"requestedBy": user})).await, only);
    }
    let named = "requestedBy names who asks ahead of time";
    refused(desk.ask(ALICE, "q", json!({"requestedBy": BOB})).await, named);
    refused(desk.ask(ALICE, "q", json!({})).await, named);
    refused(desk.ask(FLEET, "q", json!({"session": SESSION, "requestedBy": ALICE})).await, named);
    refused(desk.ask(ALICE, "q", json!({"requestedBy": ALICE, "session": SESSION})).await, "session is for the fleet");

    // What was asked stays what was asked; that it waits is said without a write.
    assert_eq!(desk.phase("of-the-fleet").await, json!({"phase": "Pending"}));
    let change = |spec: Value| {
        let mut kubectl = desk.stage.plane.kubectl();
        kubectl.args([
            "patch",
            "ask",
            "of-the-fleet",
            "-n",
            "prod",
            "--type=merge",
            "-p",
            &json!({"spec": spec}).to_string(),
        ]);
        let output = kubectl.output().unwrap();
        if output.status.success() { Ok(()) } else { Err(String::from_utf8(output.stderr).unwrap()) }
    };
    change(json!({"approvals": 1})).unwrap();
    refused(change(json!({"command": {"text": "select 1"}})), "a question never changes");
    refused(change(json!({"expiresAt": "2200-01-01T00:00:00Z"})), "a question never changes");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_given_in_ones_own_name_by_a_person_in_time_and_stays() {
    let desk = Desk::new().await;
    desk.asked("one", json!({"approvals": 2})).await;
    refused(desk.answer(ALICE, "one", BOB, &[]).await, "by must be alice@example.com");
    desk.answer(ALICE, "one", ALICE, &[]).await.unwrap();
    let alice = decision("Approve", ALICE);
    for decisions in [json!([]), json!([decision("Deny", ALICE)]), json!(null)] {
        let taken_back = desk.write(ALICE, "one", json!({"decisions": decisions})).await;
        refused(taken_back, "a decision is never changed or removed");
    }
    refused(desk.answer(ALICE, "one", ALICE, std::slice::from_ref(&alice)).await, "uplicate");
    let mut escaping = decision("Deny", BOB);
    escaping["comment"] = json!("no\u{1b}[2J");
    let written = desk.write(BOB, "one", json!({"decisions": [alice.clone(), escaping]})).await;
    refused(written, "a comment is one line without control characters");
    desk.answer(BOB, "one", BOB, &[alice]).await.unwrap();
    assert_eq!(desk.phase("one").await["decisions"].as_array().unwrap().len(), 2);

    desk.asked("of-people", json!({})).await;
    let nobody = "no agent and no fleet answers";
    let others = [
        "system:serviceaccount:prod:anything",
        "system:serviceaccount:ci:bot",
        FLEET,
        OPERATOR,
        "system:node:one",
        "sallyport:agent:ci/bot",
    ];
    for user in others {
        refused(desk.answer(user, "of-people", user, &[]).await, nobody);
    }
    refused(desk.answer(CHAT, "of-people", CHAT, &[]).await, "this question is for people");
    desk.asked("of-programs", json!({"notBy": "Requester"})).await;
    for user in others {
        refused(desk.answer(user, "of-programs", user, &[]).await, nobody);
    }
    desk.answer(CHAT, "of-programs", CHAT, &[]).await.unwrap();

    desk.ask(ALICE, "of-alice", json!({"requestedBy": ALICE})).await.unwrap();
    refused(desk.answer(ALICE, "of-alice", ALICE, &[]).await, "nobody answers a question of their own");
    desk.answer(BOB, "of-alice", BOB, &[]).await.unwrap();

    desk.asked("late", json!({"expiresAt": "2026-01-01T00:00:00Z"})).await;
    refused(desk.answer(ALICE, "late", ALICE, &[]).await, "this question has expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_is_used_up_by_the_fleet_once_and_then_nothing_changes_any_more() {
    let desk = Desk::new().await;
    let approved = json!({"decisions": [decision("Approve", ALICE)]});
    let used = |status: &Value| {
        let mut used = consumed();
        used["decisions"] = status["decisions"].clone();
        used
    };
    desk.asked("one", json!({})).await;
    refused(desk.write(FLEET, "one", consumed()).await, "there is no approval to use up");
    refused(desk.write(FLEET, "one", json!({"phase": "Approved"})).await, "phase is not for people to write");
    refused(desk.write(ALICE, "one", json!({"phase": "Approved"})).await, "phase is not for people to write");
    desk.write(OPERATOR, "one", json!({"phase": "Pending"})).await.unwrap();
    desk.write(ALICE, "one", approved.clone()).await.unwrap();
    desk.write(OPERATOR, "one", json!({"phase": "Approved"})).await.unwrap();
    for user in [ALICE, OPERATOR, CHAT, "system:serviceaccount:prod:other-db-proxy"] {
        refused(desk.write(user, "one", used(&approved)).await, "only the fleet of the target uses an approval up");
    }
    refused(desk.write(FLEET, "one", json!({"phase": "Consumed"})).await, "consumed and phase Consumed go together");
    desk.write(FLEET, "one", used(&approved)).await.unwrap();
    let ended = "nothing of it changes any more";
    refused(desk.write(OPERATOR, "one", json!({"phase": "Expired", "consumed": null})).await, ended);
    refused(
        desk.write(BOB, "one", json!({"decisions": [decision("Approve", ALICE), decision("Deny", BOB)]})).await,
        ended,
    );
    refused(desk.write(FLEET, "one", json!({"consumed": {"replica": "another"}})).await, ended);

    // A denial is the end of it, however many approve.
    desk.asked("denied", json!({})).await;
    let both = json!({"decisions": [decision("Approve", ALICE), decision("Deny", BOB)]});
    desk.write(ALICE, "denied", approved).await.unwrap();
    desk.write(BOB, "denied", both.clone()).await.unwrap();
    refused(desk.write(FLEET, "denied", used(&both)).await, "there is no approval to use up");
    desk.write(OPERATOR, "denied", json!({"phase": "Denied"})).await.unwrap();
    refused(desk.write(OPERATOR, "denied", json!({"phase": "Approved"})).await, ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_question_stands_is_told_and_those_of_long_ago_are_cleared_away() {
    let desk = Desk::new().await;
    let soon = k8s_openapi::jiff::Timestamp::now() + Duration::from_secs(4);
    desk.asked("old", json!({"expiresAt": "2026-01-01T00:00:00Z"})).await;
    desk.asked("soon", json!({"expiresAt": soon.to_string()})).await;
    for name in ["approved", "denied"] {
        desk.asked(name, json!({})).await;
    }
    let operator = desk.stage.operator().await;
    let becomes = async |name: &str, phase: &str| {
        desk.stage.until(super::OURS, "AccessRequest", "prod", name, |found| found["status"]["phase"] == phase).await
    };
    desk.answer(ALICE, "approved", ALICE, &[]).await.unwrap();
    let approved = becomes("approved", "Approved").await;
    assert_eq!(approved["status"]["decisions"].as_array().unwrap().len(), 1, "what was answered stays");
    desk.write(ALICE, "denied", json!({"decisions": [decision("Deny", ALICE)]})).await.unwrap();
    becomes("denied", "Denied").await;
    becomes("soon", "Expired").await;
    desk.stage.until_gone(super::OURS, "AccessRequest", "prod", "old").await;
    operator.stop().await;
}

const REQUEST: &str = "
apiVersion: sallyport.dev/v1alpha1
kind: AccessRequest
metadata: {name: q, namespace: prod}
spec:
  agent: {namespace: ci, name: bot}
  target: orders-db
  policy: migrations
  rule: ddl
  policyRevision: 0123456789abcdef
  requestedBy: sallyport-admin
  command: {text: drop table orders, digest: 'sha256:1a8e7b53d40ff3730fed9ec09131614c561e16212a49e16006816e4b5e0c5f41', parameters: [\"'a'\"]}
  approvals: 1
  reason: the table moved
  expiresAt: 2100-01-01T00:00:00Z
";

#[tokio::test(flavor = "multi_thread")]
async fn an_access_request_is_judged_by_its_schema() {
    let stage = Stage::new().await;
    let many = |count: usize| format!("parameters: [{}]", vec!["x"; count].join(", "));
    let (room, over) = (many(128), many(129));
    let cases: &[Case] = &[
        ("agent: {namespace: ci, name: bot}", "agent: {name: bot}", Some("spec.agent.namespace")),
        ("target: orders-db", "target: Orders", Some("spec.target")),
        ("policyRevision: 0123456789abcdef", "policyRevision: current", Some("spec.policyRevision")),
        ("text: drop table orders", "text: ''", Some("spec.command.text")),
        ("'sha256:1a", "'1a", Some("spec.command.digest")),
        ("parameters: [\"'a'\"]", &*Box::leak(room.into_boxed_str()), None),
        ("parameters: [\"'a'\"]", &*Box::leak(over.into_boxed_str()), Some("spec.command.parameters")),
        ("approvals: 1", "approvals: 8", None),
        ("approvals: 1", "approvals: 0", Some("spec.approvals")),
        ("approvals: 1", "approvals: 9", Some("spec.approvals")),
        ("approvals: 1", "approvals: 1\n  notBy: Requester", None),
        ("approvals: 1", "approvals: 1\n  notBy: Anybody", Some("Unsupported value")),
        ("  expiresAt: 2100-01-01T00:00:00Z\n", "", Some("spec.expiresAt")),
        ("expiresAt: 2100-01-01T00:00:00Z", "expiresAt: later", Some("spec.expiresAt")),
    ];
    judge(&stage, REQUEST, cases);
}
