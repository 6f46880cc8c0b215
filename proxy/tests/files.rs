//! The proxy without a cluster: bundle and roster from files that change under it.
//!
//! Owns the proof that a file takes force whole or not at all. Touches temporary directories and loopback.
//! Invariant under test: what cannot be used changes nothing, and is counted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod stage;

use std::fs;
use std::time::Duration;

use sallyport_proxy::start;
use stage::{Stage, ask, bundle, metric_becomes, world_becomes};

const ROSTER: &str = "members:\n- {namespace: ci, name: bot, groups: [bots]}\n";

#[tokio::test]
async fn a_changed_file_takes_force_and_a_bad_one_does_not() {
    let stage = Stage::new();
    let first = bundle("shop", "orders-db", &["ci"], "first");
    fs::write(stage.path("bundle.json"), first.to_json()).unwrap();
    fs::write(stage.path("roster.yaml"), ROSTER).unwrap();
    let running = start(stage.in_files()).await.unwrap();
    assert_eq!(running.feed.current().unwrap().bundle.revision, first.revision);
    assert_eq!(ask(running.admin, "/readyz").await, (200, "ok\n".to_owned()));
    assert_eq!(ask(running.admin, "/healthz").await.0, 200);

    // As an editor does it: a new file in the place of the old.
    let second = bundle("shop", "orders-db", &["ci"], "second");
    fs::write(stage.path("new"), second.to_json()).unwrap();
    fs::rename(stage.path("new"), stage.path("bundle.json")).unwrap();
    let took =
        world_becomes(&running.feed, "the second bundle", |world| world.bundle.revision == second.revision).await;
    assert!(took < Duration::from_secs(5), "the kernel tells, the clock of 10 s is for where it does not: {took:?}");

    fs::write(stage.path("bundle.json"), second.to_json().replace("\"version\": 1", "\"version\": 2")).unwrap();
    metric_becomes(&running, "sallyport_proxy_inputs_refused_total{input=\"bundle\"} 1").await;
    fs::write(stage.path("roster.yaml"), "").unwrap();
    metric_becomes(&running, "sallyport_proxy_inputs_refused_total{input=\"roster\"} 1").await;
    let world = running.feed.current().unwrap();
    assert_eq!((&world.bundle.revision, world.roster.members.len()), (&second.revision, 1));

    fs::write(stage.path("roster.yaml"), ROSTER.replace("groups", "suspended: true, groups")).unwrap();
    let suspended = |world: &sallyport_policy::World| world.roster.member("ci", "bot").is_some_and(|bot| bot.suspended);
    world_becomes(&running.feed, "the suspension", suspended).await;
    let (_, metrics) = ask(running.admin, "/metrics").await;
    let info = format!("sallyport_proxy_bundle_info{{revision=\"{}\"}} 1", second.revision);
    assert!(metrics.contains(&info) && metrics.contains("sallyport_proxy_last_known_good 0"), "{metrics}");
}

#[tokio::test]
async fn files_that_are_wrong_at_the_start_end_it_with_every_cause() {
    let stage = Stage::new();
    let mut foreign = bundle("shop", "orders-db", &["ci"], "p");
    foreign.upstream.protocol = "gopher".to_owned();
    fs::write(stage.path("bundle.json"), foreign.sealed().to_json()).unwrap();
    fs::write(stage.path("roster.yaml"), "members: {}").unwrap();
    let cause = start(stage.in_files()).await.unwrap_err().to_string();
    assert!(cause.contains("\"gopher\" is not one this proxy speaks"), "{cause}");
    assert!(cause.contains("roster.yaml"), "{cause}");
}

#[tokio::test]
async fn settings_that_the_protocol_does_not_know_refuse_the_bundle() {
    let stage = Stage::new();
    let mut strange = bundle("shop", "orders-db", &["ci"], "p");
    strange.upstream.settings.insert("noSuchSetting".to_owned(), true.into());
    fs::write(stage.path("bundle.json"), strange.sealed().to_json()).unwrap();
    fs::write(stage.path("roster.yaml"), ROSTER).unwrap();
    let cause = start(stage.in_files()).await.unwrap_err().to_string();
    assert!(cause.contains("noSuchSetting"), "{cause}");
}

#[tokio::test]
async fn readiness_says_why_and_the_end_is_clean() {
    let stage = Stage::new();
    fs::write(stage.path("bundle.json"), bundle("shop", "orders-db", &["ci"], "p").to_json()).unwrap();
    fs::write(stage.path("roster.yaml"), ROSTER).unwrap();
    let running = start(stage.in_files()).await.unwrap();
    let (listen, admin) = (running.listen, running.admin);
    fs::remove_dir_all(stage.path("records")).unwrap();
    fs::write(stage.path("records"), "in the way").unwrap();
    let (status, why) = ask(admin, "/readyz").await;
    assert_eq!(status, 503);
    assert!(why.contains("records cannot be written in"), "{why}");

    // A connection that says nothing must not keep the proxy from ending.
    let silent = tokio::net::TcpStream::connect(listen).await.unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let ended = tokio::spawn(running.until(async { drop(stopped.await) }));
    stop.send(()).unwrap();
    ended.await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(listen).await.is_err(), "nothing is accepted after the end");
    drop(silent);
}
