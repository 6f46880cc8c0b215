//! Whole sessions: a stock psql, the proxy, a real PostgreSQL over TLS.
//!
//! Owns the proof that the parts are wired: certificates, credentials, records, end. Touches loopback.
//! Invariant under test: what runs is in the recordings, what is refused never reaches the target.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod stage;

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use sallyport_harness::{LeafOptions, Postgres, PostgresOptions};
use sallyport_policy::TlsMode;
use sallyport_proxy::{Running, start};
use stage::{Stage, bundle, metric_becomes, world_becomes};

const ROSTER: &str = "members:\n- {namespace: ci, name: bot, groups: [bots]}\n";

struct Session {
    stage: Stage,
    server: Postgres,
    running: Running,
}

impl Session {
    async fn start(tls: TlsMode, server_name: Option<&str>) -> Self {
        let stage = Stage::new();
        let server = Postgres::start(PostgresOptions::default()).await.unwrap();
        fs::write(stage.path("credentials/default/username"), server.superuser()).unwrap();
        fs::write(stage.path("credentials/default/password"), server.superuser_password()).unwrap();
        fs::write(stage.path("upstream.crt"), server.ca_pem()).unwrap();
        stage.pki.agent("ci", "bot").unwrap().write(stage.dir.path(), "agent").unwrap();
        let mut bundle = bundle("shop", "orders-db", &["ci"], "p");
        bundle.upstream.port = server.port();
        bundle.upstream.tls = tls;
        bundle.upstream.server_name = server_name.map(str::to_owned);
        fs::write(stage.path("bundle.json"), bundle.sealed().to_json()).unwrap();
        fs::write(stage.path("roster.yaml"), ROSTER).unwrap();
        let mut config = stage.in_files();
        config.upstream_ca = Some(stage.path("upstream.crt"));
        let running = start(config).await.unwrap();
        Self { stage, server, running }
    }

    fn psql(&self, sql: &str) -> Command {
        let at = |name: &str| self.stage.path(name).to_str().unwrap().to_owned();
        let mut psql = Command::new(self.server.program("psql"));
        psql.arg(format!(
            "host=127.0.0.1 port={} user=bot dbname=postgres sslmode=verify-full sslrootcert={} sslcert={} sslkey={}",
            self.running.listen.port(),
            at("tls/ca.crt"),
            at("agent.crt"),
            at("agent.key"),
        ));
        psql.args(["-XAtc", sql]);
        psql
    }

    async fn run(&self, sql: &str) -> (bool, String) {
        let mut psql = self.psql(sql);
        let Output { status, stdout, stderr } =
            tokio::task::spawn_blocking(move || psql.output()).await.unwrap().unwrap();
        (status.success(), String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap())
    }

