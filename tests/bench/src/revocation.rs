//! From the write that suspends or revokes an identity to the last command served to it, over a hundred proxies.
//! Each is a process with one open session that keeps asking. Printed beside it, from the same run: when a bare watch
//! saw the same write, which is what no proxy can be faster than.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use sallyport_harness::LeafFiles;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::scene::{PATIENCE, Proxy, STATEMENT, Scene, rank, wait};
use crate::throughput::rss;

const PROXIES: usize = 100;
/// Writes of each kind.
const ROUNDS: usize = 10;
/// Between two commands of one session: five hundred a second in all, on a machine that runs all of it.
const PACE: Duration = Duration::from_millis(200);
/// How many sessions are opened at a time.
const AT_ONCE: usize = 8;

/// What one session saw.
struct Ended {
    last_served: Instant,
    over: Instant,
}

/// Times from one kind of write, of all proxies and rounds.
#[derive(Default)]
struct Times {
    answered: Vec<Duration>,
    watched: Vec<Duration>,
    last_served: Vec<Duration>,
    over: Vec<Duration>,
}

/// Runs the rounds and prints what they took.
pub(crate) async fn table() -> Result<()> {
    let scene = Scene::start(PROXIES + 50).await?;
    let mut agent = scene.agent(None).await?;
    let fleet = (0..PROXIES).map(|n| scene.proxy(&format!("proxy-{n:03}"))).collect::<Result<Vec<_>>>()?;
    let (mut suspended, mut revoked) = (Times::default(), Times::default());
    for _ in 0..ROUNDS {
        round(&scene, &fleet, &agent.0, json!({"suspend": true}), &mut suspended).await?;
        write(&scene, &json!({"suspend": false})).await?;
    }
    for _ in 0..ROUNDS {
        // A certificate of the same second as its revocation would live: certificates know whole seconds.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let now = k8s_openapi::jiff::Timestamp::now();
        let now = k8s_openapi::jiff::Timestamp::from_second(now.as_second())?;
        round(&scene, &fleet, &agent.0, json!({"revokeBefore": now.to_string()}), &mut revoked).await?;
        agent = scene.agent(Some(&agent.1)).await?;
    }
    let memory = fleet.iter().map(|proxy| rss(proxy.process.id())).collect::<Result<Vec<_>>>()?;
    println!(
        "from the write that ends an identity to the last command served to it: {PROXIES} proxies, {ROUNDS} writes each, \
         a command each {PACE:?} on every session"
    );
    println!("| write | | p50 | p99 | worst |");
    println!("|---|---|---|---|---|");
    for (name, times) in [("suspend", suspended), ("revokeBefore", revoked)] {
        for (what, mut times) in [
            ("answered by the API server", times.answered),
            ("seen by a bare watch", times.watched),
            ("last command served", times.last_served),
            ("session closed", times.over),
        ] {
            times.sort();
            let [p50, p99, worst] = [50, 99, 100].map(|share| rank(&times, share));
            println!("| {name} | {what} | {p50:.1?} | {p99:.1?} | {worst:.1?} |");
        }
    }
    println!();
    println!("resident memory of a proxy with one session: {} KiB at most", memory.iter().max().unwrap_or(&0));
    println!();
    Ok(())
}

/// Opens a session at every proxy, writes, and waits until all have ended.
async fn round(scene: &Scene, fleet: &[Proxy], agent: &LeafFiles, spec: Value, times: &mut Times) -> Result<()> {
    let opened = fleet.iter().map(|proxy| async move {
        let (client, ended) = scene.session(proxy, agent).await?;
        let served = Arc::new(AtomicUsize::new(0));
        Ok::<_, anyhow::Error>((tokio::spawn(work(client, ended, Arc::clone(&served))), served))
    });
    let sessions: Vec<_> = stream::iter(opened).buffer_unordered(AT_ONCE).try_collect().await?;
    let all_serve = || sessions.iter().all(|(_, served)| served.load(Ordering::Relaxed) >= 3);
    wait(async || all_serve().then_some(())).await.context("not every session is served")?;

    let seen = watched(scene).await?;
    let began = Instant::now();
    write(scene, &spec).await?;
    times.answered.push(began.elapsed());
    times.watched.push(timeout(PATIENCE, seen).await???.saturating_duration_since(began));
    for (session, _) in sessions {
        let ended = timeout(PATIENCE, session).await.context("a session goes on")??;
        times.last_served.push(ended.last_served.saturating_duration_since(began));
        times.over.push(ended.over.saturating_duration_since(began));
    }
    Ok(())
}

/// Asks at its pace until the session ends.
async fn work(client: tokio_postgres::Client, mut ended: JoinHandle<String>, served: Arc<AtomicUsize>) -> Ended {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_served = Instant::now();
    loop {
        tokio::select! {
            _ = &mut ended => return Ended { last_served, over: Instant::now() },
            _ = pace.tick() => {}
        }
        if client.simple_query(STATEMENT).await.is_err() {
            return Ended { last_served, over: Instant::now() };
        }
        last_served = Instant::now();
        served.fetch_add(1, Ordering::Relaxed);
    }
}

/// When a watch of the identity sees its next spec.
async fn watched(scene: &Scene) -> Result<JoinHandle<Result<Instant>>> {
    let identities = scene.api("AgentIdentity", "agentidentities", "bench-ci");
    let list = identities.list(&ListParams::default()).await?;
    let generation = list.items.first().and_then(|identity| identity.metadata.generation);
    let from = list.metadata.resource_version.unwrap_or_default();
    let mut events = identities.watch(&WatchParams::default(), &from).await?.boxed();
    Ok(tokio::spawn(async move {
        while let Some(event) = events.try_next().await? {
            if let WatchEvent::Modified(identity) = event
                && identity.metadata.generation != generation
            {
                return Ok(Instant::now());
            }
        }
        anyhow::bail!("the watch ended")
    }))
}

async fn write(scene: &Scene, spec: &Value) -> Result<()> {
    let identities = scene.api("AgentIdentity", "agentidentities", "bench-ci");
    identities.patch("bot", &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await?;
    Ok(())
}
