//! The program on a real API server, with the rights of people and no others.
//!
//! Owns a control plane of its own, with the shipped admission policies and roles. Touches nothing else. Invariant: who
//! lacks a right is told which, and an answer that the API server refuses is told with its reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use sallyport_conformance::policy;
use sallyport_crds::{AccessRequest, AgentIdentity, Phase, ProtectedTarget};
use sallyport_harness::ControlPlane;
use serde_json::{Value, json};

const FLEET: &str = "system:serviceaccount:shop:orders-db-proxy";

struct Site {
    plane: ControlPlane,
    client: Client,
}

impl Site {
    async fn new() -> Self {
        let _installed_before = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let plane = ControlPlane::start().await.unwrap();
        let client = plane.client().await.unwrap();
        plane.apply_crds().await.unwrap();
        for (kind, part) in [("-k", "admission"), ("-f", "rbac/people.yaml")] {
            let path = format!("{}/../config/{part}", env!("CARGO_MANIFEST_DIR"));
            let applied = plane.kubectl().args(["apply", kind, &path]).output().unwrap();
            assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
        }
        let site = Self { plane, client };
        for name in ["shop", "ci"] {
            let namespaces: Api<Namespace> = Api::all(site.client.clone());
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            namespaces.patch(name, &PatchParams::apply("test"), &Patch::Apply(object)).await.unwrap();
        }
        let target = json!({ "spec": {
            "postgres": { "host": "db.example", "port": 5432 }, "tls": { "mode": "Disable" },
            "credentials": [{ "name": "default", "secretRef": { "name": "s" } }] } });
        site.put::<ProtectedTarget>("shop", "orders-db", target).await;
        let bundle = policy::bundle("db.example", 5432, policy::readme()).to_json();
        site.put::<ConfigMap>("shop", "orders-db-bundle", json!({ "data": { "bundle.json": bundle } })).await;
        site.put::<AgentIdentity>("ci", "bot", json!({ "spec": {} })).await;
        // People who look, and people who answer.
        let rule = |group: &str, resources: &[&str]| json!({ "apiGroups": [group], "resources": resources, "verbs": ["get", "list"] });
        site.put::<Role>(
            "shop",
            "look",
            json!({ "rules": [rule("", &["configmaps", "pods"]), rule("sallyport.dev", &["protectedtargets"])] }),
        )
        .await;
        site.put::<Role>("ci", "look", json!({ "rules": [rule("sallyport.dev", &["agentidentities"])] })).await;
        for namespace in ["shop", "ci"] {
            site.bind(namespace, "look", "Role", "look", "devs").await;
        }
        site.bind("shop", "owners", "ClusterRole", "sallyport-admin", "owners").await;
        site.bind("shop", "approvers", "ClusterRole", "sallyport-approver", "dba").await;
        site
    }

    async fn bind(&self, namespace: &str, name: &str, kind: &str, role: &str, group: &str) {
        let api = "rbac.authorization.k8s.io";
        let binding = json!({
            "roleRef": { "apiGroup": api, "kind": kind, "name": role },
            "subjects": [{ "kind": "Group", "apiGroup": api, "name": group }] });
        self.put::<RoleBinding>(namespace, name, binding).await;
    }

    async fn put<K>(&self, namespace: &str, name: &str, mut object: Value) -> K
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
        K::DynamicType: Default,
    {
        object["apiVersion"] = json!(K::api_version(&K::DynamicType::default()));
        object["kind"] = json!(K::kind(&K::DynamicType::default()));
        object["metadata"] = json!({ "name": name });
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        api.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(object)).await.unwrap()
    }

    fn user(&self, name: &str, group: &str) -> PathBuf {
        self.plane.user_kubeconfig(name, &[group, "system:authenticated"]).unwrap()
    }

    /// A question as the fleet puts it.
    async fn ask(&self, name: &str, text: &str) {
        let fleet = self.plane.user_client(FLEET, &["system:serviceaccounts", "system:authenticated"]).await.unwrap();
        let rules = json!([{ "apiGroups": ["sallyport.dev"], "resources": ["accessrequests"], "verbs": ["create"] }]);
        self.put::<Role>("shop", "fleet", json!({ "rules": rules })).await;
        self.bind("shop", "fleet", "Role", "fleet", "system:serviceaccounts").await;
        let requests: Api<AccessRequest> = Api::namespaced(fleet, "shop");
        let expires = (k8s_openapi::jiff::Timestamp::now() + std::time::Duration::from_secs(3600)).to_string();
        let request = json!({
            "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessRequest", "metadata": { "name": name },
            "spec": {
                "agent": { "namespace": "ci", "name": "bot" }, "target": "orders-db", "policy": "reviews", "rule": "reviewed",
                "policyRevision": "0123456789abcdef", "session": "0".repeat(32), "approvals": 2, "expiresAt": expires,
                "command": { "text": text, "digest": format!("sha256:{}", "0".repeat(64)) },
            },
        });
        requests.create(&PostParams::default(), &serde_json::from_value(request).unwrap()).await.unwrap();
    }
}

