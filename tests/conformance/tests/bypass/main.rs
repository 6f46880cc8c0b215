//! Attempts to get past the policy, each against the real server: refused, and the server untouched.
//! The corpus is `../corpus/refused.sql`; the server logs every statement, so that its log is the judge.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[allow(unreachable_pub, reason = "the operator's own file")]
#[path = "../../../../operator/src/derive/builtin.rs"]
mod builtin;
mod state;
#[path = "../wire/mod.rs"]
mod wire;

use sallyport_conformance::{Guarded, policy};
use wire::{
    Wire, bind, close, describe, execute, execute_some, flush, log_all, message, parse, query, startup, startup_of,
    state, sync,
};

const CORPUS: &str = include_str!("../corpus/refused.sql");

async fn guarded() -> Guarded {
    // With the rules that every compiled policy begins with, so that what they let through is attacked as well.
    let mut policies = policy::readme();
    policies[0].rules.splice(..1, builtin::rules());
    let guarded = Guarded::start(policies).await.unwrap();
    log_all(&guarded).await;
    guarded
}

fn corpus() -> impl Iterator<Item = &'static str> {
    CORPUS.lines().filter(|line| !line.is_empty() && !line.starts_with("--"))
}

/// Statements of the server's log since that offset, but for the constant that stands for a refused one.
fn ran(guarded: &Guarded, since: usize) -> Vec<String> {
    let log = guarded.server.log();
    let lines = log[since..].lines().filter(|line| line.contains("LOG:  ") && !line.contains("LOG:  connection"));
    lines.map(str::to_owned).collect()
}

#[tokio::test]
async fn no_text_of_the_corpus_reaches_the_server_by_a_query() {
    let guarded = guarded().await;
    let before = state(&guarded).await;
    let mut session = Wire::open(&guarded).await;
    let since = guarded.server.log().len();
    let mut let_through = Vec::new();
    for sql in corpus() {
        let said = session.query(sql).await;
        assert!(!said.closed, "{sql}: the session ended: {:?}", said.errors());
        let refused = said.kinds() == "EZ" && ["42501", "42601"].contains(&&said.errors()[0][..5]);
        if !refused {
            let_through.push(format!("{sql}: {} {:?}", said.kinds(), said.errors()));
        }
        if let Some(line) = said.rows().first() {
            let_through.push(format!("{sql}: row {line}"));
        }
    }
    assert!(let_through.is_empty(), "let through:\n{}", let_through.join("\n"));
    assert_eq!(ran(&guarded, since), Vec::<String>::new(), "the server saw nothing");
    assert_eq!(state(&guarded).await, before);
    assert!(!std::path::Path::new("/tmp/sallyport-bypass").exists());
}

#[tokio::test]
async fn no_text_of_the_corpus_reaches_the_server_by_the_extended_protocol() {
    let guarded = guarded().await;
    let before = state(&guarded).await;
    let mut session = Wire::open(&guarded).await;
    let since = guarded.server.log().len();
    for sql in corpus() {
        let said = session
            .ask(&[parse("", sql), bind("", ""), describe(b'P', ""), execute(""), close(b'P', ""), sync()])
            .await;
        assert_eq!(said.kinds(), "EZ", "{sql}: {:?}", said.errors());
        assert!(["42501", "42601"].contains(&&said.errors()[0][..5]), "{sql}: {:?}", said.errors());
    }
    assert_eq!(ran(&guarded, since), Vec::<String>::new(), "the server saw nothing");
    assert_eq!(state(&guarded).await, before);
}

#[tokio::test]
async fn in_a_transaction_every_text_of_the_corpus_aborts_it_and_leaves_nothing() {
    let guarded = guarded().await;
    let before = state(&guarded).await;
    let mut session = Wire::open(&guarded).await;
    for sql in corpus() {
        let said = session.ask(&[query("begin"), query(sql), query("update orders set note = 'x' where id = 1")]).await;
        assert_eq!(said.kinds(), "CZ", "{sql}");
        let refused = session.until_ready().await;
        assert_eq!(refused.kinds(), "EZ", "{sql}: {:?}", refused.errors());
        assert!(["42501", "42601"].contains(&&refused.errors()[0][..5]), "{sql}: {:?}", refused.errors());
        let after = session.until_ready().await;
        assert!(after.errors()[0].starts_with("25P02"), "{sql}: {:?}", after.errors());
        assert_eq!(session.query("rollback").await.kinds(), "CZ", "{sql}");
    }
    assert_eq!(state(&guarded).await, before);
}

