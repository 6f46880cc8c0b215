//! How sessions begin, and how they do not.

use sallyport_policy::{Effect, TlsMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::raw::{Raw, message, startup, word};
use crate::stage::{SSL_REQUEST, Stage, rule};

async fn first_word(stage: &Stage, hello: &[u8]) -> (String, String) {
    let mut raw = Raw(stage.tcp().await);
    raw.send(&[hello.to_vec()]).await;
    let (kind, body) = raw.message().await.unwrap();
    (word(kind, &body), String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn without_tls_a_client_gets_one_clear_error() {
    let stage = Stage::new().await;
    let (told, text) = first_word(&stage, &startup(196_608, &[("user", "bot")])).await;
    assert_eq!(told, "E28000");
    assert!(text.contains("TLS with a client certificate is required"), "{text}");
    let (told, _) = first_word(&stage, b"GET / HTTP/1.1\r\nHost: db\r\n\r\n").await;
    assert_eq!(told, "E08P01");
}

#[tokio::test]
async fn gssapi_is_declined_and_bytes_sent_before_tls_are_refused() {
    let stage = Stage::new().await;
    let mut tcp = stage.tcp().await;
    tcp.write_all(&[0, 0, 0, 8, 4, 210, 22, 48]).await.unwrap();
    assert_eq!(tcp.read_u8().await.unwrap(), b'N');
    tcp.write_all(&SSL_REQUEST).await.unwrap();
    assert_eq!(tcp.read_u8().await.unwrap(), b'S');
    stage.handshake(tcp, &[]).await.unwrap();
    // CVE-2021-23214: a startup message smuggled in behind the request for TLS.
    let mut tcp = stage.tcp().await;
    tcp.write_all(&[SSL_REQUEST.to_vec(), startup(196_608, &[("user", "bot")])].concat()).await.unwrap();
    assert_eq!(tcp.read_u8().await.unwrap(), b'S');
    assert!(stage.handshake(tcp, &[]).await.is_err());
}

#[tokio::test]
async fn direct_tls_needs_its_alpn() {
    let stage = Stage::new().await;
    let tls = stage.handshake(stage.tcp().await, &[b"postgresql"]).await.unwrap();
    Raw(tls).log_in().await;
    let tls = stage.handshake(stage.tcp().await, &[]).await.unwrap();
    let mut raw = Raw(tls);
    raw.send(&[startup(196_608, &[("user", "bot")])]).await;
    let (kind, body) = raw.message().await.unwrap();
    assert_eq!(word(kind, &body), "E08P01");
}

#[tokio::test]
async fn newer_versions_and_unknown_options_are_negotiated() {
    let stage = Stage::new().await;
    for (version, option, minor, keys) in [
        (196_608, None, None, 4),
        (196_610, None, None, 32),
        (196_610, Some("_pq_.future"), Some(2), 32),
        (196_608 + 9999, Some("_pq_.test_protocol_negotiation"), Some(2), 32),
        (196_608, Some("_pq_.future"), Some(0), 4),
    ] {
        let mut raw = Raw(stage.tls().await);
        let mut parameters = vec![("user", "bot"), ("database", "postgres")];
        parameters.extend(option.map(|name| (name, "1")));
        raw.send(&[startup(version, &parameters)]).await;
        let mut negotiated = None;
        let mut secret = 0;
        loop {
            let (kind, body) = raw.message().await.unwrap();
            match kind {
                b'v' => {
                    let version = i32::from_be_bytes(body[..4].try_into().unwrap());
                    assert!(String::from_utf8_lossy(&body).contains(option.unwrap_or_default()));
                    negotiated = Some(version - 196_608);
                }
                b'K' => secret = body.len() - 4,
                b'Z' => break,
                b'E' => panic!("{}", String::from_utf8_lossy(&body)),
                _ => {}
            }
        }
        assert_eq!((negotiated, secret), (minor, keys), "{version} {option:?}");
    }
}

#[tokio::test]
async fn startup_parameters_that_change_meaning_are_refused_by_name() {
    let stage = Stage::new().await;
    for (name, value) in [
        ("options", "-c search_path=evil"),
        ("replication", "database"),
        ("search_path", "evil"),
        ("client_encoding", "SJIS"),
        ("standard_conforming_strings", "off"),
        ("role", "postgres"),
        ("USER", "other"),
    ] {
        let mut raw = Raw(stage.tls().await);
        raw.send(&[startup(196_608, &[("user", "bot"), (name, value)])]).await;
        let (kind, body) = raw.message().await.unwrap();
        assert_eq!(word(kind, &body), "E08P01", "{name}");
        assert!(String::from_utf8_lossy(&body).contains(name), "{name}: {}", String::from_utf8_lossy(&body));
    }
}

#[tokio::test]
async fn harmless_parameters_reach_the_server_and_ours_hold() {
    let stage = Stage::new().await;
    stage.server.exec_sql("alter role postgres set search_path = evil").await.unwrap();
    stage.server.exec_sql("alter role postgres set standard_conforming_strings = off").await.unwrap();
    let client = stage.connect().await;
    let show = async |name: &str| client.query_one(&format!("show {name}"), &[]).await.unwrap().get::<_, String>(0);
    assert_eq!(show("application_name").await, "real test");
    assert_eq!(show("search_path").await, "\"public\", \"pg_temp\"");
    assert_eq!(show("standard_conforming_strings").await, "on");
    let opened = stage.records.of("open");
    assert!(opened[0]["facts"].to_string().contains("real test"), "{opened:?}");
}

#[tokio::test]
async fn a_target_that_does_not_let_us_in_is_told_without_its_details() {
    let stage = Stage::new().await;
    let refused = async |database: &str| {
        let error = stage.try_connect(database).await.err().unwrap();
        let error = error.as_db_error().unwrap();
        (error.code().code().to_owned(), error.message().to_owned())
    };
    assert_eq!(refused("nowhere").await.0, "3D000");
    stage.vault.0.lock().unwrap().password = "wrong".to_owned().into();
    let (code, message) = refused("postgres").await;
    assert_eq!(code, "08006");
    assert!(!message.contains("postgres"), "no name of the target's side: {message}");
}

#[tokio::test]
async fn a_target_that_asks_for_less_than_scram_is_not_trusted() {
    let stage = Stage::new().await;
    let hba = stage.truth("show hba_file").await;
    stage.server.exec_sql("set password_encryption = 'md5'; create role weak login password 'weak'").await.unwrap();
    for (method, user) in [("trust", "postgres"), ("password", "postgres"), ("md5", "weak")] {
        std::fs::write(&hba, format!("local all all scram-sha-256\nhost all all all {method}\n")).unwrap();
        stage.server.exec_sql("select pg_reload_conf()").await.unwrap();
        user.clone_into(&mut stage.vault.0.lock().unwrap().username);
        // The postmaster reads its file some moment after the reload was asked for.
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            let error = stage.try_connect("postgres").await.err().unwrap();
            let message = error.as_db_error().unwrap().message().to_owned();
            if message.contains("did not prove") {
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "{method}: {message}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn without_tls_to_the_target_scram_still_holds() {
    let stage = Stage::new().await;
    stage.bundle(vec![rule("all", Effect::Allow, &[], &[])], TlsMode::Disable);
    let client = stage.connect().await;
    let ssl = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    assert!(!client.query_one(ssl, &[]).await.unwrap().get::<_, bool>(0));
    stage.bundle(vec![rule("all", Effect::Allow, &[], &[])], TlsMode::VerifyFull);
    assert!(stage.connect().await.query_one(ssl, &[]).await.unwrap().get::<_, bool>(0));
}

#[tokio::test]
async fn a_cancel_key_is_the_proxys_own_and_only_the_right_one_cancels() {
    let stage = Stage::new().await;
    let client = stage.connect().await;
    let token = client.cancel_token();
    let sleeping = tokio::spawn(async move { client.simple_query("select pg_sleep(20)").await.map(drop) });
    let running = "select pid from pg_stat_activity where query like '%pg_sleep(20)%' and pid <> pg_backend_pid() \
                   and state = 'active'";
    // Nobody else: who asked before may not be gone yet.
    let pid = loop {
        if let Ok(pid) = stage.truth(running).await.parse::<i32>() {
            break pid;
        }
        assert!(!sleeping.is_finished());
    };
    // Someone else's guess: another secret for every process there is.
    let mut raw = Raw(stage.tcp().await);
    let guess = [80_877_102i32.to_be_bytes(), pid.to_be_bytes(), [0; 4]].concat();
    raw.send(&[[16u32.to_be_bytes().to_vec(), guess].concat()]).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(!sleeping.is_finished());
    token.cancel_query_raw(stage.tcp().await, tokio_postgres::NoTls).await.unwrap();
    let error = sleeping.await.unwrap().unwrap_err();
    assert_eq!(error.code().unwrap().code(), "57014");
}

#[tokio::test]
async fn lengths_that_lie_end_the_session_at_once() {
    let stage = Stage::new().await;
    for wrong in [
        vec![b'Q', 0xff, 0xff, 0xff, 0xff],
        vec![b'B', 0x7f, 0xff, 0xff, 0xff],
        vec![b'Q', 0, 0, 0, 3],
        vec![b'!'],
        message(b'p', &[b"x\0"]),
        message(b'Q', &[b"select 1"]),
    ] {
        let mut raw = Raw(stage.tls().await).log_in().await;
        raw.send(std::slice::from_ref(&wrong)).await;
        assert_eq!(raw.until_ready(1).await, "E08P01 end", "{wrong:?}");
    }
}
