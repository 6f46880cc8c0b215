//! The stage: one fleet of the toy protocol with its fakes, agents that come to it, and its target.
//!
//! Owns the setting-up that every claim shares. Touches memory only. Invariant: whoever waits for what never
//! comes fails after an hour of paused time, which is later than every deadline under test.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use sallyport_core::PolicyFeed;
use sallyport_core::ports::Ports;
use sallyport_core::serve::{Limits, Service, connection};
use sallyport_core::sessions::{SessionId, Sessions};
use sallyport_policy::{
    BUNDLE_VERSION, Bundle, Effect, FleetTerms, Matcher, Member, PolicyEntry, Recording, RecordingLevel, Roster, Rule,
    SessionTerms, Subject, TargetRef, TlsMode, Upstream,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificates::{Authority, Leaf, host};
use super::desk::{Asking, FakeDesk};
use super::ports::{FakeClock, FakeDialer, FakeMeter, FakeRecords, FakeVault, Journal};
use super::toy::Toy;

pub const BOT: &str = "spiffe://cluster.local/ns/ci/agent/bot";
pub const ADDRESS: &str = "orders-db.internal";
const FOREVER: Duration = Duration::from_secs(3600);

pub const LIMITS: Limits = Limits {
    handshake: Duration::from_secs(10),
    binding: Duration::from_secs(5),
    login: Duration::from_secs(15),
    stall: Duration::from_secs(300),
    parting: Duration::from_secs(5),
    backlog: 64 * 1024,
};

pub struct Stage {
    pub service: Arc<Service<Toy>>,
    pub journal: Journal,
    pub dialer: Arc<FakeDialer>,
    pub records: Arc<FakeRecords>,
    pub vault: Arc<FakeVault>,
    pub clock: Arc<FakeClock>,
    pub desk: Arc<FakeDesk>,
    asked: mpsc::UnboundedReceiver<Asking>,
    pub authority: Authority,
    pub tls: Arc<ServerConfig>,
    /// Where connections come from.
    pub peer: Option<SocketAddr>,
    targets: mpsc::UnboundedReceiver<DuplexStream>,
    numbers: AtomicU64,
}

/// A connection that is being served, as its agent holds it.
pub struct Served {
    pub io: DuplexStream,
    pub task: JoinHandle<()>,
}

/// An agent inside TLS.
pub struct Agent {
    pub tls: TlsStream<DuplexStream>,
    pub task: JoinHandle<()>,
    pub session: String,
}

/// The target's end of a connection.
pub struct Target(pub DuplexStream);

/// Nothing moves any more, at no cost of real time.
pub async fn quiet() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// The bundle of the suite: `bot` may do everything but `drop`, and `select secrets` is denied with words.
pub fn bundle() -> Bundle {
    let verbs = |verbs: &[&str]| Some(verbs.iter().map(|verb| (*verb).to_owned()).collect());
    let rule = |name: &str, effect, matcher, message: Option<&str>| Rule {
        name: name.into(),
        effect,
        message: message.map(Into::into),
        matcher,
        when: None,
    };
    Bundle {
        version: BUNDLE_VERSION,
        revision: String::new(),
        target: TargetRef { namespace: "shop".into(), name: "orders-db".into() },
        trust_domain: "cluster.local".into(),
        upstream: Upstream {
            protocol: "toy".into(),
            host: ADDRESS.into(),
            port: 5432,
            tls: TlsMode::Disable,
            server_name: None,
            credentials: vec!["default".into()],
            settings: serde_json::Map::new(),
        },
        agent_namespaces: vec!["ci".into()],
        recording: Recording::at(RecordingLevel::Commands),
        sessions: FleetTerms::default(),
        policies: vec![PolicyEntry {
            name: "bots".into(),
            subjects: vec![Subject::Agent { namespace: "ci".into(), name: "bot".into() }],
            credentials: vec!["default".into()],
            rules: vec![
                rule(
                    "work",
                    Effect::Allow,
                    Matcher { verbs: verbs(&["select", "insert"]), ..Matcher::default() },
                    None,
                ),
                rule(
                    "no-drop",
                    Effect::Deny,
                    Matcher { verbs: verbs(&["drop"]), ..Matcher::default() },
                    Some("ask the owner"),
                ),
            ],
            ..PolicyEntry::default()
        }],
    }
    .sealed()
}

pub fn member() -> Member {
    Member { namespace: "ci".into(), name: "bot".into(), ..Member::default() }
}

pub fn roster(member: Member) -> Roster {
    let mut roster = Roster { members: BTreeMap::new() };
    roster.insert(member);
    roster
}

impl Stage {
    pub fn new() -> Self {
        Self::with(LIMITS, 16 * 1024)
    }

    pub fn with(limits: Limits, pipe: usize) -> Self {
        let journal = Journal::default();
        let (dialled, targets) = mpsc::unbounded_channel();
        let dialer = Arc::new(FakeDialer {
            journal: journal.clone(),
            dialled,
            open: Semaphore::new(1),
            unreachable: AtomicBool::new(false),
            pipe,
        });
        let records = Arc::new(FakeRecords {
            journal: journal.clone(),
            full: AtomicBool::new(false),
            narrow: AtomicBool::new(false),
            promises: Mutex::default(),
        });
        let vault = Arc::new(FakeVault::default());
        let clock = Arc::new(FakeClock::new());
        let (desk, asked) = FakeDesk::new();
        let feed = Arc::new(PolicyFeed::default());
        feed.publish_bundle(bundle());
        feed.publish_roster(roster(member()));
        let ports = Ports {
            dialer: Arc::clone(&dialer) as _,
            vault: Arc::clone(&vault) as _,
            records: Arc::clone(&records) as _,
            desk: Arc::clone(&desk) as _,
            clock: Arc::clone(&clock) as _,
            meter: Arc::new(FakeMeter(journal.clone())),
        };
        let sessions = Arc::new(Sessions::default());
        let service = Arc::new(Service { protocol: Arc::new(Toy), feed, ports, sessions, limits });
        let authority = Authority::new();
        let tls = authority.server(&[&TLS13]);
        Self {
            service,
            journal,
            dialer,
            records,
            vault,
            clock,
            desk,
            asked,
            authority,
            tls,
            peer: None,
            targets,
            numbers: AtomicU64::new(1),
        }
    }

    /// Somebody connects: the connection is served in a task of its own, as the listener does it.
    pub fn connect(&self) -> Served {
        let (io, theirs) = tokio::io::duplex(16 * 1024);
        let (service, tls, peer) = (Arc::clone(&self.service), Arc::clone(&self.tls), self.peer);
        let id = SessionId::from_random(self.numbers.fetch_add(1, Ordering::SeqCst).into());
        Served { io, task: tokio::spawn(async move { connection(&service, id, theirs, peer, tls).await }) }
    }

    /// Somebody comes with that certificate and says who it is; what it is answered is not read yet.
    pub async fn arrive(&self, leaf: &Leaf) -> Agent {
        self.arrive_with(self.authority.client(Some(leaf), &[&TLS13])).await.unwrap()
    }

    pub async fn arrive_with(&self, config: Arc<ClientConfig>) -> std::io::Result<Agent> {
        let Served { mut io, task } = self.connect();
        io.write_all(b"tls\n").await?;
        assert_eq!(line(&mut io).await.as_deref(), Some("ok"));
        let mut tls = timeout(FOREVER, TlsConnector::from(config).connect(host(), io)).await.unwrap()?;
        tls.write_all(b"user bot\n").await?;
        Ok(Agent { tls, task, session: String::new() })
    }

    /// The bot, with its session open, and the target's end of it.
    pub async fn open(&mut self) -> (Agent, Target) {
        let leaf = self.authority.agent(&[BOT]);
        self.open_with(&leaf).await
    }

    /// The same, with that certificate.
    pub async fn open_with(&mut self, leaf: &Leaf) -> (Agent, Target) {
        let mut agent = self.arrive(leaf).await;
        let mut target = self.target().await;
        target.let_in(&format!("key-{}", self.journal.dials())).await;
        agent.greeted().await;
        (agent, target)
    }

    /// The next question that is put.
    pub async fn asked(&mut self) -> Asking {
        timeout(FOREVER, self.asked.recv()).await.expect("nobody asked").unwrap()
    }

    /// Whether a question waits to be looked at.
    pub fn nobody_asks(&mut self) -> bool {
        self.asked.try_recv().is_err()
    }

    /// The next connection that the target sees.
    pub async fn target(&mut self) -> Target {
        Target(timeout(FOREVER, self.targets.recv()).await.expect("nobody dialled").unwrap())
    }

    /// Puts a bundle in force that demands this of its sessions.
    pub fn demand(&self, fleet: FleetTerms, sessions: SessionTerms) {
        let mut bundle = bundle();
        bundle.sessions = fleet;
        bundle.policies[0].sessions = sessions;
        self.service.feed.publish_bundle(bundle.sealed());
    }

    pub fn suspend(&self) {
        self.service.feed.publish_roster(roster(Member { suspended: true, ..member() }));
    }
}

impl Agent {
    pub async fn greeted(&mut self) {
        let greeting = self.line().await.expect("a greeting");
        self.session = greeting.strip_prefix("hello ").expect(&greeting).to_owned();
    }

    pub async fn say(&mut self, text: &str) {
        self.tls.write_all(text.as_bytes()).await.unwrap();
        self.tls.flush().await.unwrap();
    }

    pub async fn line(&mut self) -> Option<String> {
        line(&mut self.tls).await
    }

    /// Says goodbye and waits until the session has ended.
    pub async fn quit(mut self) {
        self.say("quit\n").await;
        timeout(FOREVER, self.task).await.expect("the session does not end").unwrap();
    }

    /// The last line, then the end.
    pub async fn last_line(&mut self) -> String {
        let last = self.line().await.expect("a last line");
        assert_eq!(self.line().await, None, "after {last}");
        last
    }

    /// Waits until the session has ended and says how long that took.
    pub async fn ended(self) -> Duration {
        let since = Instant::now();
        drop(self.tls);
        timeout(FOREVER, self.task).await.expect("the session does not end").unwrap();
        since.elapsed()
    }
}

impl Target {
    pub async fn let_in(&mut self, key: &str) {
        let login = format!("login app {}", super::ports::PASSWORD);
        assert_eq!(self.line().await, Some(login));
        self.say(&format!("welcome {key}\n")).await;
    }

    pub async fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    pub async fn line(&mut self) -> Option<String> {
        line(&mut self.0).await
    }

    /// Everything that still comes, up to the end.
    pub async fn rest(mut self) -> String {
        let mut rest = String::new();
        timeout(FOREVER, self.0.read_to_string(&mut rest)).await.expect("the connection stays open").unwrap();
        rest
    }
}

async fn line<S: AsyncRead + Unpin>(io: &mut S) -> Option<String> {
    let mut line = Vec::new();
    loop {
        match timeout(FOREVER, io.read_u8()).await.expect("nothing comes") {
            Ok(b'\n') => return Some(String::from_utf8(line).unwrap()),
            Ok(byte) => line.push(byte),
            Err(_) if line.is_empty() => return None,
            Err(error) => panic!("ended in the middle of {line:?}: {error}"),
        }
    }
}
