//! A stage for tests of the running proxy: its directories, certificates, a bundle, a look at its admin port.
//!
//! Owns temporary directories. Touches loopback. Invariant: nothing waits without a deadline.
#![allow(dead_code, reason = "each test program uses a part")]

pub(crate) mod site;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sallyport_harness::Pki;
use sallyport_policy::{
    BUNDLE_VERSION, Bundle, Effect, FleetTerms, Matcher, PolicyEntry, Recording, RecordingLevel, Rule, Subject,
    TargetRef, TlsMode, Upstream, World,
};
use sallyport_proxy::{Arguments, Config, PolicyFeed, Running};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longer than anything takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) struct Stage {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) pki: Pki,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let _installed_before = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let stage = Self { dir: tempfile::tempdir().unwrap(), pki: Pki::new("cluster.local").unwrap() };
        for name in ["tls", "credentials/default", "records", "state"] {
            std::fs::create_dir_all(stage.path(name)).unwrap();
        }
        let server = stage.pki.server(&["localhost", "127.0.0.1"]).unwrap();
        std::fs::write(stage.path("tls/tls.crt"), server.cert_pem).unwrap();
        std::fs::write(stage.path("tls/tls.key"), server.key_pem).unwrap();
        std::fs::write(stage.path("tls/ca.crt"), stage.pki.ca_pem()).unwrap();
        stage
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> Option<String> {
        Some(self.path(name).to_str().unwrap().to_owned())
    }

    /// Everything but the source of policy.
    pub(crate) fn arguments(&self) -> Arguments {
        Arguments {
            pod_name: Some("orders-db-0".to_owned()),
            listen: Some("127.0.0.1:0".to_owned()),
            admin: Some("127.0.0.1:0".to_owned()),
            tls_dir: self.text("tls"),
            credentials_dir: self.text("credentials"),
            records_dir: self.text("records"),
            log: Some("info".to_owned()),
            ..Arguments::default()
        }
    }

    pub(crate) fn in_cluster(&self, kubeconfig: &Path, namespace: &str, target: &str) -> Config {
        self.replica(kubeconfig, namespace, target, "orders-db-0", "")
    }

    /// Another replica of the same fleet, with a disk of its own.
    pub(crate) fn in_cluster_as(&self, kubeconfig: &Path, namespace: &str, target: &str, pod: &str) -> Config {
        for name in ["records", "state"] {
            std::fs::create_dir_all(self.path(&format!("{name}{pod}"))).unwrap();
        }
        self.replica(kubeconfig, namespace, target, pod, pod)
    }

    fn replica(&self, kubeconfig: &Path, namespace: &str, target: &str, pod: &str, disk: &str) -> Config {
        let arguments = Arguments {
            pod_name: Some(pod.to_owned()),
            records_dir: self.text(&format!("records{disk}")),
            target_namespace: Some(namespace.to_owned()),
            target_name: Some(target.to_owned()),
            kubeconfig: Some(kubeconfig.to_str().unwrap().to_owned()),
            state_dir: self.text(&format!("state{disk}")),
            ..self.arguments()
        };
        Config::resolve(arguments).unwrap()
    }

    pub(crate) fn in_files(&self) -> Config {
        let arguments =
            Arguments { bundle: self.text("bundle.json"), roster: self.text("roster.yaml"), ..self.arguments() };
        Config::resolve(arguments).unwrap()
    }
}

/// A bundle with one policy of that name for one group in each namespace.
pub(crate) fn bundle(namespace: &str, target: &str, agents: &[&str], policy: &str) -> Bundle {
    let mut agent_namespaces: Vec<_> = agents.iter().map(|&name| name.to_owned()).collect();
    agent_namespaces.sort();
    let group = |namespace: &&str| Subject::Group { namespace: (*namespace).to_owned(), name: "bots".to_owned() };
    let rule = Rule {
        name: "everything".to_owned(),
        effect: Effect::Allow,
        message: None,
        matcher: Matcher::default(),
        when: None,
    };
    Bundle {
        version: BUNDLE_VERSION,
        revision: String::new(),
        target: TargetRef { namespace: namespace.to_owned(), name: target.to_owned() },
        trust_domain: "cluster.local".to_owned(),
        upstream: Upstream {
            protocol: "postgres".to_owned(),
            host: "127.0.0.1".to_owned(),
            port: 1,
            tls: TlsMode::Disable,
            server_name: None,
            credentials: vec!["default".to_owned()],
            settings: serde_json::Map::new(),
        },
        agent_namespaces,
        recording: Recording::at(RecordingLevel::Commands),
        sessions: FleetTerms::default(),
        policies: vec![PolicyEntry {
            name: policy.to_owned(),
            subjects: agents.iter().map(group).collect(),
            credentials: vec!["default".to_owned()],
            rules: vec![rule],
            ..PolicyEntry::default()
        }],
    }
    .sealed()
}

/// Waits until the world in force is as wanted; says how long that took.
pub(crate) async fn world_becomes(feed: &Arc<PolicyFeed>, what: &str, wanted: impl Fn(&World) -> bool) -> Duration {
    let since = Instant::now();
    let mut changes = feed.subscribe();
    let waited = tokio::time::timeout(LONG, async {
        while !feed.current().is_some_and(|world| wanted(&world)) {
            changes.changed().await.unwrap();
        }
    });
    assert!(waited.await.is_ok(), "{what}: {:?}", feed.current());
    since.elapsed()
}

/// Asks the admin port; status and body.
pub(crate) async fn ask(admin: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = tokio::net::TcpStream::connect(admin).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Waits until a metric has that value.
pub(crate) async fn metric_becomes(running: &Running, line: &str) {
    let deadline = Instant::now() + LONG;
    loop {
        let (_, metrics) = ask(running.admin, "/metrics").await;
        if metrics.lines().any(|found| found == line) {
            return;
        }
        assert!(Instant::now() < deadline, "{line} in:\n{metrics}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