#[tokio::test]
async fn bytes_that_are_no_utf8_or_hold_a_nul_reach_nobody() {
    let guarded = guarded().await;
    let since = guarded.server.log().len();
    let mut session = Wire::open(&guarded).await;
    session.send(&message(b'Q', &[b"select 1 \xff from secrets\0"])).await;
    let said = session.until_ready().await;
    assert!(said.errors()[0].starts_with("22021"), "{:?}", said.errors());
    session.send(&message(b'Q', &[b"select 1\0; drop table secrets\0"])).await;
    let said = session.until_closed().await;
    assert!(said.errors()[0].starts_with("08P01"), "{:?}", said.errors());
    // Without its NUL, and an empty body.
    for body in [&b"select 1"[..], b""] {
        let mut session = Wire::open(&guarded).await;
        session.send(&message(b'Q', &[body])).await;
        let said = session.until_closed().await;
        assert!(said.errors()[0].starts_with("08P01"), "{:?}", said.errors());
    }
    let log = ran(&guarded, since).join("\n");
    assert!(!log.contains("select 1"), "{log}");
}

#[tokio::test]
async fn a_refused_parse_leaves_no_name_behind() {
    let guarded = guarded().await;
    let mut session = Wire::open(&guarded).await;
    let said = session.ask(&[parse("a", "select * from secrets"), sync()]).await;
    assert_eq!(said.kinds(), "EZ");
    let said = session.ask(&[bind("", "a"), execute(""), sync()]).await;
    assert_eq!(said.kinds(), "EZ");
    assert!(said.errors()[0].starts_with("26000"), "{:?}", said.errors());
    // Refused under a name that stands for something allowed: that stays.
    assert_eq!(session.ask(&[parse("a", "select 'kept'"), sync()]).await.kinds(), "1Z");
    assert_eq!(session.ask(&[parse("a", "table secrets"), sync()]).await.kinds(), "EZ");
    assert_eq!(session.ask(&[bind("", "a"), execute(""), sync()]).await.rows(), ["kept"]);
}

#[tokio::test]
async fn another_text_under_a_name_that_is_bound_changes_nothing_that_was_judged() {
    let guarded = guarded().await;
    let before = state(&guarded).await;
    let mut session = Wire::open(&guarded).await;
    let allowed = "select id from orders where id < 4";
    assert_eq!(session.ask(&[query("begin")]).await.kinds(), "CZ");
    assert_eq!(session.ask(&[parse("s", allowed), bind("p", "s"), execute_some("p", 1), sync()]).await.rows(), ["1"]);
    // Closed and made anew with another meaning while the portal is open: the portal keeps the old one.
    let said = session.ask(&[close(b'S', "s"), parse("s", "select 'other'"), execute_some("p", 1), sync()]).await;
    assert_eq!(said.rows(), ["2"], "{:?}", said.errors());
    let said = session.ask(&[bind("q", "s"), execute("q"), sync()]).await;
    assert_eq!(said.rows(), ["other"]);
    // A second Parse of a name in use fails at the server, and then the old meaning runs.
    let said = session.ask(&[parse("s", "select 'third'"), bind("r", "s"), execute("r"), sync()]).await;
    assert_eq!((said.rows(), said.errors().len()), (Vec::<String>::new(), 1));
    assert_eq!(session.query("rollback").await.kinds(), "CZ");
    assert_eq!(session.ask(&[bind("", "s"), execute(""), sync()]).await.rows(), ["other"]);
    assert_eq!(state(&guarded).await, before);
}

#[tokio::test]
async fn a_portal_is_judged_by_the_policy_of_its_execute() {
    let guarded = guarded().await;
    let mut session = Wire::open(&guarded).await;
    session.query("begin").await;
    let select = "select id from orders order by id";
    assert_eq!(session.ask(&[parse("s", select), bind("p", "s"), execute_some("p", 1), sync()]).await.rows(), ["1"]);
    assert_eq!(session.query("declare c cursor for select id from orders order by id").await.kinds(), "CZ");
    assert_eq!(session.query("prepare n as select id from orders order by id").await.kinds(), "CZ");
    let bundle = guarded.set_policies(vec![policy::policy("read-orders", Vec::new())]).unwrap();
    guarded.await_revision(&bundle).await.unwrap();
    for attempt in [
        vec![execute_some("p", 1), sync()],
        vec![query("fetch 1 from c")],
        vec![query("execute n")],
        vec![query("fetch 1 from p")],
        vec![execute("c"), sync()],
        vec![bind("", "s"), execute(""), sync()],
        vec![bind("", "n"), execute(""), sync()],
        vec![parse("", "execute n"), bind("", ""), execute(""), sync()],
    ] {
        session.query("savepoint s").await;
        let said = session.ask(&attempt).await;
        assert_eq!(said.rows(), Vec::<String>::new(), "{attempt:?}");
        assert!(said.errors()[0].starts_with("42501"), "{:?}", said.errors());
        assert_eq!(session.query("rollback to s").await.kinds(), "CZ");
    }
}

