//! People are asked on pods: a quorum, with the operator gone while it is asked, and with every replica killed before
//! the approval is used.
//!
//! Owns the people's side. Touches the operator, which all stories share. What is asserted is what the agent sees, what the
//! question says, and what is in the database.

use std::process::{Child, Stdio};
use std::time::Duration;

use sallyport_crds::ProtectedTarget;
use sallyport_e2e::{Scene, certificate, eventually, holds};
use serde_json::{Value, json};

use super::ALONE;

const RULES: &str = r#"[
  {"name": "ddl-asks", "action": "Ask", "postgres": {"statements": ["CreateTable"], "tables": ["public.*"]},
   "ask": {"approvals": 2, "timeout": "10m", "validity": "1h", "notBy": "ServiceAccounts"}}
]"#;
const CREATE: &str = "create table quorum(id int)";
const OPERATOR: [&str; 3] = ["-n", "sallyport-system", "deployment/sallyport-operator"];

/// psql in the agent's pod: it runs on while the command waits.
fn asks(scene: &Scene) -> Child {
    let door = format!("{} {}", scene.door().unwrap(), certificate("/identity"));
    let script = format!("exec psql -X -q -A -t '{door}' -c '{CREATE}' 2>&1");
    let mut kubectl = scene.stage.kubectl_command();
    kubectl.args(["exec", "-n", &scene.ci, "agent", "--", "bash", "-c", &script]);
    kubectl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What psql has said when it has ended.
async fn ended(child: Child) -> String {
    let output = tokio::task::spawn_blocking(move || child.wait_with_output());
    let output = tokio::time::timeout(sallyport_e2e::LIMIT, output).await.unwrap().unwrap().unwrap();
    sallyport_e2e::text(&output)
}

/// The question that is none of `known`, as soon as it is put.
async fn question(scene: &Scene, known: &[String]) -> String {
    let put = || async {
        let all: Value = serde_json::from_str(&scene.kubectl(&["get", "ask", "-n", &scene.shop, "-o", "json"])?)?;
        let names = all["items"].as_array().unwrap().iter().map(|one| one["metadata"]["name"].as_str().unwrap());
        Ok(names.map(str::to_owned).find(|name| !known.contains(name)))
    };
    eventually("a question", put).await.unwrap()
}

/// What people do, each beside the answers of those before.
fn answered(scene: &Scene, name: &str, people: &[&str], decision: &str) {
    let said = |by: &&str| json!({"decision": decision, "by": by, "at": "2026-11-27T09:00:00Z"});
    let patch = json!({"status": {"decisions": people.iter().map(said).collect::<Vec<_>>()}}).to_string();
    let who = people.last().unwrap();
    let arguments = ["--as", who, "--as-group", "dba", "--as-group", "system:authenticated", "-n", &scene.shop];
    let patching = ["patch", "ask", name, "--subresource=status", "--type=merge", "-p", &patch];
    scene.kubectl(&[&arguments[..], &patching[..]].concat()).unwrap();
}

fn status(scene: &Scene, name: &str) -> Value {
    scene.get(&scene.shop, &format!("ask/{name}")).unwrap()["status"].clone()
}

async fn tables(scene: &Scene) -> usize {
    let sql = "select 1 from pg_class where relname = 'quorum'";
    scene.stage.postgres.exec_sql_in(&scene.workload.database, sql).await.unwrap().len()
}

async fn drop_table(scene: &Scene) {
    scene.stage.postgres.exec_sql_in(&scene.workload.database, "drop table quorum").await.unwrap();
}

#[tokio::test]
async fn a_quorum_lets_a_command_through_once_whoever_is_killed_meanwhile() {
    let _alone = ALONE.lock().await;
    let scene = Scene::open("quorum", 2).await.unwrap();
    scene.policy(RULES).unwrap();
    scene.programmed().await.unwrap();
    let approvers = ["create", "rolebinding", "approvers", "--clusterrole=sallyport-approver", "--group=dba"];
    scene.kubectl(&[&approvers[..], &["-n", &scene.shop]].concat()).unwrap();
    scene.start_pod().unwrap();

    // One approval of two, and the operator is killed: the command waits on.
    let mut waiting = asks(&scene);
    let first = question(&scene, &[]).await;
    answered(&scene, &first, &["alice"], "Approve");
    scene.kubectl(&[&["scale"], &OPERATOR[..], &["--replicas=0"]].concat()).unwrap();
    let its_pods = ["-n", "sallyport-system", "pods", "-l", "app.kubernetes.io/name=sallyport-operator"];
    scene.kubectl(&[&["delete", "--force", "--grace-period=0"], &its_pods[..]].concat()).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(waiting.try_wait().unwrap().is_none() && status(&scene, &first)["consumed"].is_null());
    assert_eq!(tables(&scene).await, 0);

    // The second lets it through, with no operator there.
    answered(&scene, &first, &["alice", "bob"], "Approve");
    let told = ended(waiting).await;
    assert!(told.contains("waiting for 2 approvals") && told.contains("waiting for 1 approval"), "{told}");
    assert!(told.contains("was approved by alice, bob") && !told.contains("ERROR"), "{told}");
    assert_eq!(tables(&scene).await, 1);
    assert!(!status(&scene, &first)["consumed"].is_null());

    // The same again is another question. All replicas die while it is open, and the quorum comes with nobody there.
    drop_table(&scene).await;
    let waiting = asks(&scene);
    let second = question(&scene, std::slice::from_ref(&first)).await;
    answered(&scene, &second, &["carol"], "Approve");
    let fleet = scene.replicas().unwrap();
    let killed: Vec<_> = fleet.iter().map(String::as_str).collect();
    let delete = ["delete", "pod", "-n", &scene.shop, "--force", "--grace-period=0"];
    scene.kubectl(&[&delete[..], &killed[..]].concat()).unwrap();
    let told = ended(waiting).await;
    assert!(!told.contains("was approved by"), "{told}");
    answered(&scene, &second, &["carol", "bob"], "Approve");
    assert!(status(&scene, &second)["consumed"].is_null());
    assert_eq!(tables(&scene).await, 0);

    // With the next replicas it passes at once, and once.
    scene.kubectl(&[&["scale"], &OPERATOR[..], &["--replicas=1"]].concat()).unwrap();
    scene.stage.operator_is_there().unwrap();
    let anew = |target: Option<&Value>| {
        holds(target, "Ready") && target.is_some_and(|target| target["status"]["readyReplicas"] == 2)
    };
    let replaced = || async {
        let now = scene.replicas()?;
        Ok((now.len() == 2 && now.iter().all(|name| !fleet.contains(name))).then_some(()))
    };
    eventually("other replicas", replaced).await.unwrap();
    scene.until::<ProtectedTarget>(&scene.shop, "orders-db", "two ready replicas", anew).await.unwrap();
    let through = || async {
        let told = ended(asks(&scene)).await;
        // The Service may lead to a replica that is gone for a moment more.
        Ok(Some(told).filter(|told| !told.contains("connection to server")))
    };
    let told = eventually("a connection", through).await.unwrap();
    assert!(told.contains(&format!("access request {second} was approved by carol, bob")), "{told}");
    assert!(!told.contains("ERROR"), "{told}");
    assert_eq!(tables(&scene).await, 1);
    assert!(!status(&scene, &second)["consumed"].is_null());

    drop_table(&scene).await;
    let waiting = asks(&scene);
    let third = question(&scene, &[first, second]).await;
    answered(&scene, &third, &["bob"], "Deny");
    let told = ended(waiting).await;
    assert!(told.contains(&format!("access request {third} was denied by bob")), "{told}");
    assert_eq!(tables(&scene).await, 0);
}
