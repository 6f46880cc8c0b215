//! An operator whose clock is five minutes ahead of its fleets', or behind.
//!
//! A real API server, a proxy in this process with the clock of this machine, and stock psql with what the operator
//! issued. The target is never reached: who is let in is told that. Nothing here waits for the clocks to agree.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};

use k8s_openapi::ByteString;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use sallyport_proxy::{Arguments, Config, Running};
use serde_json::Value;
use support::{CA, CREDENTIALS, OURS, POLICY, Stage, TARGET, condition, config, is};
use tokio_util::sync::CancellationToken;

/// How far the operator's clock is ahead.
static AHEAD: AtomicI64 = AtomicI64::new(0);

fn wall() -> Timestamp {
    Timestamp::now() + SignedDuration::from_secs(AHEAD.load(Ordering::SeqCst))
}

fn issued(o: &Value) -> bool {
    is(condition(o, "Issued"), "True", "Issued")
}

/// The files of a Secret as a pod would have them.
async fn files(stage: &Stage, namespace: &str, name: &str, into: &Path) {
    let secret = stage.until("v1", "Secret", namespace, name, |o| o["data"]["tls.crt"].is_string()).await;
    std::fs::create_dir_all(into).unwrap();
    for (key, value) in secret["data"].as_object().unwrap() {
        let bytes: ByteString = serde_json::from_value(value.clone()).unwrap();
        let path = into.join(key);
        std::fs::write(&path, bytes.0).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}

async fn fleet(stage: &Stage, dir: &Path) -> Running {
    let _installed_before = rustls::crypto::aws_lc_rs::default_provider().install_default();
    files(stage, "prod", "orders-db-server", &dir.join("tls")).await;
    let place = |part: &str| {
        std::fs::create_dir_all(dir.join(part)).unwrap();
        Some(dir.join(part).display().to_string())
    };
    let account = "system:serviceaccount:prod:orders-db-proxy";
    let kubeconfig = stage.plane.user_kubeconfig(account, &["system:serviceaccounts", "system:authenticated"]).unwrap();
    let arguments = Arguments {
        target_namespace: Some("prod".to_owned()),
        target_name: Some("orders-db".to_owned()),
        pod_name: Some("orders-db-0".to_owned()),
        kubeconfig: Some(kubeconfig.display().to_string()),
        listen: Some("127.0.0.1:0".to_owned()),
        admin: Some("127.0.0.1:0".to_owned()),
        tls_dir: place("tls"),
        credentials_dir: place("credentials"),
        upstream_ca: None,
        records_dir: place("records"),
        state_dir: place("state"),
        log: Some("info".to_owned()),
        ..Arguments::default()
    };
    sallyport_proxy::start(Config::resolve(arguments).unwrap()).await.unwrap()
}

/// What psql prints for an identity that is made now.
async fn told(stage: &Stage, running: &Running, dir: &Path, name: &str) -> String {
    let identity = format!(
        "{{apiVersion: {OURS}, kind: AgentIdentity, metadata: {{name: {name}, namespace: ci}}, spec: {{groups: [migrations]}}}}"
    );
    stage.apply(&identity).await;
    stage.until(OURS, "AgentIdentity", "ci", name, issued).await;
    let at = dir.join(name);
    files(stage, "ci", &format!("{name}-mtls"), &at).await;
    let known = |world: &sallyport_policy::World| world.roster.member("ci", name).is_some();
    let mut changes = running.feed.subscribe();
    while !running.feed.current().is_some_and(|world| known(&world)) {
        tokio::time::timeout(std::time::Duration::from_secs(60), changes.changed()).await.expect("unknown").unwrap();
    }
    let at = at.display();
    let door = format!(
        "host=orders-db.prod.svc hostaddr=127.0.0.1 port={} user=default dbname=x sslmode=verify-full \
         sslcert={at}/tls.crt sslkey={at}/tls.key sslrootcert={at}/ca.crt",
        running.listen.port()
    );
    let mut psql = std::process::Command::new("psql");
    psql.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).args(["-X", &door, "-c", "select 1"]);
    let output = tokio::task::spawn_blocking(move || psql.output()).await.unwrap().unwrap();
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn five_minutes_between_the_clocks_are_told_as_that_and_recorded() {
    let stage = Stage::new().await;
    let user = "system:serviceaccount:sallyport-system:sallyport-operator";
    let client = stage.plane.user_client(user, &["system:serviceaccounts", "system:authenticated"]).await.unwrap();
    let stop = CancellationToken::new();
    let operator = tokio::spawn(sallyport_operator::run_by(wall, config(None), client, stop.clone()));
    stage.apply_all(&[CREDENTIALS, CA, TARGET, POLICY]).await;
    let dir = tempfile::tempdir().unwrap();
    let running = fleet(&stage, dir.path()).await;
    let records = || {
        let mut all = String::new();
        for entry in std::fs::read_dir(dir.path().join("records")).unwrap() {
            all += &std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        }
        all
    };

    // They agree: the way leads to a target that is not there.
    let words = told(&stage, &running, dir.path(), "punctual").await;
    assert!(words.contains("FATAL: ") && !words.contains("clock") && !words.contains("certificate"), "{words}");
    // The operator is behind: what it issues begins with its object all the same, which the API server dates.
    AHEAD.store(-300, Ordering::SeqCst);
    let behind = told(&stage, &running, dir.path(), "behind").await;
    assert_eq!(behind.replace("behind", "punctual"), words, "let in as far as the other");
    let told_why = |o: &Value| {
        is(condition(o, "Ready"), "False", "Pending")
            && o["status"]["conditions"].to_string().contains("this operator's clock is behind the API server's")
    };
    stage.until(OURS, "AgentIdentity", "ci", "behind", told_why).await;
    // It is ahead: refused until then, in words, and recorded.
    AHEAD.store(300, Ordering::SeqCst);
    let ahead = told(&stage, &running, dir.path(), "ahead").await;
    assert!(ahead.contains("FATAL:  this certificate is not valid for another 2"), "{ahead}");
    assert!(ahead.contains(" s by this proxy's clock: wait, or set the clocks right"), "{ahead}");
    let recorded = records();
    let line = recorded.lines().find(|line| line.contains("is not valid for another")).expect(&recorded);
    assert!(line.contains("spiffe://cluster.local/ns/ci/agent/ahead") && line.contains("\"deny\""), "{line}");
    stop.cancel();
    operator.await.unwrap().unwrap();
}
