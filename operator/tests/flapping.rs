//! An API server that cannot be relied on, between it and an operator and a fleet: killed and started, answering errors
//! and nonsense, losing answers, ending watches, showing lists from before.
//!
//! A real API server, an operator and a proxy of this process, each behind a relay that does such things. Invariant:
//! nobody is issued twice and nobody is forgotten; what a fleet has heard of a suspension or deletion it does not unhear;
//! nobody asks without a pause.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};
use sallyport_harness::{Call, Fate, Pki, Relay};
use sallyport_policy::World;
use sallyport_proxy::{Arguments, Config, PolicyFeed, Running};
use serde_json::{Value, json};
use support::{CA, CREDENTIALS, OURS, POLICY, Stage, TARGET, condition, config, is, until};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How many agents come, and how many of them are suspended and deleted while it storms.
const AGENTS: usize = 30;
const CALM: u8 = 0;
const STORM: u8 = 1;
const BRIEF_WATCHES: u8 = 2;
/// Identities are shown as they were when they were last listed.
const LAG: u8 = 3;

/// What the weather is; all relays share it.
#[derive(Clone, Default)]
struct Weather {
    now: Arc<AtomicU8>,
    drawn: Arc<AtomicU64>,
}

impl Weather {
    fn set(&self, weather: u8) {
        self.now.store(weather, Ordering::SeqCst);
    }

