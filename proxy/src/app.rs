//! The list of parts: what a running proxy is made of.
//!
//! Owns the wiring and the order of start and end. Touches everything, to connect it. Invariants: nothing
//! is accepted before every part stands; at the end nothing new is accepted and open sessions may finish.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use arc_swap::ArcSwapOption;
use sallyport_core::PolicyFeed;
use sallyport_core::asking::NobodyThere;
use sallyport_core::ports::{Clock, Ports};
use sallyport_core::sessions::Sessions;
use sallyport_policy::TargetRef;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::admin::{self, Admin};
use crate::config::{Config, Source};
use crate::doorway::{Doorway, Freshness};
use crate::edges::approvals::Desk;
use crate::edges::archivist::{self, Archivist};
use crate::edges::cluster::{self, Cluster, Reach};
use crate::edges::files::FileSource;
use crate::edges::last_known_good::LastKnownGood;
use crate::edges::recordings::Recordings;
use crate::edges::replica_status::Answer;
use crate::edges::store::Access;
use crate::edges::vault::DirectoryVault;
use crate::listen::{Room, accept};
use crate::meter::Metrics;
use crate::tls::ServerTls;
use crate::upstream::TcpDialer;

/// How long open sessions may go on once the process is to end.
const DRAIN: Duration = Duration::from_secs(25);
/// How long the last anchor of the recording may take; with the drain it stays within a pod's 30 s.
const LAST_WORD: Duration = Duration::from_secs(3);

/// A proxy that accepts.
pub struct Running {
    /// Where agents connect.
    pub listen: SocketAddr,
    /// Where health and metrics are served.
    pub admin: SocketAddr,
    /// What it decides with.
    pub feed: Arc<PolicyFeed>,
    room: Arc<Room>,
    sessions: Arc<Sessions>,
    draining: watch::Sender<bool>,
    archivist: Arc<Archivist>,
    parts: JoinSet<&'static str>,
    /// Tells where the recording ends; only where there is a cluster to tell.
    answer: Option<Answer>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("listen", &self.listen).field("admin", &self.admin).finish_non_exhaustive()
    }
}

/// Runs a proxy until `shutdown`.
///
/// # Errors
/// When it cannot start, or a part of it has ended by itself.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    start(config).await?.until(shutdown).await
}

/// Starts a proxy.
///
/// # Errors
/// Everything that keeps it from starting, at once.
pub async fn start(config: Config) -> anyhow::Result<Running> {
    tracing::info!(?config, "sallyport-proxy {}: configuration", env!("CARGO_PKG_VERSION"));
    let (tls, dialer) = (ServerTls::read(&config.tls_dir), TcpDialer::new(config.upstream_ca.clone()));
    let listener = TcpListener::bind(config.listen).await.map_err(|error| format!("{}: {error}", config.listen));
    let admin = TcpListener::bind(config.admin).await.map_err(|error| format!("{}: {error}", config.admin));
    let (tls, dialer, listener, admin) = all(tls, dialer, listener, admin)?;
    let (tls, dialer) = (Arc::new(tls), Arc::new(dialer));

    let reach = match &config.source {
        Source::Cluster { kubeconfig, .. } => Some(cluster::reach(kubeconfig.clone()).await?),
        Source::Files { .. } => None,
    };

    // What sessions need of the world outside.
    let metrics = Arc::new(Metrics::new());
    let sizes = (archivist::FILE, config.records_room);
    let recordings = Arc::new(Recordings::within(&config.records_dir, &config.pod, SystemTime::now(), sizes));
    if let Err(cause) = recordings.check() {
        tracing::error!(%cause, "what must be recorded is refused until there is room");
    }
    let ports = Ports {
        dialer: Arc::clone(&dialer) as _,
        vault: Arc::new(DirectoryVault::new(&config.credentials_dir)),
        records: Arc::clone(&recordings) as _,
        desk: match (&reach, config.source.target()) {
            (Some(reach), Some(target)) => Arc::new(Desk::new(reach.clone(), &target, config.pod.clone())),
            _ => Arc::new(NobodyThere),
        },
        clock: Arc::new(WallClock),
        meter: Arc::clone(&metrics) as _,
    };

    // What stands open, once a bundle says so.
    let sessions = Arc::new(Sessions::default());
    let doorway = Arc::new(Doorway {
        feed: Arc::new(PolicyFeed::default()),
        sessions: Arc::clone(&sessions),
        ports,
        tls: Arc::clone(&tls),
        metrics: Arc::clone(&metrics),
        target: config.source.target(),
        entrance: ArcSwapOption::empty(),
        freshness: Mutex::new(Freshness::default()),
    });

    // What keeps it up to date.
    let mut parts = JoinSet::new();
    let anchors = matches!(config.source, Source::Cluster { .. });
    let access = config.store_dir.clone().map(|directory| Access { directory, ca: config.store_ca.clone() });
    let (feed, counted) = (Arc::clone(&doorway.feed), Arc::clone(&metrics));
    let archivist = Arc::new(Archivist::new(Arc::clone(&recordings), feed, counted, anchors, access));
    parts.spawn(named("the archivist of the recordings", Arc::clone(&archivist).follow()));
    let answer = follow_source(config, reach, &doorway, &recordings, &mut parts).await?;
    parts.spawn(named("the TLS files", tls.follow(Arc::clone(&metrics))));
    parts.spawn(named("the target's trust anchors", dialer.follow(Arc::clone(&metrics))));

    // What is met from outside.
    let (draining, stop) = watch::channel(false);
    let room = Arc::new(Room::new());
    let feed = Arc::clone(&doorway.feed);
    let (listen, admin_at) = (listener.local_addr()?, admin.local_addr()?);
    let answers = Admin { doorway: Arc::clone(&doorway), recordings, draining: stop.clone() };
    parts.spawn(named("the admin port", admin::serve(admin, answers)));
    parts.spawn(named("the listener", accept(listener, doorway, Arc::clone(&room), stop)));
    tracing::info!(%listen, admin = %admin_at, "accepting");
    Ok(Running { listen, admin: admin_at, feed, room, sessions, draining, archivist, parts, answer })
}