#[tokio::test]
async fn what_follows_a_refusal_in_a_pipeline_is_skipped_up_to_the_sync() {
    let guarded = guarded().await;
    let before = state(&guarded).await;
    let mut session = Wire::open(&guarded).await;
    let write = |n: u32| format!("insert into orders (id, note) values ({n}, 'pipelined')");
    let run = |sql: &str| [parse("", sql), bind("", ""), execute("")].concat();
    // With work before it, and alone.
    for first in [run("select 1"), Vec::new(), run(&write(5000))] {
        let said = session
            .ask(&[
                first,
                run("delete from orders"),
                run(&write(5001)),
                query("select 'skipped as well'"),
                flush(),
                sync(),
            ])
            .await;
        assert_eq!(said.errors().len(), 1, "{:?}", said.errors());
        assert!(said.errors()[0].starts_with("42501"), "{:?}", said.errors());
        assert!(!said.rows().contains(&"skipped as well".to_owned()));
        assert_eq!(session.query("select 'in step'").await.rows(), ["in step"]);
    }
    let after = state(&guarded).await;
    let cut = |text: &str| text.split("Some").take(4).collect::<String>();
    assert_eq!(cut(&after), cut(&before), "neither what came after nor, rolled back, what came before");
    // Names given in the skipped part mean nothing.
    let said = session.ask(&[parse("x", "table secrets"), parse("y", "select 1"), sync()]).await;
    assert_eq!(said.kinds(), "EZ");
    assert_eq!(session.ask(&[bind("", "y"), execute(""), sync()]).await.kinds(), "EZ");
}

#[tokio::test]
async fn messages_a_client_has_no_business_to_send_reach_nobody() {
    let guarded = guarded().await;
    let since = guarded.server.log().len();
    // A function call: refused, and the session goes on.
    let mut session = Wire::open(&guarded).await;
    let call = message(b'F', &[&2143_u32.to_be_bytes(), &[0, 0, 0, 0, 0, 0]]);
    let said = session.ask(&[call]).await;
    assert_eq!(said.kinds(), "EZ");
    assert!(said.errors()[0].starts_with("42501"), "{:?}", said.errors());
    assert_eq!(session.query("select 1").await.rows(), ["1"]);
    // Copy data outside COPY means nothing.
    let stray = [message(b'd', &[b"1\t2\n"]), message(b'c', &[]), message(b'f', &[b"no\0"])].concat();
    session.send(&stray).await;
    assert_eq!(session.query("select 2").await.rows(), ["2"]);
    // A password after login, a second startup, another request for TLS, types of the server's and of nobody's.
    let again = startup(&[("user", "postgres"), ("database", "postgres")]);
    let others = [message(b'p', &[b"secret\0"]), again, wire::SSL_REQUEST.to_vec(), message(b'R', &[&[0; 4]])];
    let unknown = (0..=255_u8).filter(|kind| !b"QPBDECSHXFdcf".contains(kind)).map(|kind| message(kind, &[]));
    for bytes in others.into_iter().chain(unknown) {
        let mut session = Wire::open(&guarded).await;
        session.send(&bytes).await;
        session.send(&query("select 'too late'")).await;
        let said = session.until_closed().await;
        assert!(said.errors()[0].starts_with("08P01"), "{bytes:?}: {:?}", said.errors());
        assert_eq!(said.rows(), Vec::<String>::new());
    }
    assert!(!guarded.server.log()[since..].contains("too late"));
}