fn sallyport(kubeconfig: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sallyport"));
    let output = command.args(arguments).arg("--kubeconfig").arg(kubeconfig).output().unwrap();
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

/// The same where somebody sits before it, who types.
fn at_a_terminal(kubeconfig: &Path, arguments: &[&str], typed: &str) -> (i32, String) {
    let line =
        format!("{} {} --kubeconfig {}", env!("CARGO_BIN_EXE_sallyport"), arguments.join(" "), kubeconfig.display());
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = script.spawn().unwrap();
    let mut terminal = child.stdin.take().unwrap();
    terminal.write_all(typed.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    drop(terminal);
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn people_ask_and_answer_with_their_own_rights() {
    let site = Site::new().await;
    let (dan, alice, bob) = (site.user("dan", "devs"), site.user("alice", "dba"), site.user("bob", "dba"));

    // What is in force comes from the cluster.
    let explain = |who: &Path, target: &str, agent: &str, sql: &str| {
        sallyport(who, &["explain", "-n", "shop", target, "--agent", agent, sql])
    };
    let (status, told) = explain(&dan, "orders-db", "ci/bot", "delete from orders");
    assert!(status == 1 && told.starts_with("deny by read-orders/no-unbounded-writes\n"), "{told}");
    assert_eq!(explain(&dan, "orders-db", "ci/bot", "select 1 from orders").0, 0);
    let (status, told) = explain(&dan, "orders-db", "ci/nobody", "select 1");
    assert!(status == 1 && told.contains("this identity is not known here"), "{told}");
    site.put::<AgentIdentity>("ci", "bot", json!({ "spec": { "suspend": true } })).await;
    let (status, told) = explain(&dan, "orders-db", "ci/bot", "select 1");
    assert!(status == 1 && told.contains("suspended"), "{told}");
    let (status, told) = explain(&dan, "other-db", "ci/bot", "select 1");
    assert!(status == 2 && told.contains("ConfigMap shop/other-db-bundle: there is none"), "{told}");
    let (status, told) = explain(&alice, "orders-db", "ci/bot", "select 1");
    assert!(status == 2 && told.contains("forbidden") && told.contains("configmaps"), "{told}");
    let (status, told) = sallyport(&dan, &["sessions", "-n", "shop", "orders-db"]);
    assert!(status == 2 && told.contains("no running replica"), "{told}");
    let (status, told) = sallyport(&dan, &["verify", "-n", "shop", "other-db"]);
    assert!(status == 2 && told.contains("ProtectedTarget shop/other-db"), "{told}");

    // A draft beside what is in force there, over a copy of recordings; groups and names as they are now.
    let copy = tempfile::tempdir().unwrap();
    let record = |sequence: u32, event: Value| {
        let mut record = json!({ "time": "2026-11-23T16:00:00.000000Z", "session": "aa00", "sequence": sequence,
            "agent": "spiffe://cluster.local/ns/ci/agent/bot", "target": "shop/orders-db" });
        record.as_object_mut().unwrap().extend(event.as_object().unwrap().clone());
        format!("{record}\n")
    };
    let records = [
        record(0, json!({ "event": "open", "credential": "default", "facts": [], "verdict": "allow" })),
        record(1, json!({ "event": "command", "command": 1, "text": "select * from customers", "verdict": "allow" })),
    ];
    std::fs::write(copy.path().join("pod-1-0.jsonl"), records.concat()).unwrap();
    let draft = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessPolicy", "metadata": { "name": "no-customers" },
        "spec": { "targetRefs": [{ "name": "orders-db" }], "subjects": [{ "agent": { "namespace": "ci", "name": "bot" } }],
            "rules": [{ "name": "no-customers", "action": "Deny", "postgres": { "tables": ["public.customers"] } }] } });
    let draft_file = copy.path().join("draft.yaml");
    std::fs::write(&draft_file, draft.to_string()).unwrap();
    let (copy_dir, draft_file) = (copy.path().to_str().unwrap(), draft_file.to_str().unwrap());
    let preview = |who: &Path| sallyport(who, &["preview", "-n", "shop", "-f", draft_file, "--records-dir", copy_dir]);
    let (status, told) = preview(&dan);
    assert!(status == 1 && told.contains("1 commands of 1 sessions judged by both: 1 verdicts would change"), "{told}");
    assert!(told.contains("draft deny by no-customers/no-customers\n    | select * from customers"), "{told}");

    assert!(told.contains("note: no-customers: whether the API server would take it was not asked"), "{told}");
    let olga = site.plane.user_kubeconfig("olga", &["devs", "owners", "system:authenticated"]).unwrap();
    let (status, told) = preview(&olga);
    assert!(status == 1 && !told.contains("note: "), "{told}");
    let unsound = draft.to_string().replace("\"tables\":", "\"where\":\"Absent\",\"tables\":");
    std::fs::write(draft_file, unsound).unwrap();
    let (status, told) = preview(&olga);
    assert!(status == 2 && told.contains("would not take it") && told.contains("where speaks of Update"), "{told}");
    let left = site.plane.kubectl().args(["get", "accesspolicies", "-A", "-o", "name"]).output().unwrap();
    assert!(left.stdout.is_empty(), "a preview writes nothing");

    // A question, shown whole before anybody answers it.
    site.ask("one", "drop table orders\u{1b}[2K\u{1b}[1A; -- harmless").await;
    let (status, told) = sallyport(&alice, &["requests", "-n", "shop"]);
    assert!(status == 0 && told.contains("Pending   0/2        ci/bot   orders-db   reviews/reviewed"), "{told}");
    let (status, told) = sallyport(&alice, &["approve", "one", "-n", "shop"]);
    assert!(status == 2 && told.contains("give --yes") && told.contains("  | drop table orders\\u{1b}[2K"), "{told}");
    let (status, told) = sallyport(&alice, &["approve", "one", "-n", "shop", "--yes", "--comment", "reviewed"]);
    assert!(status == 0 && told.ends_with("one: Approve by alice\n") && !told.contains('\u{1b}'), "{told}");
    let requests: Api<AccessRequest> = Api::namespaced(site.client.clone(), "shop");
    let status_of = |name: &'static str| {
        let requests = requests.clone();
        async move { requests.get(name).await.unwrap().status.unwrap() }
    };
    let written = status_of("one").await;
    assert_eq!((written.phase, written.decisions.len()), (Phase::Pending, 1));
    assert_eq!(
        (written.decisions[0].by.as_str(), written.decisions[0].comment.as_deref()),
        ("alice", Some("reviewed"))
    );

    // Once, in one's own name, by those who may; a second answer stands beside the first.
    let (status, told) = sallyport(&alice, &["deny", "one", "-n", "shop", "--yes"]);
    assert!(status == 2 && told.contains("alice has answered already: Approve"), "{told}");
    let (status, told) = sallyport(&dan, &["approve", "one", "-n", "shop", "--yes"]);
    assert!(status == 2 && told.contains("forbidden"), "{told}");
    let agent = site.user("system:serviceaccount:ci:bot", "dba");
    let (status, told) = sallyport(&agent, &["approve", "one", "-n", "shop", "--yes"]);
    assert!(
        status == 2 && told.contains("the API server refuses it") && told.contains("no agent and no fleet"),
        "{told}"
    );
    let (status, told) = sallyport(&bob, &["deny", "one", "-n", "shop", "--yes", "--comment", "not today"]);
    assert!(status == 0 && told.contains("answered   Approve by alice"), "{told}");
    assert_eq!(status_of("one").await.decisions.len(), 2);
    // At a terminal nothing is answered but by the word itself.
    site.ask("two", "drop table orders").await;
    let (status, told) = at_a_terminal(&alice, &["approve", "two", "-n", "shop"], "yes\n");
    assert!(status == 2 && told.contains("write approve: ") && told.contains("nothing was answered"), "{told}");
    let (status, told) = at_a_terminal(&alice, &["approve", "two", "-n", "shop"], "approve\n");
    assert!(status == 0 && told.contains("two: Approve by alice"), "{told}");
    assert_eq!(status_of("two").await.decisions.len(), 1);
    let (status, told) = sallyport(&bob, &["approve", "none", "-n", "shop", "--yes"]);
    assert!(status == 2 && told.contains("AccessRequest shop/none: there is none"), "{told}");
}
