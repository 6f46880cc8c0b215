//! Bad input from clients: wrong certificates, wrong bytes, too much, too slow. Each costs its sender alone.
//! Every test ends with a look at the proxy: it serves the next client, and has not panicked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod wire;

use std::time::{Duration, Instant, SystemTime};

use sallyport_conformance::clients::texts;
use sallyport_conformance::{Guarded, Way, policy};
use sallyport_harness::{Leaf, LeafOptions, Pki};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::{
    SSL_REQUEST, Wire, bind, describe, execute, logged, logged_once, message, parse, query, serves, startup, sync,
};

#[tokio::test]
async fn a_certificate_that_proves_nothing_opens_no_session() {
    let guarded = Guarded::start(policy::readme()).await.unwrap();
    let pki = &guarded.pki;
    let uri = pki.spiffe_id("ci", "bot");
    let leaf = |options: LeafOptions| pki.leaf(&options).unwrap();
    let named =
        |uris: &[&str]| LeafOptions { uris: uris.iter().map(|&uri| uri.into()).collect(), ..Default::default() };
    let now = SystemTime::now();
    let minute = Duration::from_secs(60);
    let other = Pki::new(pki.trust_domain()).unwrap();
    let bad: [(&str, Leaf, &str, &str); 14] = [
        ("other CA", other.agent("ci", "bot").unwrap(), "alert", "tls handshake failed"),
        (
            "expired",
            leaf(LeafOptions { not_after: now - minute, ..named(&[&uri]) }),
            "certificate expired",
            "tls handshake failed",
        ),
        (
            "not yet",
            leaf(LeafOptions { not_before: now + 10 * minute, ..named(&[&uri]) }),
            "not valid for another",
            "connection refused",
        ),
        // Further ahead than clocks are apart: TLS itself refuses it.
        (
            "not for hours",
            leaf(LeafOptions { not_before: now + 120 * minute, ..named(&[&uri]) }),
            "alert",
            "tls handshake failed",
        ),
        (
            "a server's",
            leaf(LeafOptions { client_auth: false, server_auth: true, ..named(&[&uri]) }),
            "alert",
            "tls handshake failed",
        ),
        ("two names", leaf(named(&[&uri, &pki.spiffe_id("ci", "other")])), "FATAL", "connection refused"),
        ("no name", leaf(named(&[])), "FATAL", "connection refused"),
        (
            "common name alone",
            leaf(LeafOptions { common_name: Some("bot".into()), ..Default::default() }),
            "FATAL",
            "connection refused",
        ),
        (
            "DNS name",
            leaf(LeafOptions { dns: vec!["bot.ci".into()], ..Default::default() }),
            "FATAL",
            "connection refused",
        ),
        (
            "other trust domain",
            leaf(named(&["spiffe://elsewhere.example/ns/ci/agent/bot"])),
            "FATAL",
            "connection refused",
        ),
        ("other path", leaf(named(&["spiffe://cluster.local/ns/ci/sa/bot"])), "FATAL", "connection refused"),
        (
            "path that climbs",
            leaf(named(&["spiffe://cluster.local/ns/x/../ci/agent/bot"])),
            "FATAL",
            "connection refused",
        ),
        ("stranger", pki.agent("ci", "stranger").unwrap(), "FATAL", "connection refused"),
        ("stranger's namespace", pki.agent("other", "bot").unwrap(), "FATAL", "connection refused"),
    ];
    for (n, (what, leaf, told, log)) in bad.iter().enumerate() {
        let files = leaf.write(guarded.dir(), &format!("bad-{n}")).unwrap();
        let before = guarded.log().len();
        let output = guarded.psql_with(&guarded.conninfo_as(&files), "select 1").unwrap();
        let (out, errors) = texts(&output);
        assert!(!output.status.success() && !out.contains("row"), "{what}: {out}");
        assert!(errors.contains(told), "{what}: {errors}");
        let line = logged_once(&guarded, before, log).await;
        println!("{what}: {}\n    {line}", errors.trim());
    }
    // None at all, and TLS as it was.
    let without =
        format!("host=localhost port={} user=default sslmode=require sslcert=/none sslkey=/none", guarded.port());
    let (_, errors) = texts(&guarded.psql_with(&without, "select 1").unwrap());
    assert!(errors.contains("certificate required"), "{errors}");
    let old = format!("{} ssl_max_protocol_version=TLSv1.2", guarded.conninfo(Way::Proxied));
    let (_, errors) = texts(&guarded.psql_with(&old, "select 1").unwrap());
    assert!(errors.contains("protocol version"), "{errors}");
    serves(&guarded).await;
    assert!(!guarded.server.log().contains("stranger"));
}