impl Running {
    /// Goes on until `shutdown`, then lets open sessions finish.
    ///
    /// # Errors
    /// When a part has ended by itself: going on half blind would be worse than a restart.
    pub async fn until(mut self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        let ended = tokio::select! {
            () = shutdown => None,
            ended = self.parts.join_next() => Some(ended),
        };
        let began = Instant::now();
        self.draining.send_replace(true);
        self.sessions.drain();
        tracing::info!(connections = self.room.taken(), "draining");
        if timeout(DRAIN, self.room.emptied()).await.is_err() {
            tracing::warn!(connections = self.room.taken(), "cut: they have not ended within {DRAIN:?}");
        }
        self.parts.abort_all();
        // What the drain has left of its time.
        self.archivist.last(began + DRAIN).await;
        let revision = self.feed.current().map(|world| world.bundle.revision.clone());
        if let (Some(answer), Some(revision)) = (self.answer.take(), revision)
            && timeout(LAST_WORD, answer.end(revision)).await.is_err()
        {
            tracing::warn!("the end of the recording was not anchored within {LAST_WORD:?}");
        }
        match ended {
            None => Ok(()),
            Some(Some(Ok(part))) => bail!("{part} ended by itself"),
            Some(Some(Err(error))) => Err(error).context("a part failed"),
            Some(None) => bail!("every part ended by itself"),
        }
    }
}

async fn follow_source(
    config: Config,
    reach: Option<Reach>,
    doorway: &Arc<Doorway>,
    recordings: &Arc<Recordings>,
    parts: &mut JoinSet<&'static str>,
) -> anyhow::Result<Option<Answer>> {
    match (config.source, reach) {
        (Source::Cluster { namespace, target, state_dir, .. }, Some(reach)) => {
            let keeper = LastKnownGood::new(&state_dir);
            let target = TargetRef { namespace, name: target };
            let (recordings, tls) = (Arc::clone(recordings), Arc::clone(&doorway.tls));
            let cluster = Cluster::new(reach, target, config.pod, keeper, recordings, tls);
            let answer = cluster.answer();
            parts.spawn(named("the watch of the cluster", cluster.follow(Arc::clone(doorway))));
            Ok(Some(answer))
        }
        (Source::Files { bundle, roster }, _) => {
            let mut source = FileSource::new(bundle, roster);
            source.refresh(doorway).map_err(anyhow::Error::msg)?;
            parts.spawn(named("the watch of the files", source.follow(Arc::clone(doorway))));
            Ok(None)
        }
        (Source::Cluster { .. }, None) => bail!("no way to the cluster"),
    }
}

async fn named<T>(name: &'static str, part: impl Future<Output = T>) -> &'static str {
    part.await;
    name
}

/// Everything that is needed to start, or everything that is wrong.
fn all<A, B, C, D>(
    a: Result<A, String>,
    b: Result<B, String>,
    c: Result<C, String>,
    d: Result<D, String>,
) -> anyhow::Result<(A, B, C, D)> {
    match (a, b, c, d) {
        (Ok(a), Ok(b), Ok(c), Ok(d)) => Ok((a, b, c, d)),
        (a, b, c, d) => {
            let causes: Vec<_> = [a.err(), b.err(), c.err(), d.err()].into_iter().flatten().collect();
            bail!("cannot start:\n  - {}", causes.join("\n  - "))
        }
    }
}

/// Completes when the process is asked to end.
pub async fn termination() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    let Ok(mut interrupt) = signal(SignalKind::interrupt()) else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Sends logs to standard output: text to a terminal, JSON to anything else. Not to standard error, which the SQL
/// parser turns aside while it runs: lines written there in that time would be lost.
pub fn start_logging(config: &Config) {
    let filter = tracing_subscriber::EnvFilter::new(&config.log);
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stdout);
    if std::io::stdout().is_terminal() {
        logs.init();
    } else {
        logs.json().init();
    }
}

struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}
