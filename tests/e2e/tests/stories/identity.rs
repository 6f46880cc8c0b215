//! Who an agent is: its own object, its own namespace, its own life.

use sallyport_crds::AgentIdentity;
use sallyport_e2e::{Scene, holds};

#[tokio::test]
async fn a_re_made_identity_does_not_revive_the_certificates_of_the_old_one() {
    let scene = Scene::open("remade", 1).await.unwrap();
    let old = scene.agent().unwrap();
    let mut session = old.session().unwrap();
    assert_eq!(session.ask("select count(*) from orders").unwrap(), "100");

    scene.kubectl(&["delete", "-n", &scene.ci, "agentidentity/bot"]).unwrap();
    scene.identity(&scene.ci, &["migrations"]).unwrap();
    scene.until::<AgentIdentity>(&scene.ci, "bot", "Ready", |bot| holds(bot, "Ready")).await.unwrap();
    let last = session.ask("select count(*) from orders").unwrap();
    assert!(last.contains("(psql ended") && !last.contains("100"), "{last}");
    let refused = old.psql("select count(*) from orders").unwrap();
    assert!(refused.contains("this certificate was revoked: use a newer one"), "{refused}");
    assert_eq!(scene.agent().unwrap().psql("select count(*) from orders").unwrap(), "100");
}

#[tokio::test]
async fn a_group_of_the_same_name_in_another_namespace_gives_nothing() {
    let scene = Scene::open("group", 1).await.unwrap();
    scene.identity(&scene.shop, &["migrations"]).unwrap();
    scene.until::<AgentIdentity>(&scene.shop, "bot", "Ready", |bot| holds(bot, "Ready")).await.unwrap();
    let refused = scene.agent_of(&scene.shop).unwrap().psql("select count(*) from orders").unwrap();
    assert!(refused.contains("this identity is not known here"), "{refused}");
    assert_eq!(scene.agent().unwrap().psql("select count(*) from orders").unwrap(), "100");
}

#[tokio::test]
async fn kubectl_shows_who_is_ready_and_until_when() {
    let scene = Scene::set("columns").await.unwrap();
    scene.identity(&scene.ci, &[]).unwrap();
    scene.until::<AgentIdentity>(&scene.ci, "bot", "Ready", |bot| holds(bot, "Ready")).await.unwrap();
    let table = scene.kubectl(&["get", "agentidentities", "-n", &scene.ci]).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "READY", "IDENTITY", "EXPIRES", "RENEWS", "AGE"]);
    let spiffe = format!("spiffe://cluster.local/ns/{}/agent/bot", scene.ci);
    assert_eq!(rows[1][..3], ["bot", "True", spiffe.as_str()]);
    assert!(rows[1][4] < rows[1][3], "it renews before it expires: {table}");
    assert_eq!(rows[1].len(), 6, "{table}");
}
