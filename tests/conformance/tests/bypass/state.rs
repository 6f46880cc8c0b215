//! What a session remembers: names that stand for something else than was judged, and names that mean something else
//! from some point on. Each attempt runs against the real server; its rows are the judge.

use sallyport_policy::{Effect, NamePattern, ObjectKind, ObjectMatcher, PolicyEntry};

use super::{Guarded, Wire, bind, close, execute, guarded, parse, policy, query, sync, wire};

#[tokio::test]
async fn a_cursor_cannot_be_given_another_meaning_behind_an_execute() {
    let guarded = guarded().await;
    let mut session = Wire::open(&guarded).await;
    // The server itself would run these: EXECUTE takes whatever Parse was given.
    let made = [parse("k", "close c"), parse("q", "declare c cursor for select id from orders"), sync()];
    assert_eq!(session.ask(&made).await.kinds(), "11Z");
    session.query("begin").await;
    assert_eq!(session.query("declare c cursor for select 'judged'").await.kinds(), "CZ");
    for attempt in [
        vec![query("execute k")],
        vec![query("execute q")],
        vec![query("select 1; execute k")],
        vec![parse("", "execute k"), bind("", ""), execute(""), sync()],
    ] {
        session.query("savepoint s").await;
        let said = session.ask(&attempt).await;
        assert!(said.errors()[0].starts_with("0A000"), "{attempt:?}: {:?}", said.errors());
        assert_eq!(session.query("rollback to s").await.kinds(), "CZ");
    }
    // Bound before the name means that: judged when it runs.
    let bound = [parse("later", "select 'x'"), parse("x", "execute later"), bind("x", "x"), sync()];
    assert_eq!(session.ask(&bound).await.kinds(), "112Z");
    assert_eq!(session.ask(&[close(b'S', "later"), parse("later", "close c"), sync()]).await.kinds(), "31Z");
    session.query("savepoint s").await;
    let said = session.ask(&[execute("x"), sync()]).await;
    assert!(said.errors()[0].starts_with("0A000"), "{:?}", said.errors());
    session.query("rollback to s").await;
    assert_eq!(session.query("fetch all from c").await.rows(), ["judged"]);
}

#[tokio::test]
async fn what_is_explained_is_not_declared() {
    let guarded = guarded().await;
    let mut session = Wire::open(&guarded).await;
    session.query("begin").await;
    assert_eq!(session.query("declare c cursor for select id from orders order by id").await.kinds(), "CZ");
    let bundle = guarded.set_policies(vec![policy::policy("read-orders", Vec::new())]).unwrap();
    guarded.await_revision(&bundle).await.unwrap();
    let said = session.query("explain declare c cursor for select 1; fetch 1 from c").await;
    assert_eq!(said.rows(), Vec::<String>::new());
    assert!(said.errors()[0].starts_with("42501"), "{:?}", said.errors());
}

/// A policy that lets settings be set, as one would write it for `work_mem`.
fn with_settings() -> Vec<PolicyEntry> {
    let mut policies = policy::readme();
    policies[0].rules.push(policy::rule("settings", Effect::Allow, &["SetParameter"]));
    policies
}

#[tokio::test]
async fn after_a_search_path_of_its_own_a_session_must_write_names_whole() {
    let guarded = Guarded::start(with_settings()).await.unwrap();
    guarded
        .server
        .exec_sql("create schema evil; create table evil.orders as select 'do not show'::text as note, 1 as id")
        .await
        .unwrap();
    let refused = |said: &wire::Said| said.rows().is_empty() && said.errors()[0].starts_with("42501");
    let text = "select note from orders where id = 1";
    // In one text, one after the other, ahead of the answer, and by statements that were prepared before.
    let mut session = Wire::open(&guarded).await;
    let said = session.query(&format!("set search_path = evil; {text}")).await;
    assert!(refused(&said), "{:?}", said.errors());
    assert_eq!(session.query(text).await.rows(), ["order 1"], "the refused text did nothing");
    let prepared = [parse("s", text), parse("w", "select note from public.orders order by id limit 1"), sync()];
    assert_eq!(session.ask(&prepared).await.kinds(), "11Z");
    assert_eq!(session.query(&format!("prepare p as {text}")).await.kinds(), "CZ");
    session.send(&[query("set local search_path = public; set search_path = evil"), query(text)].concat()).await;
    // From PostgreSQL 18 on the server reports a search_path that has changed, before it is ready.
    let kinds = session.until_ready().await.kinds();
    assert!(kinds.trim_end_matches('Z').trim_end_matches('S').ends_with('C'), "{kinds}");
    assert!(refused(&session.until_ready().await));
    for attempt in [
        vec![query(text)],
        vec![bind("", "s"), execute(""), sync()],
        vec![query("execute p")],
        vec![query("select note from orders where id operator(evil.=) 1")],
        vec![query("insert into orders (note) values ('x')")],
    ] {
        let said = session.ask(&attempt).await;
        assert!(refused(&said), "{attempt:?}: {:?} {:?}", said.rows(), said.errors());
    }
    // Whole names mean what they meant.
    assert_eq!(session.ask(&[bind("", "w"), execute(""), sync()]).await.rows(), ["order 1"]);
    assert_eq!(session.query("select note from public.orders limit 1").await.rows(), ["order 1"]);
    assert_eq!(session.query("set work_mem = '8MB'").await.kinds(), "CZ");
    // What comes after is read as it was judged: these are refused whatever policy says.
    for text in ["set standard_conforming_strings = off", "set client_encoding = 'SJIS'"] {
        assert!(refused(&session.query(text).await), "{text}");
    }
}

#[tokio::test]
async fn a_search_path_by_a_parameter_hides_nothing_behind_a_temporary_table() {
    let mut policies = with_settings();
    let mut set_config = policy::rule("set-config", Effect::Allow, &["Select"]);
    let names = vec![NamePattern::parse("pg_catalog.set_config").unwrap()];
    set_config.matcher.objects = Some(vec![ObjectMatcher { kind: ObjectKind::Function, names }]);
    let temporary = policy::tables(policy::rule("temporary", Effect::Allow, &[]), &["pg_temp.*"]);
    policies[0].rules.extend([set_config, temporary]);
    let guarded = Guarded::start(policies).await.unwrap();
    let text = "select note from orders where id = 1";
    let set = |path: &str| {
        let value = [&u32::try_from(path.len()).unwrap().to_be_bytes()[..], path.as_bytes()].concat();
        let bind = wire::message(b'B', &[b"\0\0", &[0, 0, 0, 1], &value, &[0, 0]]);
        [parse("", "select set_config('search_path', $1, false)"), bind, execute(""), sync()]
    };
    // To the target's own: what the name means, and what the server finds by it, is as before.
    let mut session = Wire::open(&guarded).await;
    assert!(session.ask(&set("\"public\",\"public\", \"pg_temp\"")).await.errors().is_empty());
    let made = session.query("create temp table orders as select 'of the session'::text as note, 1 as id").await;
    assert!(made.errors().is_empty(), "{:?}", made.errors());
    assert_eq!(session.query(text).await.rows(), ["order 1"]);
    // Where temporary tables would come first, a name without a schema is nothing that a rule allows.
    assert!(session.ask(&set("public")).await.errors().is_empty());
    let said = session.query(text).await;
    assert!(said.rows().is_empty() && said.errors()[0].starts_with("42501"), "{:?} {:?}", said.rows(), said.errors());
}
