//! The target's credential: rotated under load, half-written and healed, and never seen.

use sallyport_crds::ProtectedTarget;
use sallyport_e2e::{POLICY, Scene, condition, eventually, holds};
use serde_json::{Value, json};

#[tokio::test]
async fn a_rotated_password_is_used_by_new_sessions_without_a_restart_and_open_ones_go_on() {
    let scene = Scene::open("rotate", 2).await.unwrap();
    let agent = scene.agent().unwrap();
    let before = scene.replicas().unwrap();
    let open = agent.keep_asking("select count(*) from orders", false, |answer| answer == "100");
    assert_eq!(agent.psql("select count(*) from orders").unwrap(), "100");

    let fresh = format!("{}-rotated", scene.workload.password);
    scene.stage.postgres.exec_sql(&format!("alter role {} password '{fresh}'", scene.workload.role)).await.unwrap();
    // Until the Secret follows there is nothing to log in with; the agent is told so, and no password.
    let told = agent.psql("select count(*) from orders").unwrap();
    assert!(told.contains("FATAL") && !told.contains(&scene.workload.password), "{told}");
    scene.credential(&fresh).unwrap();
    // Each replica has its own copy of the Secret: a row of answers comes from both.
    eventually("logins with the new password at every replica", || async {
        let answers = (0..8).map(|_| agent.psql("select count(*) from orders")).collect::<Result<Vec<_>, _>>()?;
        Ok(answers.iter().all(|answer| answer == "100").then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(scene.replicas().unwrap(), before, "no replica was replaced");
    // Its session outlives the password it was opened with.
    open.more(10);
    let (asked, wrong) = open.stop();
    assert!(wrong.is_empty() && asked > 10, "the open session of {asked} statements: {wrong:#?}");
    scene.kubectl(&["logs", "-n", &scene.shop, "-l", "sallyport.dev/target=orders-db", "--tail=-1"]).map_or_else(
        |error| panic!("{error:#}"),
        |logs| assert!(!logs.contains(&scene.workload.password), "a password is in the logs: {logs}"),
    );
}

#[tokio::test]
async fn a_half_written_credential_is_named_on_the_target_and_heals() {
    let scene = Scene::set("half").await.unwrap();
    scene.patch(&scene.shop, "secret/orders-db", &json!({ "data": { "password": null } })).unwrap();
    scene.identity(&scene.ci, &["migrations"]).unwrap();
    scene.target(1).unwrap();
    scene.policy(POLICY).unwrap();
    let named = |target: Option<&Value>| {
        target.and_then(|target| condition(target, "ResolvedRefs")).is_some_and(|(status, reason, message)| {
            status == "False" && reason == "SecretIncomplete" && message.contains("Secret orders-db lacks password")
        })
    };
    scene.until::<ProtectedTarget>(&scene.shop, "orders-db", "ResolvedRefs=False", named).await.unwrap();

    scene.credential(&scene.workload.password).unwrap();
    let healed = |target: Option<&Value>| holds(target, "ResolvedRefs") && holds(target, "Ready");
    scene.until::<ProtectedTarget>(&scene.shop, "orders-db", "ResolvedRefs", healed).await.unwrap();
    scene.in_force().await.unwrap();
    let agent = scene.agent().unwrap();
    eventually("a login with the healed credential", || async {
        Ok((agent.psql("select count(*) from orders")? == "100").then_some(()))
    })
    .await
    .unwrap();
}