    fn records(&self, more: &[&str]) -> String {
        let mut records = Command::new(env!("CARGO_BIN_EXE_sallyport-proxy"));
        records.arg("records").arg("--records-dir").arg(self.stage.path("records")).args(more);
        String::from_utf8(records.output().unwrap().stdout).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_recorded_and_a_suspended_agent_is_refused() {
    let session = Session::start(TlsMode::VerifyFull, None).await;
    assert_eq!(session.run("select 40 + 2").await, (true, "42\n".to_owned()));
    let told = session.records(&[]);
    let line = told.lines().find(|line| line.contains("select 40 + 2")).unwrap();
    assert!(line.contains("spiffe://cluster.local/ns/ci/agent/bot  allow  p/everything  1 rows"), "{told}");
    assert!(session.records(&["--json"]).lines().all(|line| line.starts_with("{\"time\":\"")), "{told}");

    fs::write(session.stage.path("roster.yaml"), ROSTER.replace("groups", "suspended: true, groups")).unwrap();
    let suspended = |world: &sallyport_policy::World| world.roster.member("ci", "bot").is_some_and(|bot| bot.suspended);
    world_becomes(&session.running.feed, "the suspension", suspended).await;
    let (ran, told) = session.run("select 'never'").await;
    assert!(!ran && told.contains("suspended"), "{told}");
    assert!(!session.server.log().contains("never"));
    metric_becomes(&session.running, "sallyport_proxy_sessions_opened_total 1").await;
    metric_becomes(&session.running, "sallyport_proxy_connections_refused_total{blame=\"policy\"} 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_of_the_target_counts_as_the_bundle_says() {
    let full = Session::start(TlsMode::VerifyFull, Some("elsewhere.example")).await;
    let (ran, told) = full.run("select 1").await;
    assert!(!ran && told.contains("certificate could not be verified"), "{told}");
    assert!(!told.contains("elsewhere"), "nothing of the target's side is told to an agent: {told}");
    let chain = Session::start(TlsMode::VerifyCa, Some("elsewhere.example")).await;
    assert_eq!(chain.run("select 1").await, (true, "1\n".to_owned()));

    // Another authority in the file: the chain counts, and the file is read again.
    fs::write(chain.stage.path("upstream.crt"), chain.stage.pki.ca_pem()).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let (ran, told) = chain.run("select 1").await;
        if !ran {
            assert!(told.contains("certificate could not be verified"), "{told}");
            break;
        }
        assert!(std::time::Instant::now() < deadline, "the former authority is still trusted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_the_root_that_let_it_in_and_not_before() {
    let session = Session::start(TlsMode::VerifyFull, None).await;
    let mut psql = session.psql("select pg_sleep(30)");
    let begun = std::time::Instant::now();
    let asked = tokio::task::spawn_blocking(move || psql.output());
    metric_becomes(&session.running, "sallyport_proxy_commands_total{verdict=\"allow\"} 1").await;
    let mut idle = session.psql("");
    idle.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut idle = idle.spawn().unwrap();
    let mut input = idle.stdin.take().unwrap();
    writeln!(input, "select 1;").unwrap();
    metric_becomes(&session.running, "sallyport_proxy_sessions_open 2").await;
    // Another root beside it: nothing happens to it.
    let (ours, other) = (session.stage.pki.ca_pem(), sallyport_harness::Pki::new("cluster.local").unwrap());
    fs::write(session.stage.path("tls/ca.crt"), ours + &other.ca_pem()).unwrap();
    other.agent("ci", "bot").unwrap().write(session.stage.dir.path(), "agent").unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !session.run("select 1").await.0 {
        assert!(std::time::Instant::now() < deadline, "the root beside it is not trusted");
    }
    assert!(!asked.is_finished(), "a root more is no reason to end a session");
    // Its own goes.
    fs::write(session.stage.path("tls/ca.crt"), other.ca_pem()).unwrap();
    let output = tokio::time::timeout(Duration::from_secs(20), asked).await.expect("it was not cut").unwrap().unwrap();
    assert!(!output.status.success() && begun.elapsed() < Duration::from_secs(29), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("canceling statement due to user request"), "{told}");
    // Who asked nothing is told why, and to come again.
    metric_becomes(&session.running, "sallyport_proxy_sessions_open 0").await;
    writeln!(input, "select 2;").unwrap();
    drop(input);
    let told = String::from_utf8(idle.wait_with_output().unwrap().stderr).unwrap();
    let why = "the authority of this certificate is not trusted any more: connect again with a newer one";
    assert!(told.contains(&format!("FATAL:  {why}")), "{told}");
    assert!(session.records(&[]).contains(why));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_ahead_of_the_proxys_clock_is_refused_in_words_and_recorded() {
    let session = Session::start(TlsMode::VerifyFull, None).await;
    let starts_in = |ahead: Duration| {
        let pki = &session.stage.pki;
        let uris = vec![pki.spiffe_id("ci", "bot")];
        let not_before = SystemTime::now() + ahead;
        let not_after = not_before + Duration::from_secs(3600);
        let leaf = pki.leaf(&LeafOptions { uris, not_before, not_after, ..LeafOptions::default() }).unwrap();
        leaf.write(session.stage.dir.path(), "agent").unwrap();
    };
    starts_in(Duration::from_secs(300));
    let (ran, told) = session.run("select 'never'").await;
    assert!(!ran && told.contains("FATAL:  this certificate is not valid for another "), "{told}");
    assert!(told.contains(" s by this proxy's clock: wait, or set the clocks right"), "{told}");
    let recorded = session.records(&[]);
    let line = recorded.lines().find(|line| line.contains("is not valid for another")).expect(&recorded);
    assert!(line.contains("spiffe://cluster.local/ns/ci/agent/bot") && line.contains("deny"), "{line}");
    // Beyond what clocks explain, and in the past, TLS has the word.
    starts_in(Duration::from_secs(2 * 3600));
    let (ran, told) = session.run("select 'never'").await;
    assert!(!ran && told.contains("SSL error: ") && told.contains("alert"), "{told}");
    assert!(!session.server.log().contains("never"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_runs_at_the_end_may_finish() {
    let session = Session::start(TlsMode::VerifyFull, None).await;
    let mut psql = session.psql("select pg_sleep(1), 'finished'");
    let asked = tokio::task::spawn_blocking(move || psql.output());
    metric_becomes(&session.running, "sallyport_proxy_commands_total{verdict=\"allow\"} 1").await;
    let Session { stage, server, running } = session;
    running.until(async {}).await.unwrap();
    let output = asked.await.unwrap().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "|finished\n");
    drop((stage, server));
}
