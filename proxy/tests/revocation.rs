//! Rights that are taken away while sessions are open, by the group of an identity or by the subjects of a policy:
//! what runs is cut where the policy says so, what is idle is closed, what is asked next is judged anew.
//!
//! Owns a real PostgreSQL. Touches a real API server, on which no operator runs. Invariant under test: a fleet acts on
//! its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod stage;

use std::time::{Duration, Instant};

use sallyport_crds::AgentIdentity;
use sallyport_harness::{Postgres, PostgresOptions, shared};
use sallyport_policy::{Bundle, OnRevocation, PolicyEntry, SessionTerms, Subject};
use sallyport_proxy::Running;
use serde_json::json;
use stage::site::Site;
use stage::{LONG, world_becomes};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

const READ: &str = "select count(*) from orders";
const WRITE: &str = "insert into orders values (1)";
const SLEEP: &str = "select pg_sleep(600)";

/// A session, and the code and words with which it ended.
struct Session {
    client: Client,
    ended: JoinHandle<String>,
}

impl Session {
    async fn open(site: &Site<'_>, running: &Running) -> Self {
        let mut config = tokio_postgres::Config::new();
        config.user("default").dbname("postgres").ssl_mode(tokio_postgres::config::SslMode::Disable);
        let stream = site.enter(running).await;
        let (client, connection) = config.connect_raw(stream, tokio_postgres::NoTls).await.unwrap();
        let ended = async move { connection.await.err().map_or_else(|| "closed".to_owned(), |error| told(&error)) };
        Self { client, ended: tokio::spawn(ended) }
    }

    /// How many rows came, or what is told instead.
    async fn ask(&self, sql: &str) -> Result<usize, String> {
        let answer = tokio::time::timeout(LONG, self.client.simple_query(sql)).await.expect("no answer");
        answer.map(|rows| rows.len()).map_err(|error| told(&error))
    }

    async fn end(self) -> String {
        tokio::time::timeout(LONG, self.ended).await.expect("it goes on").unwrap()
    }
}

fn told(error: &tokio_postgres::Error) -> String {
    error
        .as_db_error()
        .map_or_else(|| error.to_string(), |error| format!("{} {}", error.code().code(), error.message()))
}

/// Who writes is cut when that is over; who reads may finish.
fn policies(site: &Site<'_>, server: &Postgres) -> Bundle {
    let mut bundle = site.bundle("writing");
    bundle.upstream.port = server.port();
    let group = |name: &str| Subject::Group { namespace: site.agents.name().to_owned(), name: name.to_owned() };
    let writing = &mut bundle.policies[0];
    writing.subjects = vec![group("writers")];
    let mut reading = PolicyEntry { name: "reading".to_owned(), subjects: vec![group("readers")], ..writing.clone() };
    writing.sessions = SessionTerms { on_revocation: OnRevocation::Cancel, ..SessionTerms::default() };
    reading.rules[0].matcher.verbs = Some(vec!["Select".to_owned()]);
    bundle.policies.push(reading);
    bundle
}

async fn groups(site: &Site<'_>, groups: &[&str]) {
    site.put::<AgentIdentity>(&site.agents, "bot", json!({ "spec": { "groups": groups } })).await;
}

/// A fleet of one before a real server; its world is in force.
async fn opened(site: &Site<'_>, of: &[&str]) -> (Postgres, Running) {
    let server = Postgres::start(PostgresOptions::default()).await.unwrap();
    server.exec_sql("create table orders (id int)").await.unwrap();
    for (file, text) in [("username", server.superuser()), ("password", server.superuser_password())] {
        std::fs::write(site.stage.path("credentials/default").join(file), text).unwrap();
    }
    groups(site, of).await;
    site.publish(&policies(site, &server).sealed().to_json()).await;
    let running = site.start().await;
    world_becomes(&running.feed, "the world", |world| site.suspended(world).is_some()).await;
    (server, running)
}

async fn until_it_sleeps(server: &Postgres) {
    let asked = "select 1 / count(*) from pg_stat_activity where state = 'active' and query = 'select pg_sleep(600)'";
    let since = Instant::now();
    while server.exec_sql(asked).await.is_err() {
        assert!(since.elapsed() < LONG, "nothing sleeps at the server");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_a_group_loses_what_it_gave_at_the_next_command_and_keeps_the_rest() {
    let site = Site::new(shared().await.unwrap()).await;
    let (_server, running) = opened(&site, &["readers", "writers"]).await;
    let session = Session::open(&site, &running).await;
    assert!(session.ask(WRITE).await.is_ok() && session.ask(READ).await.is_ok());

    groups(&site, &["readers"]).await;
    let no_writer = |world: &sallyport_policy::World| {
        world.roster.member(site.agents.name(), "bot").is_some_and(|bot| bot.groups == ["readers"])
    };
    let took = world_becomes(&running.feed, "one group less", no_writer).await;
    println!("in force {took:?} after the write had returned");
    let refused = session.ask(WRITE).await.unwrap_err();
    assert!(refused.starts_with("42501 no rule allows Insert"), "{refused}");
    assert!(session.ask(READ).await.is_ok(), "the session goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_the_last_group_is_cut_and_closed() {
    let site = Site::new(shared().await.unwrap()).await;
    let (server, running) = opened(&site, &["writers"]).await;
    let (idle, busy) = (Session::open(&site, &running).await, Session::open(&site, &running).await);
    let asked = async {
        let told = busy.ask(SLEEP).await;
        (told, busy.end().await)
    };
    let leaves = async {
        until_it_sleeps(&server).await;
        groups(&site, &["others"]).await;
    };
    let ((told, ended), ()) = tokio::join!(asked, leaves);
    let nothing = "28000 no policy grants this identity anything here";
    assert_eq!(told.unwrap_err(), "57014 canceling statement due to user request");
    assert!(ended.starts_with(nothing), "{ended}");
    let ended = idle.end().await;
    assert!(ended.starts_with(nothing), "nobody asked anything: {ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_drops_a_subject_cuts_and_closes_its_sessions_and_nobody_elses() {
    let site = Site::new(shared().await.unwrap()).await;
    let (server, running) = opened(&site, &["writers"]).await;
    let (idle, busy) = (Session::open(&site, &running).await, Session::open(&site, &running).await);
    let asked = async {
        let told = busy.ask(SLEEP).await;
        (told, busy.end().await)
    };
    let drops = async {
        until_it_sleeps(&server).await;
        let mut changed = policies(&site, &server);
        changed.policies.remove(0);
        site.publish(&changed.sealed().to_json()).await;
    };
    let ((told, ended), ()) = tokio::join!(asked, drops);
    let nothing = "28000 no policy grants this identity anything here";
    assert_eq!(told.unwrap_err(), "57014 canceling statement due to user request");
    assert!(ended.starts_with(nothing), "{ended}");
    assert!(idle.end().await.starts_with(nothing));

    groups(&site, &["readers"]).await;
    let reader = |world: &sallyport_policy::World| {
        world.roster.member(site.agents.name(), "bot").is_some_and(|bot| bot.groups == ["readers"])
    };
    world_becomes(&running.feed, "a reader", reader).await;
    assert!(Session::open(&site, &running).await.ask(READ).await.is_ok(), "the other policy holds");
}