#[tokio::test]
async fn what_is_no_postgresql_client_is_told_so_and_closed() {
    let guarded = Guarded::start(policy::readme()).await.unwrap();
    let hello = startup(&[("user", "default"), ("database", "postgres")]);
    let with_length = |length: i32| [&length.to_be_bytes()[..], &(3_i32 << 16).to_be_bytes(), &[0; 64]].concat();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("no TLS", hello.clone(), "TLS with a client certificate is required"),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "no PostgreSQL client"),
        ("garbage", (0..200_u8).map(|n| n.wrapping_mul(37) ^ 0x5a).collect(), "no PostgreSQL client"),
        ("length 0", with_length(0), "no PostgreSQL client"),
        ("length 3", with_length(3), "no PostgreSQL client"),
        ("length 7", with_length(7), "no PostgreSQL client"),
        ("length 2^31-1", with_length(i32::MAX), "no PostgreSQL client"),
        ("length -1", with_length(-1), "no PostgreSQL client"),
        ("length -2^31", with_length(i32::MIN), "no PostgreSQL client"),
        ("length 10001", with_length(10_001), "no PostgreSQL client"),
        ("protocol 2", wire::startup_of(2 << 16, &[("user", "default")]), "no PostgreSQL client"),
        ("GSS for ever", [0, 0, 0, 8, 4, 210, 22, 48].repeat(20), "GSSAPI"),
    ];
    for (what, bytes, told) in cases {
        let before = guarded.log().len();
        let mut tcp = TcpStream::connect(("127.0.0.1", guarded.port())).await.unwrap();
        tcp.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(wire::PATIENCE, tcp.read_to_end(&mut answer)).await.expect("it closes");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.contains(told), "{what}: {answer:?} {read:?}");
        // The proxy waits for our end before it calls the connection done.
        drop(tcp);
        logged_once(&guarded, before, "connection refused").await;
    }
    // Inside TLS.
    for (what, bytes) in [
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("length 0", with_length(0)),
        ("length 3", with_length(3)),
        ("length 2^31-1", with_length(i32::MAX)),
        ("length -1", with_length(-1)),
        ("TLS again", SSL_REQUEST.to_vec()),
        ("names without an end", [&9_u32.to_be_bytes()[..], &(3_i32 << 16).to_be_bytes(), b"u"].concat()),
        ("a name without a value", [&14_u32.to_be_bytes()[..], &(3_i32 << 16).to_be_bytes(), b"user\0\0"].concat()),
        (
            "bytes behind the end",
            [&23_u32.to_be_bytes()[..], &(3_i32 << 16).to_be_bytes(), b"user\0default\0\0x"].concat(),
        ),
    ] {
        let mut wire = Wire::secured(&guarded).await;
        wire.send(&bytes).await;
        let said = wire.until_closed().await;
        assert_eq!(said.kinds(), "E", "{what}");
        assert!(said.errors()[0].starts_with("08P01"), "{what}: {:?}", said.errors());
    }
    serves(&guarded).await;
}

#[tokio::test]
async fn bytes_glued_behind_the_request_for_tls_are_never_read_as_plain_text() {
    let guarded = Guarded::start(policy::readme()).await.unwrap();
    let hello = startup(&[("user", "default"), ("database", "postgres")]);
    for glued in [hello, query("select 1"), SSL_REQUEST.to_vec()] {
        let mut tcp = TcpStream::connect(("127.0.0.1", guarded.port())).await.unwrap();
        tcp.write_all(&[&SSL_REQUEST[..], &glued].concat()).await.unwrap();
        let mut answer = Vec::new();
        let _reset = tokio::time::timeout(wire::PATIENCE, tcp.read_to_end(&mut answer)).await.expect("it closes");
        assert_eq!(answer.first(), Some(&b'S'));
        // A TLS alert or nothing; never a word of PostgreSQL's protocol.
        assert!(matches!(answer.get(1), None | Some(0x15)), "{answer:?}");
    }
    logged(&guarded, "tls handshake failed").await;
    serves(&guarded).await;
}

