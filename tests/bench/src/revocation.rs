//! From the write that ends an identity to the last command served to it, over a hundred proxies: suspended, revoked,
//! deleted; with the operator there and with none. Each proxy is a process with one open session that keeps asking.
//! Printed beside it, from the same run: when a bare watch saw the same write, which is what no proxy can be faster than.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{DeleteParams, Patch, PatchParams, WatchEvent, WatchParams};
use sallyport_harness::LeafFiles;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::scene::{PATIENCE, Proxy, STATEMENT, Scene, rank, wait};
use crate::throughput::rss;

const PROXIES: usize = 100;
/// Writes of each kind, with an operator and without.
const ROUNDS: usize = 5;
/// Between two commands of one session: five hundred a second in all, on a machine that runs all of it.
const PACE: Duration = Duration::from_millis(200);
/// How many sessions are opened at a time.
const AT_ONCE: usize = 8;

/// What ends an identity.
#[derive(Clone, Copy)]
enum Way {
    Suspend,
    Revoke,
    Delete,
}

const WAYS: [(&str, Way); 3] = [("suspend", Way::Suspend), ("revokeBefore", Way::Revoke), ("deletion", Way::Delete)];

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
    let mut scene = Scene::start(PROXIES + 50).await?;
    // Each is ended once: what is revoked or deleted needs the operator to come back.
    let victims: Vec<String> =
        (0..2 * ROUNDS).flat_map(|round| WAYS.map(|(way, _)| format!("{}-{round}", way.to_lowercase()))).collect();
    scene.crowd(&victims).await?;
    let names: Vec<String> = (0..PROXIES).map(|n| format!("proxy-{n:03}")).collect();
    // The operator takes out what is told by replicas that have no pod.
    scene.pods(&names).await?;
    let fleet = names.iter().map(|name| scene.proxy(name)).collect::<Result<Vec<_>>>()?;
    scene.answered(PROXIES).await?;

    println!(
        "from the write that ends an identity to the last command served to it: {PROXIES} proxies, {ROUNDS} writes each, \
         a command each {PACE:?} on every session"
    );
    println!("| operator | write | | p50 | p99 | worst |");
    println!("|---|---|---|---|---|---|");
    let mut victims = victims.iter();
    for operator in ["runs", "stopped"] {
        if operator == "stopped" {
            scene.stop_operator();
        }
        let mut all = WAYS.map(|(name, way)| (name, way, Times::default()));
        // In turns: what else happens then happens to each.
        for _ in 0..ROUNDS {
            for (_, way, times) in &mut all {
                let victim = victims.next().context("nobody is left")?;
                round(&scene, &fleet, victim, *way, times).await?;
            }
        }
        for (name, _, times) in all {
            print(operator, name, times);
        }
    }
    let memory = fleet.iter().map(|proxy| rss(proxy.process.id())).collect::<Result<Vec<_>>>()?;
    println!();
    println!("resident memory of a proxy with one session: {} KiB at most", memory.iter().max().unwrap_or(&0));
    println!();
    Ok(())
}

fn print(operator: &str, name: &str, times: Times) {
    for (what, mut times) in [
        ("answered by the API server", times.answered),
        ("seen by a bare watch", times.watched),
        ("last command served", times.last_served),
        ("session closed", times.over),
    ] {
        times.sort();
        let [p50, p99, worst] = [50, 99, 100].map(|share| rank(&times, share));
        println!("| {operator} | {name} | {what} | {p50:.1?} | {p99:.1?} | {worst:.1?} |");
    }
}

/// Opens a session at every proxy, writes, and waits until all have ended.
async fn round(scene: &Scene, fleet: &[Proxy], victim: &str, way: Way, times: &mut Times) -> Result<()> {
    let (agent, _) = scene.agent_of(victim).await?;
    let opened = fleet.iter().map(|proxy| open(scene, proxy, &agent));
    let sessions: Vec<_> = stream::iter(opened).buffer_unordered(AT_ONCE).try_collect().await?;
    let all_serve = || sessions.iter().all(|(_, served)| served.load(Ordering::Relaxed) >= 3);
    wait(async || all_serve().then_some(())).await.context("not every session is served")?;

    let seen = watched(scene, victim).await?;
    let began = Instant::now();
    end(scene, victim, way).await?;
    times.answered.push(began.elapsed());
    times.watched.push(timeout(PATIENCE, seen).await???.saturating_duration_since(began));
    for (session, _) in sessions {
        let ended = timeout(PATIENCE, session).await.context("a session goes on")??;
        times.last_served.push(ended.last_served.saturating_duration_since(began));
        times.over.push(ended.over.saturating_duration_since(began));
    }
    Ok(())
}

async fn open(scene: &Scene, proxy: &Proxy, agent: &LeafFiles) -> Result<(JoinHandle<Ended>, Arc<AtomicUsize>)> {
    let (client, ended) = scene.session(proxy, agent).await?;
    let served = Arc::new(AtomicUsize::new(0));
    Ok((tokio::spawn(work(client, ended, Arc::clone(&served))), served))
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

/// When a watch of the identity sees its next spec, or its end.
async fn watched(scene: &Scene, name: &str) -> Result<JoinHandle<Result<Instant>>> {
    let identities = scene.api("AgentIdentity", "agentidentities", "bench-ci");
    let now = identities.get(name).await?;
    let (generation, from) = (now.metadata.generation, now.metadata.resource_version.unwrap_or_default());
    let only = WatchParams::default().fields(&format!("metadata.name={name}"));
    let mut events = identities.watch(&only, &from).await?.boxed();
    Ok(tokio::spawn(async move {
        while let Some(event) = events.try_next().await? {
            match event {
                WatchEvent::Modified(identity) if identity.metadata.generation == generation => {}
                WatchEvent::Modified(_) | WatchEvent::Deleted(_) => return Ok(Instant::now()),
                _ => {}
            }
        }
        anyhow::bail!("the watch ended")
    }))
}

async fn end(scene: &Scene, name: &str, way: Way) -> Result<()> {
    let identities = scene.api("AgentIdentity", "agentidentities", "bench-ci");
    let spec: Value = match way {
        Way::Suspend => json!({"suspend": true}),
        Way::Revoke => {
            let now = k8s_openapi::jiff::Timestamp::now();
            json!({"revokeBefore": k8s_openapi::jiff::Timestamp::from_second(now.as_second())?.to_string()})
        }
        Way::Delete => {
            identities.delete(name, &DeleteParams::default()).await?;
            return Ok(());
        }
    };
    identities.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await?;
    Ok(())
}
