//! A real PostgreSQL, the core's serve loop in front of it on a loopback port, and an agent with a certificate.
//!
//! Owns the setting-up that the tests share. Touches loopback and the server's run directory. Invariant: both
//! connections run real TLS, and the world is what a bundle and a roster say.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig};
use sallyport_core::PolicyFeed;
use sallyport_core::asking::NobodyThere;
use sallyport_core::ports::{
    Answer, BoxedIo, Clock, Credential, Dialer, Event, Meter, Pending, Ports, Promise, RecordFault, RecordSink,
    UpstreamTls, Vault,
};
use sallyport_core::record::Record;
use sallyport_core::serve::{Limits, Service, connection};
use sallyport_core::sessions::{SessionId, Sessions};
use sallyport_harness::{Leaf, LeafOptions, Pki, Postgres as Server, PostgresOptions};
use sallyport_policy::{
    BUNDLE_VERSION, Bundle, Effect, FleetTerms, Mask, Matcher, Member, NamePattern, ObjectKind, ObjectMatcher,
    PolicyEntry, Recording, RecordingLevel, Roster, Rule, SessionTerms, Subject, TargetRef, TlsMode, Upstream,
};
use sallyport_postgres::Postgres;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

pub(crate) struct Stage {
    pub(crate) server: Server,
    pub(crate) service: Arc<Service<Postgres>>,
    pub(crate) records: Arc<Records>,
    pub(crate) port: u16,
    pub(crate) vault: Arc<FakeVault>,
    agent_tls: Arc<ClientConfig>,
    pki: Pki,
}

/// Keeps what was recorded.
#[derive(Default)]
pub(crate) struct Records {
    events: Mutex<Vec<Value>>,
    pub(crate) full: Mutex<bool>,
}

impl RecordSink for Records {
    fn append(&self, record: &Record<'_>) -> Result<(), RecordFault> {
        if *self.full.lock().unwrap() {
            return Err(RecordFault("the disk is full".into()));
        }
        self.events.lock().unwrap().push(serde_json::to_value(&record.event).unwrap());
        Ok(())
    }

    fn append_durably(&self, record: &Record<'_>) -> Result<Pending, RecordFault> {
        let (promise, pending) = Promise::new();
        promise.resolve(self.append(record));
        Ok(pending)
    }
}

impl Records {
    pub(crate) fn of(&self, kind: &str) -> Vec<Value> {
        self.events.lock().unwrap().iter().filter(|event| event["event"] == kind).cloned().collect()
    }

    /// Waits for that many outcomes: a client hears of an error before its target is ready again.
    pub(crate) async fn outcomes(&self, count: usize) -> Vec<Value> {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            let outcomes = self.of("outcome");
            if outcomes.len() >= count || tokio::time::Instant::now() > deadline {
                return outcomes;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// The texts of the commands of a verdict.
    pub(crate) fn texts(&self, verdict: &str) -> Vec<String> {
        let commands = self.of("command").into_iter().filter(|event| event["verdict"] == verdict);
        commands.map(|event| event["text"].as_str().unwrap().to_owned()).collect()
    }
}

struct TcpDialer(Arc<ClientConfig>);

impl Dialer for TcpDialer {
    fn dial<'a>(&'a self, to: &'a Upstream) -> Answer<'a, io::Result<BoxedIo>> {
        Box::pin(async move { Ok(Box::new(TcpStream::connect((to.host.as_str(), to.port)).await?) as BoxedIo) })
    }

    fn tls(&self, to: &Upstream) -> Result<Option<UpstreamTls>, String> {
        if to.tls == TlsMode::Disable {
            return Ok(None);
        }
        let server_name = ServerName::try_from("localhost").unwrap();
        Ok(Some(UpstreamTls { config: Arc::clone(&self.0), server_name }))
    }
}

/// One credential, which a test may change.
pub(crate) struct FakeVault(pub(crate) Mutex<Credential>);

impl Vault for FakeVault {
    fn credential(&self, _name: &str) -> Result<Credential, String> {
        Ok(self.0.lock().unwrap().clone())
    }
}

struct WallClock;
impl Clock for WallClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

struct NoMeter;
impl Meter for NoMeter {
    fn count(&self, _event: Event) {}
}

pub(crate) fn rule(name: &str, effect: Effect, verbs: &[&str], tables: &[&str]) -> Rule {
    let verbs = (!verbs.is_empty()).then(|| verbs.iter().map(|&verb| verb.to_owned()).collect());
    let names: Vec<_> = tables.iter().map(|name| NamePattern::parse(name).unwrap()).collect();
    let objects = (!names.is_empty()).then(|| vec![ObjectMatcher { kind: ObjectKind::Table, names }]);
    let matcher = Matcher { verbs, objects, ..Matcher::default() };
    Rule { name: name.into(), effect, message: None, matcher, when: None }
}

/// Everything but what touches `public.secrets`.
pub(crate) fn all_but_secrets() -> Vec<Rule> {
    let mut secret = rule("no-secrets", Effect::Deny, &[], &["public.secrets"]);
    secret.message = Some("not yours".into());
    vec![rule("all", Effect::Allow, &[], &[]), secret]
}

fn roots(pem: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    roots
}

fn pair(leaf: &Leaf) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let certificate = CertificateDer::from_pem_slice(leaf.cert_pem.as_bytes()).unwrap();
    (vec![certificate], PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap())
}

fn client_tls(pem: &str) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(pem))
}

