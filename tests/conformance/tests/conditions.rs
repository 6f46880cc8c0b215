//! Conditions of rules through the real proxy: stock psql and raw messages against a real server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod wire;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sallyport_conformance::clients::texts;
use sallyport_conformance::{Guarded, Way, policy};
use sallyport_policy::{Condition, Effect, Member, PolicyEntry, Rule, When};
use wire::{Wire, bind, execute, parse, startup, sync};

fn when(mut rule: Rule, condition: &str) -> Rule {
    rule.when = Some(When::Holds(Condition::parse(condition).unwrap()));
    rule
}

/// Everything is allowed, and this rule stands beside it.
fn beside_all(rule: Rule) -> Vec<PolicyEntry> {
    vec![policy::policy("p", vec![policy::rule("everything", Effect::Allow, &[]), rule])]
}

/// Nothing but what this condition lets through.
fn only(condition: &str) -> Vec<PolicyEntry> {
    vec![policy::policy("p", vec![when(policy::rule("sometimes", Effect::Allow, &["Select"]), condition)])]
}

async fn set(guarded: &Guarded, policies: Vec<PolicyEntry>) {
    let bundle = guarded.set_policies(policies).unwrap();
    guarded.await_revision(&bundle).await.unwrap();
}

/// The errors that a session with those parameters gets for one query; none where it is allowed.
async fn errors(guarded: &Guarded, parameters: &[(&str, &str)]) -> Vec<String> {
    let (mut wire, said) = Wire::try_open(guarded, &startup(parameters)).await;
    assert!(said.kinds().ends_with('Z'), "{:?}", said.errors());
    wire.query("select count(*) from orders").await.errors()
}

const NOT_NOW: &str = "42501 no rule allows Select on public.orders now: rule sometimes of policy p has a condition, which does not hold or cannot be derived";
const HERE: &[(&str, &str)] = &[("user", "default"), ("database", "postgres")];

#[tokio::test]
async fn a_deny_by_the_hour_of_a_time_zone_holds_at_that_hour_and_no_other() {
    // Tokyo has no summer time: nine hours ahead, always. An hour may begin while this runs.
    let hours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 3600 + 9;
    let (this, next) = (hours % 24, (hours + 1) % 24);
    let office = |condition: &str| {
        let mut rule = when(policy::rule("office", Effect::Deny, &[]), condition);
        rule.message = Some("only in office hours".into());
        beside_all(rule)
    };
    let guarded = Guarded::start(office(&format!("now.getHours('Asia/Tokyo') in [{this}, {next}]"))).await.unwrap();
    let script = "select 'ran' as what from orders limit 1;\n";
    let (out, told) = texts(&guarded.psql(Way::Proxied, script).unwrap());
    assert!(told.contains("42501: refused by policy p, rule office: only in office hours"), "{told}");
    assert!(!out.contains("ran") && !guarded.server.log().contains("select 'ran'"), "{out}");
    set(&guarded, office(&format!("!(now.getHours('Asia/Tokyo') in [{this}, {next}])"))).await;
    let (out, told) = texts(&guarded.psql(Way::Proxied, script).unwrap());
    assert!(out.contains("ran"), "{out}{told}");
}

