//! Without the operator, without the API server, and with another authority: what is in force stays in force.
//! These stories take away or replace what all others need, so they have a cluster of their own and run one after
//! another.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use sallyport_e2e::{POLICY, Scene, eventually};
use serde_json::json;
use tokio::sync::Mutex;

mod asking;
mod authority;

static ALONE: Mutex<()> = Mutex::const_new(());
const OUTAGE: Duration = Duration::from_secs(60);
const READ: &str = "select count(*) from orders";

#[tokio::test]
async fn suspension_ends_an_idle_session_with_no_operator_there() {
    let _alone = ALONE.lock().await;
    let scene = Scene::open("suspend", 2).await.unwrap();
    let agent = scene.agent().unwrap();
    let mut session = agent.session().unwrap();
    assert_eq!(session.ask(READ).unwrap(), "100");
    assert_eq!(scene.upstream_sessions().await.unwrap(), 1);

    let operator = ["-n", "sallyport-system", "deployment/sallyport-operator"];
    scene.kubectl(&[&["scale"], &operator[..], &["--replicas=0"]].concat()).unwrap();
    let of_operator = ["-n", "sallyport-system", "pods", "-l", "app.kubernetes.io/name=sallyport-operator"];
    scene.kubectl(&[&["wait", "--for=delete", "--timeout=60s"], &of_operator[..]].concat()).unwrap();

    scene.patch(&scene.ci, "agentidentity/bot", &json!({ "spec": { "suspend": true } })).unwrap();
    // Nobody asks anything: the session is closed all the same, on both sides.
    eventually("the end of the idle session at the database", || async {
        Ok((scene.upstream_sessions().await? == 0).then_some(()))
    })
    .await
    .unwrap();
    let last = session.ask(READ).unwrap();
    assert!(last.contains("this identity is suspended") && last.contains("(psql ended"), "{last}");
    let refused = agent.psql(READ).unwrap();
    assert!(refused.contains("this identity is suspended"), "{refused}");

    scene.patch(&scene.ci, "agentidentity/bot", &json!({ "spec": { "suspend": false } })).unwrap();
    eventually("the end of the suspension", || async { Ok((agent.psql(READ)? == "100").then_some(())) }).await.unwrap();
    scene.kubectl(&[&["scale"], &operator[..], &["--replicas=1"]].concat()).unwrap();
    scene.stage.operator_is_there().unwrap();
}

#[tokio::test]
async fn with_the_api_server_gone_nothing_fails_and_nothing_refused_is_let_through() {
    let _alone = ALONE.lock().await;
    let scene = Scene::open("outage", 2).await.unwrap();
    let agent = scene.agent().unwrap();
    let loops = [
        agent.keep_asking(READ, false, |answer| answer == "100"),
        agent.keep_asking(READ, true, |answer| answer == "100"),
        agent.keep_asking("delete from orders", false, |answer| answer.contains("rule no-unbounded-writes")),
        agent.keep_asking("delete from orders", true, |answer| answer.contains("rule no-unbounded-writes")),
    ];
    let plane = scene.stage.cluster.control_plane();
    plane.stop_api_server().await.unwrap();
    let before: Vec<usize> = loops.iter().map(|load| load.asked()).collect();
    tokio::time::sleep(OUTAGE).await;
    let after: Vec<usize> = loops.iter().map(|load| load.asked()).collect();
    plane.start_api_server().await.unwrap();
    for (load, (before, after)) in loops.into_iter().zip(before.into_iter().zip(after)) {
        assert!(after > before + 5, "{before} statements before, {after} after: no load during the outage");
        let (asked, wrong) = load.stop();
        assert!(wrong.is_empty(), "{} of {asked}: {wrong:#?}", wrong.len());
    }

    // The watches find their way back: what is applied now counts.
    scene.stage.operator_is_there().unwrap();
    let refuse = POLICY.replace(r#""name": "read", "action": "Allow""#, r#""name": "read", "action": "Deny""#);
    scene.policy(&refuse).unwrap();
    scene.programmed().await.unwrap();
    let refused = agent.psql(READ).unwrap();
    assert!(refused.contains("refused by policy orders, rule read"), "{refused}");
}