fn agent_tls(pki: &Pki, leaf: &Leaf) -> Arc<ClientConfig> {
    let (chain, key) = pair(leaf);
    Arc::new(client_tls(&pki.ca_pem()).with_client_auth_cert(chain, key).unwrap())
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = Server::start(PostgresOptions::default()).await.unwrap();
        server
            .exec_sql(
                "create table orders (id int primary key, note text); insert into orders values (1, 'one');
                 create table secrets (id int); insert into secrets values (42)",
            )
            .await
            .unwrap();
        let pki = Pki::new("cluster.local").unwrap();
        let upstream_tls = Arc::new(client_tls(server.ca_pem()).with_no_client_auth());
        let agent_tls = agent_tls(&pki, &pki.agent("ci", "bot").unwrap());
        let (chain, key) = pair(&pki.server(&["localhost"]).unwrap());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots(&pki.ca_pem())),
            Arc::clone(&provider),
        );
        let mut server_tls = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(chain, key)
            .unwrap();
        server_tls.alpn_protocols = vec![b"postgresql".to_vec()];
        let records = Arc::new(Records::default());
        let credential = Credential {
            username: server.superuser().to_owned(),
            password: server.superuser_password().to_owned().into(),
        };
        let vault = Arc::new(FakeVault(Mutex::new(credential)));
        let ports = Ports {
            dialer: Arc::new(TcpDialer(upstream_tls)),
            vault: Arc::clone(&vault) as _,
            records: Arc::clone(&records) as _,
            desk: Arc::new(NobodyThere),
            clock: Arc::new(WallClock),
            meter: Arc::new(NoMeter),
        };
        let service = Arc::new(Service {
            protocol: Arc::new(Postgres::new(&serde_json::Map::new()).unwrap()),
            feed: Arc::new(PolicyFeed::default()),
            ports,
            sessions: Arc::new(Sessions::default()),
            limits: Limits { handshake: Duration::from_secs(5), ..Limits::default() },
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(accept(listener, Arc::clone(&service), Arc::new(server_tls)));
        let stage = Self { server, service, records, port, vault, agent_tls, pki };
        stage.rules(all_but_secrets());
        stage.member(Member { namespace: "ci".into(), name: "bot".into(), ..Member::default() });
        stage
    }

    pub(crate) fn rules(&self, rules: Vec<Rule>) {
        self.bundle(rules, TlsMode::VerifyFull);
    }

    pub(crate) fn bundle(&self, rules: Vec<Rule>, tls: TlsMode) {
        let bundle = Bundle {
            version: BUNDLE_VERSION,
            revision: String::new(),
            target: TargetRef { namespace: "shop".into(), name: "orders-db".into() },
            trust_domain: "cluster.local".into(),
            upstream: Upstream {
                protocol: "postgres".into(),
                host: "127.0.0.1".into(),
                port: self.server.port(),
                tls,
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
                rules,
                ..PolicyEntry::default()
            }],
        };
        self.service.feed.publish_bundle(bundle.sealed());
    }

    /// From now on the agent comes with a certificate that lives that many seconds.
    pub(crate) fn live(&mut self, seconds: u64) {
        let uris = vec![self.pki.spiffe_id("ci", "bot")];
        let not_after = SystemTime::now() + Duration::from_secs(seconds);
        let leaf = self.pki.leaf(&LeafOptions { uris, not_after, ..LeafOptions::default() }).unwrap();
        self.agent_tls = agent_tls(&self.pki, &leaf);
    }

    /// The policy demands this of its sessions.
    pub(crate) fn demand(&self, sessions: SessionTerms) {
        let mut bundle = (*self.service.feed.current().unwrap().bundle).clone();
        bundle.policies[0].sessions = sessions;
        self.service.feed.publish_bundle(bundle.sealed());
    }

    /// The policy masks this.
    pub(crate) fn masks(&self, masks: Vec<Mask>) {
        let mut bundle = (*self.service.feed.current().unwrap().bundle).clone();
        bundle.policies[0].masks = masks;
        self.service.feed.publish_bundle(bundle.sealed());
    }

    pub(crate) fn member(&self, member: Member) {
        let mut roster = Roster::default();
        roster.insert(member);
        self.service.feed.publish_roster(roster);
    }

    pub(crate) async fn tcp(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    /// A connection inside TLS, before any word of PostgreSQL.
    pub(crate) async fn tls(&self) -> TlsStream<TcpStream> {
        let mut tcp = self.tcp().await;
        tcp.write_all(&SSL_REQUEST).await.unwrap();
        assert_eq!(tcp.read_u8().await.unwrap(), b'S');
        self.handshake(tcp, &[]).await.unwrap()
    }

    pub(crate) async fn handshake(&self, tcp: TcpStream, alpn: &[&[u8]]) -> io::Result<TlsStream<TcpStream>> {
        let mut config = (*self.agent_tls).clone();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), tcp).await
    }

    pub(crate) async fn try_connect(&self, database: &str) -> Result<Client, tokio_postgres::Error> {
        let mut config = Config::new();
        config.user("bot").dbname(database).ssl_mode(SslMode::Disable).application_name("real test");
        let (client, connection) = config.connect_raw(self.tls().await, NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    pub(crate) async fn connect(&self) -> Client {
        self.try_connect("postgres").await.unwrap()
    }

    /// What the server itself says.
    pub(crate) async fn truth(&self, sql: &str) -> String {
        let rows = self.server.exec_sql(sql).await.unwrap();
        rows.into_iter().flatten().flatten().collect::<Vec<_>>().join(",")
    }
}

async fn accept(listener: TcpListener, service: Arc<Service<Postgres>>, tls: Arc<ServerConfig>) {
    for number in 1.. {
        let (tcp, peer) = listener.accept().await.unwrap();
        let (service, tls) = (Arc::clone(&service), Arc::clone(&tls));
        tokio::spawn(async move {
            connection(&service, SessionId::from_random(number), tcp, Some(peer), tls).await;
        });
    }
}
