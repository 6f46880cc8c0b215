//! The cluster edge against a real API server.
//!
//! Owns the proof that a change acts at once, with the rights of a fleet and no others, and that an API
//! server that is away changes nothing. Touches a control plane of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod stage;

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use sallyport_crds::{AgentIdentity, ProtectedTarget};
use sallyport_harness::{ControlPlane, shared, temp_namespace};
use sallyport_policy::World;
use sallyport_proxy::Running;
use stage::site::{Site, TARGET};
use stage::{LONG, ask, bundle, metric_becomes, world_becomes};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

#[tokio::test]
async fn a_changed_bundle_or_identity_is_in_force_at_once_and_answered_in_the_status() {
    let site = Site::new(shared().await.unwrap()).await;
    let running = site.start().await;
    let (status, why) = ask(running.admin, "/readyz").await;
    assert_eq!(status, 503);
    assert!(why.contains("no bundle yet"), "{why}");
    site.identity("bot", false).await;
    let first = site.bundle("first");
    site.publish(&first.to_json()).await;
    world_becomes(&running.feed, "the first world", |world| site.suspended(world) == Some(false)).await;
    assert_eq!(ask(running.admin, "/readyz").await.0, 200);
    let min_not_before =
        running.feed.current().unwrap().roster.member(site.agents.name(), "bot").unwrap().min_not_before;
    assert!(min_not_before > 1_700_000_000, "the creation of the object counts: {min_not_before}");

    let second = site.bundle("second");
    site.publish(&second.to_json()).await;
    let bundled = world_becomes(&running.feed, "the second", |world| world.bundle.revision == second.revision).await;
    site.identity("bot", true).await;
    let suspended = world_becomes(&running.feed, "the suspension", |world| site.suspended(world) == Some(true)).await;
    println!("after the write returned: bundle {bundled:?}, suspension {suspended:?}");
    assert!(bundled.max(suspended) < Duration::from_secs(1), "{bundled:?} {suspended:?}");

    let targets: Api<ProtectedTarget> = site.fleet.api();
    let deadline = Instant::now() + LONG;
    loop {
        let replicas = targets.get(TARGET).await.unwrap().status.unwrap_or_default().replicas;
        if replicas.iter().any(|one| one.pod == "orders-db-0" && one.revision == second.revision) {
            assert_eq!(replicas.len(), 1);
            break;
        }
        assert!(Instant::now() < deadline, "{replicas:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn replicas_write_their_own_entries_wherever_those_have_moved_with_one_manager_for_all() {
    let site = Site::new(shared().await.unwrap()).await;
    site.identity("bot", false).await;
    let targets: Api<ProtectedTarget> = site.fleet.api();
    let entries = async |revision: &str, pods: &[&str]| {
        let deadline = Instant::now() + LONG;
        loop {
            let target = targets.get(TARGET).await.unwrap();
            let told = target.status.clone().unwrap_or_default().replicas;
            let mut current: Vec<_> =
                told.iter().filter(|entry| entry.revision == revision).map(|entry| entry.pod.as_str()).collect();
            current.sort_unstable();
            if current == pods {
                return target;
            }
            assert!(Instant::now() < deadline, "{pods:?} do not all say {revision}: {told:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let first = site.bundle("first");
    site.publish(&first.to_json()).await;
    let (_zero, _one) = (site.start().await, site.start_as("orders-db-1").await);
    let target = entries(&first.revision, &["orders-db-0", "orders-db-1"]).await;
    let _two = site.start_as("orders-db-2").await;
    entries(&first.revision, &["orders-db-0", "orders-db-1", "orders-db-2"]).await;

    // What the operator does for pods that are gone: what stood behind it moves up.
    let departed = target.status.unwrap().replicas[0].pod.clone();
    let steps = serde_json::json!([
        { "op": "test", "path": "/status/replicas/0/pod", "value": departed },
        { "op": "remove", "path": "/status/replicas/0" },
    ]);
    let patch: Patch<ProtectedTarget> = Patch::Json(serde_json::from_value(steps).unwrap());
    let left = targets.patch_status(TARGET, &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(left.status.unwrap().replicas.len(), 2);
    let second = site.bundle("second");
    site.publish(&second.to_json()).await;
    let target = entries(&second.revision, &["orders-db-0", "orders-db-1", "orders-db-2"]).await;
    assert_eq!(target.status.as_ref().unwrap().replicas.len(), 3, "none stands twice, none is left: {target:#?}");
    // A manager of its own for each would cost every write of a large fleet dearly.
    let managers = target.metadata.managed_fields.iter().flatten().filter_map(|entry| entry.manager.as_deref());
    assert_eq!(managers.filter(|manager| manager.starts_with("sallyport-proxy")).count(), 1);
}

#[tokio::test]
async fn the_end_of_a_recording_is_anchored_in_the_status_and_verify_holds_it_against_it() {
    let site = Site::new(shared().await.unwrap()).await;
    site.identity("bot", false).await;
    site.publish(&site.bundle("p").to_json()).await;
    let running = site.start().await;
    world_becomes(&running.feed, "the world", |world| site.suspended(world).is_some()).await;
    // Nobody gets in here: each attempt is recorded all the same.
    site.stage.pki.agent(site.agents.name(), "bot").unwrap().write(site.stage.dir.path(), "agent").unwrap();
    let at = |name: &str| site.stage.path(name).to_str().unwrap().to_owned();
    let uri = format!(
        "host=127.0.0.1 port={} user=default dbname=x sslmode=require sslcert={} sslkey={}",
        running.listen.port(),
        at("agent.crt"),
        at("agent.key")
    );
    for _ in 0..2 {
        let mut psql = std::process::Command::new("psql");
        psql.args([uri.as_str(), "-c", "select 1"]);
        let output = tokio::task::spawn_blocking(move || psql.output()).await.unwrap().unwrap();
        assert!(!output.status.success());
    }
    running.until(async {}).await.unwrap();

    let targets: Api<ProtectedTarget> = site.fleet.api();
    let target = serde_json::to_value(targets.get(TARGET).await.unwrap()).unwrap();
    let recording = &target["status"]["replicas"][0]["recording"];
    assert!(recording["records"].as_i64() >= Some(2), "{:#}", target["status"]);
    std::fs::write(site.stage.path("target.json"), target.to_string()).unwrap();
    let verify = || {
        let mut verify = std::process::Command::new(env!("CARGO_BIN_EXE_sallyport-proxy"));
        verify.args(["verify", "--records-dir", &at("records"), "--anchor", &at("target.json")]);
        let output = verify.output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (holds, told) = verify();
    assert!(holds && told.contains("anchored up to record"), "{told}");
    let file = site.stage.path(&format!("records/{}-0.jsonl", recording["run"].as_str().unwrap()));
    let text = std::fs::read_to_string(&file).unwrap();
    let last = text.trim_end().rfind('\n').unwrap();
    std::fs::write(&file, &text[..=last]).unwrap();
    let (holds, told) = verify();
    assert!(!holds && told.contains("its end was cut off"), "{told}");
}

#[tokio::test]
async fn a_bundle_that_cannot_be_used_or_is_deleted_leaves_the_old_one() {
    let site = Site::new(shared().await.unwrap()).await;
    site.identity("bot", false).await;
    let good = site.bundle("good");
    site.publish(&good.to_json()).await;
    let running = site.start().await;
    world_becomes(&running.feed, "the world", |_| true).await;
    let newer = good.to_json().replace("\"version\": 1", "\"version\": 2");
    let foreign = bundle("elsewhere", TARGET, &[site.agents.name()], "p").to_json();
    for (number, bad) in [newer.as_str(), "{", "", foreign.as_str()].iter().enumerate() {
        site.publish(bad).await;
        metric_becomes(&running, &format!("sallyport_proxy_inputs_refused_total{{input=\"bundle\"}} {}", number + 1))
            .await;
        assert_eq!(running.feed.current().unwrap().bundle.revision, good.revision);
    }
    let maps: Api<ConfigMap> = site.fleet.api();
    maps.delete(&format!("{TARGET}-bundle"), &DeleteParams::default()).await.unwrap();
    // Made again with the same content it is no change; with another it takes force.
    site.publish(&good.to_json()).await;
    let next = site.bundle("next");
    site.publish(&next.to_json()).await;
    world_becomes(&running.feed, "the next", |world| world.bundle.revision == next.revision).await;
}

#[tokio::test]
async fn a_namespace_that_is_refused_costs_only_itself_and_counts_once_it_is_allowed() {
    let site = Site::new(shared().await.unwrap()).await;
    let client = site.plane.client().await.unwrap();
    let other = temp_namespace(&client, "other").await.unwrap();
    site.identity("bot", false).await;
    site.identity_in(&other, "stranger", false).await;
    let both = bundle(site.fleet.name(), TARGET, &[site.agents.name(), other.name()], "both");
    site.publish(&both.to_json()).await;
    let running = site.start().await;
    world_becomes(&running.feed, "those that may be read", |world| site.suspended(world) == Some(false)).await;
    assert!(running.feed.current().unwrap().roster.member(other.name(), "stranger").is_none());
    site.identity("bot", true).await;
    world_becomes(&running.feed, "the suspension", |world| site.suspended(world) == Some(true)).await;

    site.allow_identities(&other).await;
    let there = |world: &World| world.roster.member(other.name(), "stranger").is_some();
    let took = world_becomes(&running.feed, "the other namespace", there).await;
    assert!(took < Duration::from_secs(15), "{took:?}");

    // No longer spoken of: gone, and its watch with it.
    site.publish(&site.bundle("one").to_json()).await;
    world_becomes(&running.feed, "one namespace", |world| !there(world) && site.suspended(world).is_some()).await;
}

#[tokio::test]
async fn an_api_server_that_is_away_changes_nothing_not_even_over_a_restart() {
    let plane = ControlPlane::start().await.unwrap();
    let site = Site::new(&plane).await;
    site.identity("bot", false).await;
    let good = site.bundle("good");
    site.publish(&good.to_json()).await;
    let running = site.start().await;
    world_becomes(&running.feed, "the world", |world| site.suspended(world) == Some(false)).await;
    let before = running.feed.current().unwrap();

    plane.stop_api_server().await.unwrap();
    let again = site.start().await;
    let took = world_becomes(&again.feed, "the last known good", |world| site.suspended(world) == Some(false)).await;
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!(again.feed.current().unwrap().bundle.revision, good.revision);
    metric_becomes(&again, "sallyport_proxy_last_known_good 1").await;
    assert_eq!(ask(again.admin, "/readyz").await.0, 200);
    assert_eq!(running.feed.current().unwrap().generation, before.generation, "nothing has changed");
    assert_eq!(ask(running.admin, "/readyz").await.0, 200);

    plane.start_api_server().await.unwrap();
    site.identity("bot", true).await;
    for proxy in [&running, &again] {
        let took = world_becomes(&proxy.feed, "the suspension", |world| site.suspended(world) == Some(true)).await;
        println!("after the API server came back: {took:?}");
        assert!(took < Duration::from_secs(20), "{took:?}");
        metric_becomes(proxy, "sallyport_proxy_last_known_good 0").await;
    }
}

/// What an agent with the certificate of `bot` is told by a proxy whose target cannot be reached.
async fn told(site: &Site<'_>, running: &Running) -> String {
    words(site.enter(running).await).await
}

async fn told_with(site: &Site<'_>, running: &Running, uid: Option<String>) -> String {
    words(site.enter_with(running, uid).await).await
}

async fn words(stream: TlsStream<TcpStream>) -> String {
    let mut config = tokio_postgres::Config::new();
    config.user("bot").dbname("postgres").ssl_mode(tokio_postgres::config::SslMode::Disable);
    let error = config.connect_raw(stream, tokio_postgres::NoTls).await.err().expect("there is no target");
    let error = error.as_db_error().unwrap_or_else(|| panic!("{error}"));
    format!("{} {}", error.code().code(), error.message())
}

#[tokio::test]
async fn an_api_server_that_is_away_for_too_long_stops_everything_and_one_that_is_silent_stops_nothing() {
    let plane = ControlPlane::start().await.unwrap();
    let site = Site::new(&plane).await;
    site.identity("bot", false).await;
    let mut wanted = site.bundle("strict");
    wanted.sessions.stale_after_seconds = Some(60);
    site.publish(&wanted.sealed().to_json()).await;
    let running = site.start().await;
    world_becomes(&running.feed, "the world", |world| site.suspended(world) == Some(false)).await;
    let uid = site.agents.api::<AgentIdentity>().get("bot").await.unwrap().metadata.uid;
    let generation = running.feed.current().unwrap().generation;
    let let_in = |told: &str| told.contains("credential");
    let words = told(&site, &running).await;
    assert!(let_in(&words), "{words}");

    // Nothing changes, and word comes all the same: the age falls again and again.
    let (mut confirmations, mut before, mut oldest) = (0, Duration::ZERO, Duration::ZERO);
    let deadline = Instant::now() + 3 * LONG;
    while confirmations < 3 {
        let age = running.feed.age().unwrap();
        confirmations += usize::from(age < before);
        (before, oldest) = (age, oldest.max(age));
        assert!(Instant::now() < deadline, "{age:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("the oldest word of a live API server: {oldest:?}");
    assert_eq!(running.feed.current().unwrap().generation, generation, "nothing changed");

    plane.stop_api_server().await.unwrap();
    let stopped = Instant::now();
    let words = loop {
        let words = told_with(&site, &running, uid.clone()).await;
        if !let_in(&words) {
            break words;
        }
        assert!(stopped.elapsed() < 2 * LONG, "still let in: {words}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert!(words.starts_with("57P03 this proxy has not heard from the cluster for "), "{words}");
    println!("refused {:?} after the API server was stopped", stopped.elapsed());
    let (_, metrics) = ask(running.admin, "/metrics").await;
    for of in ["bundle", "roster"] {
        let start = format!("sallyport_proxy_age_seconds{{of=\"{of}\"}} ");
        let age = metrics.lines().find_map(|line| line.strip_prefix(&start)).unwrap();
        assert!(age.parse::<f64>().unwrap() > 30.0, "{of}: {age}");
    }

    plane.start_api_server().await.unwrap();
    let back = Instant::now();
    while !let_in(&told_with(&site, &running, uid.clone()).await) {
        assert!(back.elapsed() < LONG, "still refused");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("let in {:?} after it came back", back.elapsed());
}