#[tokio::test]
async fn an_allow_is_for_the_agent_the_database_and_the_name_that_its_condition_says() {
    let guarded = Guarded::start(only("agent.name == 'bot' && session.database == 'postgres'")).await.unwrap();
    assert_eq!(errors(&guarded, HERE).await, Vec::<String>::new());
    guarded.server.exec_sql("create database other").await.unwrap();
    let other = [("user", "default"), ("database", "other")];
    assert_eq!(errors(&guarded, &other).await, [NOT_NOW]);
    set(&guarded, only("agent.name == 'somebody'")).await;
    assert_eq!(errors(&guarded, HERE).await, [NOT_NOW]);
    set(&guarded, only("'night' in agent.groups")).await;
    assert_eq!(errors(&guarded, HERE).await, [NOT_NOW]);
    // Groups are those of now, in an open session as well.
    let (mut wire, _) = Wire::try_open(&guarded, &startup(HERE)).await;
    let groups = vec!["night".to_owned()];
    guarded.set_member(Member { namespace: "ci".into(), name: "bot".into(), groups, ..Member::default() }).unwrap();
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while !wire.query("select 1 from orders limit 1").await.errors().is_empty() {
        assert!(std::time::Instant::now() < until, "the group never counted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    set(&guarded, only("session.applicationName == 'nightly' && session.clientAddress == '127.0.0.1'")).await;
    assert_eq!(errors(&guarded, HERE).await, [NOT_NOW]);
    assert_eq!(errors(&guarded, &[HERE, &[("application_name", "nightly")]].concat()).await, Vec::<String>::new());
}

#[tokio::test]
async fn what_is_not_known_never_allows_and_always_denies() {
    // The server opens a database all the same: by the name of the credential's user.
    const NOWHERE: &[(&str, &str)] = &[("user", "default")];
    let guarded = Guarded::start(only("session.database == 'postgres'")).await.unwrap();
    assert_eq!(errors(&guarded, NOWHERE).await, [NOT_NOW]);
    for not in ["session.database != 'other'", "!(session.database == 'other')", "!(session.database in ['a', 'b'])"] {
        set(&guarded, only(not)).await;
        assert_eq!(errors(&guarded, NOWHERE).await, [NOT_NOW], "{not}");
        assert_eq!(errors(&guarded, HERE).await, Vec::<String>::new(), "{not}");
    }
    let deny = when(policy::rule("elsewhere", Effect::Deny, &["Select"]), "session.database == 'other'");
    set(&guarded, beside_all(deny)).await;
    assert_eq!(errors(&guarded, HERE).await, Vec::<String>::new());
    let undecidable = "42501 refused by policy p, rule elsewhere: what it depends on cannot be derived";
    assert_eq!(errors(&guarded, NOWHERE).await, [undecidable]);
    // What `EXECUTE` runs where nobody knows the plan is of no table.
    let tables = "command.tables.all(t, t.startsWith('public.'))";
    set(&guarded, vec![policy::policy("p", vec![when(policy::rule("sometimes", Effect::Allow, &[]), tables)])]).await;
    let mut wire = Wire::open(&guarded).await;
    assert!(wire.query("select count(*) from orders").await.errors().is_empty());
    assert!(wire.query("select count(*) from orders, pg_catalog.pg_authid").await.errors()[0].starts_with("42501"));
    assert!(wire.query("execute nobody_knows").await.errors()[0].starts_with("42501"));
}

#[tokio::test]
async fn every_command_is_judged_at_its_own_time_and_an_idle_session_stays() {
    let guarded = Guarded::start(only("now - session.started < duration('3s')")).await.unwrap();
    let mut wire = Wire::open(&guarded).await;
    assert!(wire.query("select count(*) from orders").await.errors().is_empty());
    // The very text and the very statement were let through a moment ago: nothing of that is kept.
    let prepared = wire.ask(&[parse("s", "select id from orders limit 1"), bind("", "s"), execute(""), sync()]).await;
    assert_eq!(prepared.rows().len(), 1, "{:?}", prepared.errors());
    tokio::time::sleep(Duration::from_millis(3100)).await;
    assert_eq!(wire.query("select count(*) from orders").await.errors(), [NOT_NOW]);
    assert_eq!(wire.ask(&[bind("", "s"), execute(""), sync()]).await.errors(), [NOT_NOW]);
    // The session is still there, and so is what is allowed always.
    assert!(wire.query("begin").await.errors().is_empty());
    assert!(wire.query("rollback").await.errors().is_empty());
    assert_eq!(errors(&guarded, HERE).await, Vec::<String>::new(), "a new session has its own time");
}

#[tokio::test]
async fn a_condition_that_cannot_be_read_weakens_nothing() {
    let broken = |name: &str, effect| {
        let mut rule = policy::rule(name, effect, &["Select"]);
        rule.when = Some(When::Broken("agent.nmae == 'bot'".into()));
        rule
    };
    let guarded = Guarded::start(beside_all(broken("shut", Effect::Deny))).await.unwrap();
    let refused = "42501 refused by policy p, rule shut: its condition cannot be read: tell the policy's owner";
    assert_eq!(errors(&guarded, HERE).await, [refused]);
    let mut wire = Wire::open(&guarded).await;
    assert!(wire.query("insert into orders (id, customer) values (990, 1)").await.errors().is_empty());
    set(&guarded, vec![policy::policy("p", vec![broken("sometimes", Effect::Allow)])]).await;
    assert_eq!(errors(&guarded, HERE).await, [NOT_NOW]);
}

#[tokio::test]
async fn a_bundle_with_a_condition_that_this_proxy_cannot_read_is_refused_and_the_old_one_stays() {
    let guarded = Guarded::start(only("agent.name == 'somebody'")).await.unwrap();
    let all = policy::bundle(guarded.server.host(), guarded.server.port(), policy::allow_all());
    let strange =
        all.to_json().replace("\"matcher\": {}", "\"matcher\": {}, \"when\": {\"holds\": \"agent.clearance > 3\"}");
    assert_ne!(strange, all.to_json());
    guarded.set_raw_bundle(&strange).unwrap();
    wire::logged(&guarded, "agent has no clearance").await;
    assert_eq!(errors(&guarded, HERE).await, [NOT_NOW]);
}