#[tokio::test]
async fn startup_parameters_that_change_meaning_are_refused() {
    let guarded = guarded().await;
    let since = guarded.server.log().len();
    for (name, value) in [
        ("options", "-c search_path=evil"),
        ("options", "-c log_statement=none"),
        ("replication", "database"),
        ("replication", "true"),
        ("search_path", "evil"),
        ("Search_Path", "evil"),
        ("session_authorization", "postgres"),
        ("role", "postgres"),
        ("standard_conforming_strings", "off"),
        ("client_encoding", "SJIS"),
        ("user", "postgres"),
        ("database", ""),
    ] {
        let packet = startup(&[("user", "default"), ("database", "postgres"), (name, value)]);
        let (_, said) = Wire::try_open(&guarded, &packet).await;
        assert_eq!(said.kinds(), "E", "{name}={value}");
        assert!(said.errors()[0].starts_with("08P01"), "{name}={value}: {:?}", said.errors());
    }
    assert!(!guarded.server.log()[since..].contains("connection authorized: user=postgres database=postgres app"));
    // No user, none that exists, a database that does not.
    for (packet, code) in [
        (startup(&[("database", "postgres")]), "08P01"),
        (startup(&[("user", "")]), "08P01"),
        (startup(&[("user", "nobody")]), "28000"),
        (startup(&[("user", "postgres")]), "28000"),
        (startup(&[("user", "default"), ("database", "nowhere")]), "3D000"),
        (startup_of(2 << 16, &[("user", "default")]), "08P01"),
    ] {
        let (_, said) = Wire::try_open(&guarded, &packet).await;
        assert_eq!(said.kinds(), "E");
        assert!(said.errors()[0].starts_with(code), "{code}: {:?}", said.errors());
    }
    // Unknown protocol options and newer minor versions are negotiated away, as the server does.
    let options = [("user", "default"), ("database", "postgres"), ("_pq_.unheard", "of")];
    let (mut session, said) = Wire::try_open(&guarded, &startup_of((3 << 16) + 9, &options)).await;
    assert!(said.kinds().starts_with('v') && said.kinds().ends_with('Z'), "{} {:?}", said.kinds(), said.errors());
    assert_eq!(session.query("select 1").await.rows(), ["1"]);
}

#[tokio::test]
async fn how_messages_are_cut_into_packets_changes_nothing() {
    let guarded = guarded().await;
    let work = [
        query("select count(*) from orders"),
        query("delete from orders"),
        parse("a", "select note from orders where id = 2"),
        bind("", "a"),
        execute(""),
        parse("", "table secrets"),
        bind("", ""),
        execute(""),
        sync(),
        query("select 'end'"),
    ]
    .concat();
    let mut whole = Wire::open(&guarded).await;
    whole.send(&work).await;
    let mut wanted = Vec::new();
    for _ in 0..4 {
        wanted.push(whole.until_ready().await.messages);
    }
    let mut split = Wire::open(&guarded).await;
    for byte in &work {
        split.send(&[*byte]).await;
    }
    let mut got = Vec::new();
    for _ in 0..4 {
        got.push(split.until_ready().await.messages);
    }
    assert_eq!(got, wanted);
    assert_eq!(wanted.concat().iter().map(|message| message.kind).collect::<String>(), "TDCZEZ12DCEZTDCZ");
}

#[tokio::test]
async fn a_cancel_with_another_key_cancels_nothing() {
    let guarded = Guarded::start(policy::allow_all()).await.unwrap();
    let hello = startup(&[("user", "default"), ("database", "postgres")]);
    let (mut one, said) = Wire::try_open(&guarded, &hello).await;
    let (_two, other) = Wire::try_open(&guarded, &hello).await;
    let key = |said: &wire::Said| said.messages.iter().find(|message| message.kind == 'K').unwrap().body.clone();
    let (own, other) = (key(&said), key(&other));
    one.send(&query("select pg_sleep(1)")).await;
    let request = |key: &[u8]| [&(8 + key.len() as u32).to_be_bytes()[..], &80_877_102_u32.to_be_bytes(), key].concat();
    let mut forged = vec![
        other.clone(),
        [&own[..4], &other[4..]].concat(),
        [&own[..4], &[0, 0, 0, 0]].concat(),
        own[..4].to_vec(),
        own[..7].to_vec(),
        [own.as_slice(), &[0]].concat(),
        vec![0; 8],
    ];
    forged.extend((0..100_u32).map(|n| [&own[..4], &n.to_be_bytes()].concat()));
    for key in &forged {
        use tokio::io::AsyncWriteExt as _;
        let mut tcp = tokio::net::TcpStream::connect(("127.0.0.1", guarded.port())).await.unwrap();
        let _closed = tcp.write_all(&request(key)).await;
        let mut end = Vec::new();
        let _reset = tokio::io::AsyncReadExt::read_to_end(&mut tcp, &mut end).await;
    }
    assert_eq!(one.until_ready().await.kinds(), "TDCZ", "it slept to its end");
    one.send(&query("select pg_sleep(30)")).await;
    let active = "select count(*) from pg_stat_activity where query = 'select pg_sleep(30)' and state = 'active'";
    tokio::time::timeout(wire::PATIENCE, async {
        while guarded.server.exec_sql(active).await.unwrap() != [[Some("1".to_owned())]] {}
    })
    .await
    .expect("it never ran");
    let mut tcp = tokio::net::TcpStream::connect(("127.0.0.1", guarded.port())).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut tcp, &request(&own)).await.unwrap();
    assert!(one.until_ready().await.errors()[0].starts_with("57014"), "its own key does");
}