#[tokio::test]
async fn lengths_that_cannot_be_end_a_session_and_no_other() {
    let guarded = Guarded::start(policy::readme()).await.unwrap();
    let mut bystander = Wire::open(&guarded).await;
    for kind in *b"QPBDECSHFdcfX" {
        for length in [0_i32, 3, -1, i32::MIN, i32::MAX] {
            let mut session = Wire::open(&guarded).await;
            session.send(&[&[kind][..], &length.to_be_bytes(), &[0; 32]].concat()).await;
            let said = session.until_closed().await;
            let what = format!("{} {length}", char::from(kind));
            assert!(said.kinds() == "E" || (kind == b'X' && said.kinds().is_empty()), "{what}: {:?}", said.errors());
            assert!(said.errors().iter().all(|error| error.starts_with("08P01")), "{what}: {:?}", said.errors());
        }
    }
    assert_eq!(bystander.query("select 1").await.rows(), ["1"]);
    serves(&guarded).await;
}

#[tokio::test]
async fn what_is_never_finished_meets_the_deadline_of_the_handshake() {
    let guarded = Guarded::start(policy::readme()).await.unwrap();
    let hello = startup(&[("user", "default"), ("database", "postgres")]);
    let started = Instant::now();
    let port = guarded.port();
    let mut waits = tokio::task::JoinSet::new();
    for bytes in [Vec::new(), vec![0], hello[..6].to_vec(), SSL_REQUEST.to_vec(), SSL_REQUEST[..7].to_vec()] {
        waits.spawn(async move {
            let mut tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tcp.write_all(&bytes).await.unwrap();
            let mut answer = Vec::new();
            let _reset = tokio::time::timeout(wire::PATIENCE, tcp.read_to_end(&mut answer)).await.expect("it closes");
        });
    }
    // Inside TLS: nothing, and half a startup message.
    for bytes in [Vec::new(), hello[..20].to_vec()] {
        let mut wire = Wire::secured(&guarded).await;
        waits.spawn(async move {
            wire.send(&bytes).await;
            assert!(wire.until_closed().await.closed);
        });
    }
    serves(&guarded).await;
    while let Some(waited) = waits.join_next().await {
        waited.unwrap();
        let after = started.elapsed();
        assert!(after > Duration::from_secs(9) && after < Duration::from_secs(14), "{after:?}");
    }
    logged(&guarded, "the handshake took too long").await;
}

