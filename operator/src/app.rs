//! The parts of the operator and how they are wired.
//!
//! Owns the order of starting and stopping. Touches everything, decides nothing. Invariant: nothing is
//! written before every store is filled and, where a lease is taken, the lease is held.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::events::{Recorder, Reporter as Identity};
use kube::{Client, ResourceExt};
use prometheus_client::registry::Registry;
use sallyport_client::paced;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Page};
use crate::bell::Bell;
use crate::clock::Clock;
use crate::config::Config;
use crate::controllers::{
    self, Context, Memory, Reporter, fleets, identity, pod_certificate, policy, publish, request, target, trust,
};
use crate::issue::Trust;
use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::seen::Seen;
use crate::stores::Stores;

/// How long running reconciles may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the operator until `stop`, or until it loses the lease.
///
/// # Errors
/// When the CA's Secret cannot be used, the admin port cannot be listened on, or the lease was lost.
pub async fn run(config: Config, client: Client, stop: CancellationToken) -> anyhow::Result<()> {
    run_by(Timestamp::now, config, client, stop).await
}

/// The same by a clock of the caller's.
///
/// # Errors
/// The same.
pub async fn run_by(
    wall: fn() -> Timestamp,
    config: Config,
    client: Client,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let clock = Clock::new(wall);
    let client = paced(client, &config.namespace);
    let place = trust::Place { namespace: config.namespace.clone(), secret: config.ca_secret.clone() };
    let ledger = trust::establish(&client, &place, &config.settings, clock.now()).await?;
    let trust = Arc::new(Trust::new(ledger.authority()?));
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);

    // Watches: from here on the caches are warm, leading or not.
    let (bell, mut watches) = (Bell::default(), JoinSet::new());
    let stores = Stores::start(&client, &config.namespace, &bell, &mut watches);
    bell.attach(stores.policies.clone());

    // The admin port.
    let (ready, memory) = (AtomicBool::new(false), Arc::new(Memory::default()));
    let page = Arc::new(Page {
        registry,
        metrics: metrics.clone(),
        stores: stores.clone(),
        ready,
        trust: Arc::clone(&trust),
        clock: clock.clone(),
        memory: Arc::clone(&memory),
    });
    let mut services = JoinSet::new();
    if let Some(address) = config.admin {
        services.spawn(admin::serve(address, Arc::clone(&page), stop.clone()));
    }

    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        ready = stores.ready() => ready.context("a watch ended")?,
        ended = services.join_next(), if config.admin.is_some() => return serving_failed(ended),
    }
    page.ready.store(true, Ordering::Release);

    // Leading.
    let mut leadership = config
        .lease_holder
        .as_ref()
        .map(|holder| Leadership::new(client.clone(), &config.namespace, "sallyport-operator", holder));
    if let Some(leadership) = &mut leadership {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = leadership.acquire() => tracing::info!("leading"),
            ended = services.join_next(), if config.admin.is_some() => return serving_failed(ended),
        }
    }
    metrics.leading.set(1);
    clock.start();
    let client = leadership.as_ref().map_or_else(|| client.clone(), |lease| lease.fence().around(client.clone()));

    // Controllers.
    let instance = config.lease_holder.clone();
    let recorder = Recorder::new(client.clone(), Identity { controller: "sallyport-operator".into(), instance });
    let context = Arc::new(Context {
        client,
        stores: stores.clone(),
        settings: config.settings,
        trust,
        ca: place,
        metrics,
        clock,
        recorder: Reporter(recorder),
        memory,
        seen: Seen::default(),
        requests: pod_certificate::Requests::default(),
        unpublished: std::sync::Mutex::default(),
    });
    let keeper = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = held(&mut leadership) => anyhow::bail!("the lease was lost: another operator may be leading"),
        keeper = trust::catch_up(&context, ledger, &bell) => keeper,
    };
    match context.seen.fill(&context.client, &context.authority()).await {
        Ok(secrets) => tracing::info!(secrets, "certificates read"),
        Err(fault) => tracing::warn!(%fault, "certificates not read at once: each is read in its turn"),
    }
    let mut running = start_controllers(&context, keeper, &bell, &stop);
    bell.everything();

    let lost = tokio::select! {
        () = stop.cancelled() => false,
        () = held(&mut leadership) => true,
        ended = services.join_next(), if config.admin.is_some() => return serving_failed(ended),
    };
    if lost {
        // Nothing may be written any more: what runs is dropped where it stands, and the fence is closed.
        running.shutdown().await;
        anyhow::bail!("the lease was lost: another operator may be leading");
    }
    let ended = tokio::time::timeout(PATIENCE, async { while running.join_next().await.is_some() {} }).await;
    running.abort_all();
    if ended.is_err() {
        tracing::warn!("reconciles did not end in time");
    }
    if let Some(leadership) = &leadership {
        leadership.release().await;
    }
    Ok(())
}

fn start_controllers(
    context: &Arc<Context>,
    keeper: trust::Keeper,
    bell: &Bell,
    stop: &CancellationToken,
) -> JoinSet<()> {
    let mut running = JoinSet::new();
    let stores = &context.stores;
    let (one, two, three) = (Arc::clone(context), Arc::clone(context), Arc::clone(context));
    running.spawn(controllers::run(
        identity::KIND,
        one,
        stores.identities.clone(),
        bell.identities(),
        stop.clone(),
        identity::reconcile,
    ));
    running.spawn(controllers::run(
        target::KIND,
        two,
        stores.targets.clone(),
        bell.targets(),
        stop.clone(),
        target::reconcile,
    ));
    running.spawn(controllers::run(
        policy::KIND,
        three,
        stores.policies.clone(),
        bell.policies(),
        stop.clone(),
        policy::reconcile,
    ));
    running.spawn(fleets::run(Arc::clone(context), bell.fleets_rung(), stop.clone()));
    running.spawn(keeper.run(Arc::clone(context), bell.clone(), bell.trust_rung(), stop.clone()));
    running.spawn(pod_certificate::run(Arc::clone(context), bell.clone(), stop.clone()));
    running.spawn(publish::run(Arc::clone(context), bell.clone(), stop.clone()));
    running.spawn(request::run(Arc::clone(context), stop.clone()));
    running.spawn(forget(Arc::clone(context), stop.clone()));
    running.spawn(context.clock.clone().watch(bell.clone(), stop.clone()));
    running
}

/// Drops what is remembered of objects that are gone.
async fn forget(context: Arc<Context>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(600)) => {}
        }
        let stores = &context.stores;
        let identities = stores.identities.state().into_iter().filter_map(|object| object.uid());
        let targets = stores.targets.state().into_iter().filter_map(|object| object.uid());
        let policies = stores.policies.state().into_iter().filter_map(|object| object.uid());
        let live = identities.chain(targets).chain(policies).collect();
        context.memory.keep(&live);
        context.seen.keep(&live);
    }
}

async fn held(leadership: &mut Option<Leadership>) {
    match leadership {
        Some(leadership) => leadership.hold().await,
        None => std::future::pending().await,
    }
}

fn serving_failed(ended: Option<Result<std::io::Result<()>, tokio::task::JoinError>>) -> anyhow::Result<()> {
    match ended {
        Some(Ok(result)) => result.context("the admin port cannot be served"),
        Some(Err(error)) => Err(error).context("the admin port's task ended"),
        None => Ok(()),
    }
}