    fn judge(&self, method: &Method, path: &str) -> Fate {
        let watch = path.contains("watch=true");
        match self.now.load(Ordering::SeqCst) {
            CALM => Fate::Pass,
            BRIEF_WATCHES if watch => Fate::EndsAtOnce,
            LAG if path.contains("/agentidentities?") => {
                if watch {
                    Fate::Gone
                } else {
                    Fate::Stale
                }
            }
            BRIEF_WATCHES | LAG => Fate::Pass,
            _ => {
                // The same sequence each run, whoever draws from it.
                let at = self.drawn.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst);
                let dice = (at ^ (at >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32;
                match (dice % 100, watch, *method == Method::GET) {
                    (0..15, true, _) => Fate::EndsAtOnce,
                    (15..25, true, _) => Fate::Gone,
                    (25..30, true, _) => Fate::Garbage,
                    (0..25, false, true) => Fate::Stale,
                    (25..30, false, true) => Fate::Garbage,
                    (0..10, false, false) => Fate::AnswerLost,
                    (30..38, ..) => Fate::Refused(500),
                    (38..46, ..) => Fate::Refused(429),
                    (46..48, ..) => Fate::Silence,
                    (48..50, ..) => Fate::AnswerLost,
                    _ => Fate::Pass,
                }
            }
        }
    }
}

async fn relay(stage: &Stage, weather: &Weather, user: &str) -> Relay {
    let client = stage.plane.user_client(user, &["system:serviceaccounts", "system:authenticated"]).await.unwrap();
    let weather = weather.clone();
    Relay::start(client, move |method, path| weather.judge(method, path)).await.unwrap()
}

async fn fleet(relay: &Relay, dir: &Path) -> Running {
    let pki = Pki::new("cluster.local").unwrap();
    let server = pki.server(&["localhost"]).unwrap();
    let place = |part: &str| {
        std::fs::create_dir_all(dir.join(part)).unwrap();
        Some(dir.join(part).display().to_string())
    };
    let tls = place("tls");
    for (name, text) in [("tls.crt", server.cert_pem), ("tls.key", server.key_pem), ("ca.crt", pki.ca_pem())] {
        std::fs::write(dir.join("tls").join(name), text).unwrap();
    }
    relay.kubeconfig(&dir.join("kubeconfig")).unwrap();
    let arguments = Arguments {
        target_namespace: Some("prod".to_owned()),
        target_name: Some("orders-db".to_owned()),
        pod_name: Some("orders-db-0".to_owned()),
        kubeconfig: Some(dir.join("kubeconfig").display().to_string()),
        listen: Some("127.0.0.1:0".to_owned()),
        admin: Some("127.0.0.1:0".to_owned()),
        tls_dir: tls,
        credentials_dir: place("credentials"),
        records_dir: place("records"),
        state_dir: place("state"),
        log: Some("info".to_owned()),
        ..Arguments::default()
    };
    sallyport_proxy::start(Config::resolve(arguments).unwrap()).await.unwrap()
}

fn name(number: usize) -> String {
    format!("bot-{number:02}")
}

fn identity(number: usize, suspend: bool) -> String {
    json!({"apiVersion": OURS, "kind": "AgentIdentity", "metadata": {"name": name(number), "namespace": "ci"},
        "spec": {"groups": ["migrations"], "suspend": suspend}})
    .to_string()
}

/// Looks at every world that comes into force: who was suspended or gone in one is let in by none after it.
async fn never_unheard(feed: Arc<PolicyFeed>) {
    let (mut suspended, mut seen, mut gone) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut changes = feed.subscribe();
    loop {
        if let Some(world) = feed.current() {
            let there: BTreeSet<_> = world.roster.members.values().filter_map(|one| one.uid.clone()).collect();
            for one in world.roster.members.values() {
                let uid = one.uid.clone().unwrap();
                assert!(one.suspended || !suspended.contains(&uid), "{} was suspended and is not any more", one.name);
                assert!(!gone.contains(&uid), "{} was deleted and is back", one.name);
                if one.suspended {
                    suspended.insert(uid);
                }
            }
            // An older list may lack who is new; who is deleted is known by its name's end.
            gone.extend(
                DELETED.lock().unwrap().iter().filter(|uid| seen.contains(*uid) && !there.contains(*uid)).cloned(),
            );
            seen.extend(there);
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// UIDs of those who were deleted.
static DELETED: std::sync::Mutex<BTreeSet<String>> = std::sync::Mutex::new(BTreeSet::new());

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_issued_twice_or_forgotten_and_nothing_is_unheard_in_any_weather() {
    let stage = Stage::new().await;
    let weather = Weather::default();
    let operators = relay(&stage, &weather, "system:serviceaccount:sallyport-system:sallyport-operator").await;
    let stop = CancellationToken::new();
    let running = sallyport_operator::run(config(None), operators.client().unwrap(), stop.clone());
    let operator = tokio::spawn(running);
    stage.apply_all(&[CREDENTIALS, CA, TARGET, POLICY]).await;
    stage.apply(&identity(0, false)).await;
    let ready = |o: &Value| is(condition(o, "Ready"), "True", "Ready");
    stage.until(OURS, "AgentIdentity", "ci", &name(0), ready).await;
    stage.until("rbac.authorization.k8s.io/v1", "RoleBinding", "ci", "sallyport-fleets", |_| true).await;
    let fleets = relay(&stage, &weather, "system:serviceaccount:prod:orders-db-proxy").await;
    let dir = tempfile::tempdir().unwrap();
    let proxy = fleet(&fleets, dir.path()).await;
    let member = |world: &World, number: usize| world.roster.member("ci", &name(number)).cloned();
    let known = until("the first agent", async || proxy.feed.current().and_then(|world| member(&world, 0)));
    if tokio::time::timeout(Duration::from_secs(20), known).await.is_err() {
        panic!("the fleet knows nobody: {:#?}", fleets.calls());
    }
    let watched = tokio::spawn(never_unheard(Arc::clone(&proxy.feed)));

    // A storm, and the API server killed in it.
    weather.set(STORM);
    let identities: Api<kube::api::DynamicObject> = stage.api(OURS, "AgentIdentity", "ci").await;
    for number in 1..AGENTS {
        stage.apply(&identity(number, false)).await;
        sleep(Duration::from_millis(80)).await;
        // Of those that are there already, one is suspended and one deleted, now and then.
        if number % 3 == 0 && (number - 2) % 5 != 4 {
            stage.apply(&identity(number - 2, true)).await;
        }
        if number % 5 == 0 {
            let uid = identities.get(&name(number - 1)).await.unwrap().uid().unwrap();
            identities.delete(&name(number - 1), &DeleteParams::default()).await.unwrap();
            DELETED.lock().unwrap().insert(uid);
        }
        if number == AGENTS / 2 {
            stage.plane.stop_api_server().await.unwrap();
            sleep(Duration::from_millis(500)).await;
            stage.plane.start_api_server().await.unwrap();
        }
    }
    let fates: BTreeSet<_> = operators.calls().iter().map(|call| format!("{:?}", call.fate)).collect();
    assert!(fates.len() >= 8, "a storm has all of it: {fates:?}");
    weather.set(CALM);
    let since = Instant::now();

    // Calm: all is as if there had been none.
    let list = until("all agents are told", async || {
        let list: Vec<_> = identities.list(&Default::default()).await.unwrap().items;
        let list: Vec<_> = list.iter().map(|object| serde_json::to_value(object).unwrap()).collect();
        let told = |o: &Value| ready(o) || is(condition(o, "Ready"), "False", "Suspended");
        let issued = |o: &Value| is(condition(o, "Issued"), "True", "Issued");
        let left: Vec<_> = list.iter().filter(|o| !told(o) || !issued(o)).collect();
        if since.elapsed() > Duration::from_secs(80) {
            panic!("{left:#?}");
        }
        left.is_empty().then_some(list)
    })
    .await;
    until("the fleet knows all", async || {
        let world = proxy.feed.current().unwrap();
        let of = |o: &Value| world.roster.member("ci", o["metadata"]["name"].as_str().unwrap()).cloned();
        let same = |o: &Value| of(o).is_some_and(|one| json!(one.suspended) == o["spec"]["suspend"]);
        (list.iter().all(same) && world.roster.members.len() == list.len()).then_some(())
    })
    .await;
    let secrets: Api<Secret> = Api::namespaced(stage.client.clone(), "ci");
    let issues = |path: &str| {
        let writes =
            operators.calls().into_iter().filter(|call| call.method != Method::GET && call.path.starts_with(path));
        writes.filter(|call| matches!(call.status, Some(200 | 201))).count()
    };
    for object in &list {
        let secret = secrets.get(object["status"]["secretName"].as_str().unwrap()).await.unwrap();
        // Made by one write, and by no other after it: each leaves its mark.
        let marks: Vec<_> = secret.metadata.managed_fields.iter().flatten().collect();
        assert_eq!(marks.len(), 1, "{} was written again: {marks:?}", secret.name_any());
        assert_eq!(marks[0].operation.as_deref(), Some("Update"), "made");
        assert_eq!(issues(&format!("/api/v1/namespaces/ci/secrets/{}", secret.name_any())), 0);
    }

    // One is suspended and one deleted, the fleet has heard of it, and then lists show them as they were.
    let uid = identities.get(&name(2)).await.unwrap().uid().unwrap();
    DELETED.lock().unwrap().insert(uid);
    stage.apply(&identity(0, true)).await;
    identities.delete(&name(2), &DeleteParams::default()).await.unwrap();
    let heard = |world: &World| member(world, 0).is_some_and(|one| one.suspended) && member(world, 2).is_none();
    until("the fleet has heard", async || proxy.feed.current().filter(|world| heard(world))).await;
    weather.set(LAG);
    let so_far = fleets.calls().len();
    // What is under way goes on until it ends by itself: an API server that is killed ends it.
    stage.plane.stop_api_server().await.unwrap();
    stage.plane.start_api_server().await.unwrap();
    until("lists from before", async || {
        let calls = fleets.calls().into_iter().skip(so_far);
        let stale = calls.filter(|call| call.fate == Fate::Stale && call.path.contains("limit=")).count();
        (stale >= 3).then_some(())
    })
    .await;
    assert!(heard(&proxy.feed.current().unwrap()), "it has unheard it");
    weather.set(CALM);
    until("the fleet lists again", async || {
        let calls = fleets.calls();
        calls.last().filter(|call| call.is_watch() && call.fate == Fate::Pass && call.status == Some(200)).map(|_| ())
    })
    .await;

    // Watches that are taken and ended at once: nobody asks without a pause.
    let began = operators.calls().len();
    weather.set(BRIEF_WATCHES);
    stage.plane.stop_api_server().await.unwrap();
    stage.plane.start_api_server().await.unwrap();
    let brief = |calls: Vec<Call>, since: usize| {
        let ended = calls.into_iter().skip(since).filter(|call| call.fate == Fate::EndsAtOnce);
        ended.map(|call| call.path.split('?').next().unwrap().to_owned()).collect::<BTreeSet<_>>().len()
    };
    until("its watches come", async || (brief(operators.calls(), began) >= 12).then_some(())).await;
    // How much is asked in a while: the one thing here that time decides.
    let (before, fleets_before) = (operators.calls().len(), fleets.calls().len());
    sleep(Duration::from_secs(3)).await;
    let (asked, fleets_asked) = (operators.calls().len() - before, fleets.calls().len() - fleets_before);
    println!("with watches that end at once, in 3 s: {asked} requests of the operator, {fleets_asked} of the fleet");
    assert!(asked > 0, "it asks on");
    assert!(asked < 1000 && fleets_asked < 150, "{asked} requests of the operator, {fleets_asked} of the fleet");
    assert!(!watched.is_finished(), "{:?}", watched.await);
    weather.set(CALM);
    stop.cancel();
    operator.await.unwrap().unwrap();
}
