//! Stock psql: what it prints direct and through the proxy is the same, but for what policy refuses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use sallyport_conformance::clients::texts;
use sallyport_conformance::{Guarded, Way, policy};
use sallyport_policy::Member;

/// Everything psql does that has a form of its own on the wire.
const EVERYTHING: &str = r#"
\pset pager off
select 1 as one, 'text' as two, null as three;
select * from orders order by id limit 3;
select 1; select 2; select 3;
select 1 \; select 2 \; select 3;

select * from customers where email = 'c3@example.org' \gx
select 1/0;
selec nonsense;
select * from nowhere;
begin;
insert into orders (id, customer, amount, note) values (900, 1, 1, 'kept') returning id;
savepoint a;
select 1/0;
rollback to a;
commit;
begin;
delete from orders;
select 1/0;
select 1;
commit;
select count(*) from orders;
begin; delete from orders where id = 900; rollback;
copy (select id, note from orders order by id limit 5) to stdout;
copy orders (id, customer, note) from stdin;
901	1	from stdin
902	2	with \\ a backslash
\.
copy orders (id, customer, note) from stdin;
not a number	1	x
\.
\copy (select id from orders where id > 900 order by id) to stdout
delete from orders where id > 899;
create temp table t (a int);
insert into t select generate_series(1, 1000);
select sum(a) from t;
prepare p (int) as select $1 * 2;
execute p (21);
deallocate p;
begin; declare c cursor for select id from orders order by id; fetch 3 from c; move 2 in c; fetch 2 from c; close c; commit;
do $$ begin raise notice 'a notice'; raise warning 'a warning'; end $$;
listen channel; notify channel, 'payload';
explain (costs off) select * from orders where id = 1;
show server_version_num;
set application_name = 'x'; show application_name;
select repeat('long ', 2000) as long \g /dev/null
;
\d orders
\dt
\df touch
\dn
\l postgres
\conninfo_is_not_a_command
\set FETCH_COUNT 7
select id from orders order by id limit 20;
"#;

#[tokio::test]
async fn psql_prints_the_same_direct_and_through_the_proxy() {
    let guarded = Guarded::start(policy::allow_all()).await.unwrap();
    let (direct, direct_errors) = texts(&guarded.psql(Way::Direct, EVERYTHING).unwrap());
    let (proxied, proxied_errors) = texts(&guarded.psql(Way::Proxied, EVERYTHING).unwrap());
    // Three things differ, and are meant to: the process that notifies is another one each time, and so may be the schema
    // of temporary tables; and a text that does not parse is refused by the proxy, in the server's words but without the
    // place in the server's source.
    let same = |text: &str| {
        let differs = ["Asynchronous notification", "LINE ", "LOCATION: ", "  "];
        let keep = |line: &&str| !differs.iter().any(|start| line.starts_with(start));
        let words = |line: &str| {
            let line = line.replace("the statement cannot be parsed: ", "");
            match line.split_once("pg_temp_") {
                Some((before, after)) => {
                    format!("{before}pg_temp{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
                }
                None => line,
            }
        };
        text.lines().filter(keep).map(words).collect::<Vec<_>>()
    };
    assert_eq!(same(&direct), same(&proxied));
    assert_eq!(same(&direct_errors), same(&proxied_errors));
    assert!(direct.contains("kept") || direct.contains("900"), "the script did its work: {direct}");
}

#[tokio::test]
async fn a_refusal_is_an_ordinary_error_and_the_session_goes_on() {
    let guarded = Guarded::start(policy::readme()).await.unwrap();
    let script =
        "select count(*) from orders;\ndelete from orders;\nselect * from secrets;\nselect count(*) from customers;\n";
    let output = guarded.psql(Way::Proxied, script).unwrap();
    let (out, errors) = texts(&output);
    assert!(out.contains("100") && out.contains("20"), "{out}{errors}");
    let wanted = "ERROR:  42501: refused by policy read-orders, rule no-unbounded-writes: a write needs a WHERE clause";
    assert!(errors.contains(wanted), "{errors}");
    assert!(errors.contains("42501: no rule allows Select on public.secrets"), "{errors}");
    let left = guarded.server.exec_sql("select count(*) from orders").await.unwrap();
    assert_eq!(left, vec![vec![Some("100".to_owned())]]);
    assert!(!guarded.server.log().contains("delete from orders"), "no byte of it reached the server");
}

#[tokio::test]
async fn a_refusal_in_a_transaction_aborts_it_on_both_sides() {
    let guarded = Guarded::start(policy::readme()).await.unwrap();
    let script = "\\set ON_ERROR_STOP off\nbegin;\nupdate orders set note = 'changed' where id = 1;\ndelete from orders;\n\
                  select 'still here' from orders limit 1;\ncommit;\nselect note from orders where id = 1;\n";
    let (out, errors) = texts(&guarded.psql(Way::Proxied, script).unwrap());
    assert!(errors.contains("42501"), "{errors}");
    assert!(errors.contains("25P02"), "the server itself says the transaction is aborted: {errors}");
    assert!(out.contains("ROLLBACK") && out.contains("order 1"), "{out}");
}

#[tokio::test]
async fn a_text_of_many_statements_is_refused_as_a_whole() {
    let guarded = Guarded::start(policy::readme()).await.unwrap();
    let script = "update orders set note = 'x' where id = 1 \\; delete from orders \\; select 1;\n";
    let (_, errors) = texts(&guarded.psql(Way::Proxied, script).unwrap());
    assert!(errors.contains("no-unbounded-writes"), "{errors}");
    let note = guarded.server.exec_sql("select note from orders where id = 1").await.unwrap();
    assert_eq!(note, vec![vec![Some("order 1".to_owned())]], "nothing of it ran");
}

#[tokio::test]
async fn every_command_is_recorded_before_it_runs_and_its_outcome_after() {
    let guarded = Guarded::start(policy::readme()).await.unwrap();
    guarded
        .psql(Way::Proxied, "select * from orders limit 7;\ndelete from orders;\nselect 1/0 from orders;\n")
        .unwrap();
    let records = guarded.records().unwrap();
    let find = |text: &str| {
        records.iter().find(|record| record["text"] == text).unwrap_or_else(|| panic!("{text}: {records:#?}"))
    };
    let select = find("select * from orders limit 7;");
    assert_eq!(select["verdict"], "allow");
    assert_eq!((&select["policy"], &select["rule"]), (&"read-orders".into(), &"read-orders".into()));
    assert_eq!(select["agent"], "spiffe://cluster.local/ns/ci/agent/bot");
    assert_eq!(select["target"], "shop/orders-db");
    assert!(select["revision"].as_str().is_some_and(|revision| revision.len() == 16));
    assert!(select["serial"].as_str().is_some_and(|serial| !serial.is_empty()));
    let outcome = |of: &serde_json::Value| {
        records.iter().find(|record| record["event"] == "outcome" && record["command"] == of["command"]).cloned()
    };
    assert_eq!(outcome(select).unwrap()["rows"], 7);
    let delete = find("delete from orders;");
    assert_eq!((&delete["verdict"], &delete["rule"]), (&"deny".into(), &"no-unbounded-writes".into()));
    assert!(outcome(delete).is_none(), "it never ran");
    assert_eq!(outcome(find("select 1/0 from orders;")).unwrap()["code"], "22012");
    let text = serde_json::to_string(&records).unwrap();
    assert!(!text.contains(guarded.server.superuser_password()), "the target's password is in the records");
}

#[tokio::test]
async fn an_edited_policy_acts_on_the_next_statement_of_an_open_session() {
    let guarded = Guarded::start(policy::readme()).await.unwrap();
    let mut session = Session::open(&guarded).await;
    session.simple("select count(*) from orders").await.unwrap();
    let none = vec![policy::policy("read-orders", Vec::new())];
    let bundle = guarded.set_policies(none).unwrap();
    guarded.await_revision(&bundle).await.unwrap();
    let refused = session.simple("select count(*) from orders").await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "42501");
    let bundle = guarded.set_policies(policy::readme()).unwrap();
    guarded.await_revision(&bundle).await.unwrap();
    session.simple("select count(*) from orders").await.unwrap();
}