/// Memory that the proxy holds, in bytes.
fn memory(guarded: &Guarded) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", guarded.proxy_pid().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn clients_that_stop_reading_cost_bounded_memory() {
    let guarded = Guarded::start(policy::allow_all()).await.unwrap();
    let before = memory(&guarded);
    let mut sessions = Vec::new();
    for _ in 0..20 {
        let mut session = Wire::open(&guarded).await;
        session.send(&query("select repeat('x', 1000000) from generate_series(1, 200)")).await;
        sessions.push(session);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let grown = memory(&guarded).saturating_sub(before);
    assert!(grown < 20 * 3 * 1024 * 1024, "20 sessions of 200 MB each took {grown} bytes");
    serves(&guarded).await;
    // Who reads again gets all of it.
    let said = sessions.pop().unwrap().until_ready().await;
    assert_eq!(said.rows().len(), 200);
    // And who leaves is not waited for: the server's sessions end.
    drop(sessions);
    let until = Instant::now() + wire::PATIENCE;
    loop {
        let sql = "select count(*) from pg_stat_activity where query like 'select repeat%' and state = 'active'";
        if guarded.server.exec_sql(sql).await.unwrap() == [[Some("0".to_owned())]] {
            break;
        }
        assert!(Instant::now() < until, "the server still works for clients that left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn clients_that_send_and_never_read_cost_bounded_memory() {
    let guarded = Guarded::start(policy::readme()).await.unwrap();
    let before = memory(&guarded);
    // Refusals are answered by the proxy itself: nobody but it can hold them back.
    let refused = query("delete from orders").repeat(1000);
    let mut session = Wire::open(&guarded).await;
    let flood = async {
        loop {
            if session.stream.write_all(&refused).await.is_err() {
                return;
            }
        }
    };
    let flooded = tokio::time::timeout(Duration::from_secs(4), flood).await;
    assert!(flooded.is_err(), "it is held back, not ended");
    let grown = memory(&guarded).saturating_sub(before);
    assert!(grown < 16 * 1024 * 1024, "{grown} bytes");
    serves(&guarded).await;
}

#[tokio::test]
async fn a_text_of_two_mebibytes_is_refused_and_ends_nothing_else() {
    let guarded = Guarded::start(policy::readme()).await.unwrap();
    for size in [2 << 20, 70 << 20] {
        let text = format!("select '{}'", "x".repeat(size));
        let mut session = Wire::open(&guarded).await;
        for messages in [vec![query(&text)], vec![parse("", &text), sync()]] {
            let said = session.ask(&messages).await;
            assert_eq!(said.kinds(), "EZ");
            assert!(said.errors()[0].contains("more than 1048576"), "{:?}", said.errors());
        }
        assert_eq!(session.query("select 1").await.rows(), ["1"]);
    }
    // Just below the bound: only what policy says counts.
    let mut session = Wire::open(&guarded).await;
    let text = "x".repeat((1 << 20) - 200);
    assert_eq!(session.query(&format!("select length('{text}')")).await.rows(), [text.len().to_string()]);
    let deep = format!("select {}1{}", "(".repeat(100_000), ")".repeat(100_000));
    for sql in [deep, format!("select 1{}", " + 1".repeat(100_000)), "select 1;".repeat(20_000)] {
        let said = session.query(&sql).await;
        assert!(said.kinds().ends_with('Z'), "{}: {:?}", &sql[..20], said.errors());
    }
    serves(&guarded).await;
}

#[tokio::test]
async fn a_thousand_statements_and_all_the_parameters_there_can_be_work() {
    let guarded = Guarded::start(policy::readme()).await.unwrap();
    let mut session = Wire::open(&guarded).await;
    let parses: Vec<_> = (0..1000).map(|n| parse(&format!("s{n}"), &format!("select {n}"))).chain([sync()]).collect();
    assert_eq!(session.ask(&parses).await.kinds(), format!("{}Z", "1".repeat(1000)));
    let runs: Vec<_> = (0..1000)
        .flat_map(|n| [bind("", &format!("s{n}")), execute("")])
        .chain([describe(b'S', "s7"), sync()])
        .collect();
    let wanted: Vec<_> = (0..1000).map(|n| n.to_string()).collect();
    assert_eq!(session.ask(&runs).await.rows(), wanted);
    let list: Vec<_> = (1..=65_535).map(|n| format!("${n}")).collect();
    let text = format!("select count(*) from orders where id in ({})", list.join(","));
    let mut body = b"\0\0\0\0\xff\xff".to_vec();
    (1..=65_535_u32).for_each(|n| {
        let value = n.to_string();
        body.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend_from_slice(value.as_bytes());
    });
    body.extend_from_slice(&[0, 0]);
    let said = session.ask(&[parse("", &text), message(b'B', &[&body]), execute(""), sync()]).await;
    assert_eq!(said.rows(), ["100"], "{:?}", said.errors());
    // One too few, and counts that lie.
    let said = session.ask(&[parse("", "select $1::int, $2::int"), bind("", ""), execute(""), sync()]).await;
    assert!(said.errors()[0].starts_with("08P01"), "{:?}", said.errors());
    for body in [&b"\0\0\0\0\xff\xff\0\0"[..], b"\0\0\0\0\0\x01\x7f\xff\xff\xff\0\0", b"\0\0\0\x05\0\0\0\0", b"\0"] {
        let mut session = Wire::open(&guarded).await;
        session.send(&[message(b'B', &[body]), sync()].concat()).await;
        let said = session.until_closed().await;
        assert!(said.errors()[0].starts_with("08P01"), "{:?}", said.errors());
    }
    serves(&guarded).await;
}

#[tokio::test]
async fn long_texts_of_some_keep_nobody_else_waiting_and_lose_no_line_of_the_log() {
    let guarded = Guarded::start(policy::readme()).await.unwrap();
    let before = guarded.log().matches("connection refused").count();
    // Long texts whose mistake is at their end: the parser is at work nearly all of the time.
    let text = format!("select {} from from", vec!["1 + 1"; 100_000].join(", "));
    let mut busy = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let (mut session, text) = (Wire::open(&guarded).await, text.clone());
        busy.spawn(async move {
            loop {
                let said = session.query(&text).await;
                assert!(said.errors()[0].starts_with("42601"), "{:?}", said.errors());
            }
        });
    }
    let knock = async {
        for _ in 0..300 {
            let mut tcp = TcpStream::connect(("127.0.0.1", guarded.port())).await.unwrap();
            tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            let mut end = Vec::new();
            let _reset = tcp.read_to_end(&mut end).await;
        }
    };
    let started = Instant::now();
    knock.await;
    let took = started.elapsed();
    assert!(took < Duration::from_secs(15), "300 handshakes took {took:?} beside the parser");
    drop(busy);
    let until = Instant::now() + Duration::from_secs(5);
    while guarded.log().matches("connection refused").count() < before + 300 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(guarded.log().matches("connection refused").count(), before + 300);
}