#[tokio::test]
async fn a_prepared_statement_is_judged_again_at_every_execute() {
    let guarded = Guarded::start(policy::readme()).await.unwrap();
    let session = Session::open(&guarded).await;
    let statement = session.client.prepare("select count(*) from orders where id > $1").await.unwrap();
    session.client.query(&statement, &[&1_i32]).await.unwrap();
    let bundle = guarded.set_policies(vec![policy::policy("read-orders", Vec::new())]).unwrap();
    guarded.await_revision(&bundle).await.unwrap();
    let refused = session.client.query(&statement, &[&1_i32]).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "42501");
    let bundle = guarded.set_policies(policy::readme()).unwrap();
    guarded.await_revision(&bundle).await.unwrap();
    session.client.query(&statement, &[&1_i32]).await.unwrap();
}

#[tokio::test]
async fn suspension_ends_an_idle_session_and_refuses_the_next_one() {
    let guarded = Guarded::start(policy::readme()).await.unwrap();
    let mut session = Session::open(&guarded).await;
    session.simple("select 1").await.unwrap();
    let suspended = Member { namespace: "ci".into(), name: "bot".into(), suspended: true, ..Member::default() };
    guarded.set_member(suspended).unwrap();
    let why = tokio::time::timeout(std::time::Duration::from_secs(5), session.ended).await.unwrap().unwrap();
    assert!(why.contains("suspended"), "{why}");
    let (_, errors) = texts(&guarded.psql(Way::Proxied, "select 1;").unwrap());
    assert!(errors.contains("suspended"), "{errors}");
}

/// A tokio-postgres session through the proxy, over TLS with the agent's certificate.
struct Session {
    client: tokio_postgres::Client,
    ended: tokio::task::JoinHandle<String>,
}

impl Session {
    async fn open(guarded: &Guarded) -> Self {
        let (client, ended) = sallyport_conformance::clients::rust::connect(guarded).await.unwrap();
        Self { client, ended }
    }

    async fn simple(&mut self, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.client.simple_query(sql).await.map(drop)
    }
}
