//! Every phase has a deadline: claims about peers that stall.
//!
//! Owns nothing else. Touches memory only. Invariant: each is ended at its deadline, neither before nor much
//! after, and a peer that owes nothing is left alone.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::support::certificates::host;
use crate::support::stage::{BOT, LIMITS, Stage};
use rustls::version::TLS13;

const SLACK: Duration = Duration::from_millis(10);

fn assert_about(took: Duration, deadline: Duration) {
    assert!(took >= deadline && took <= deadline + LIMITS.parting + SLACK, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_speaks_is_ended_at_the_handshake_deadline() {
    let stage = Stage::new();
    let since = Instant::now();
    let mut served = stage.connect();
    assert_eq!(served.io.read(&mut [0; 16]).await.unwrap(), 0);
    assert_about(since.elapsed(), LIMITS.handshake);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_inside_the_tls_handshake_is_ended_at_the_handshake_deadline() {
    let stage = Stage::new();
    let since = Instant::now();
    let mut served = stage.connect();
    // The first bytes of a ClientHello record.
    served.io.write_all(b"tls\n\x16\x03\x01\x02\x00\x01").await.unwrap();
    let mut told = Vec::new();
    served.io.read_to_end(&mut told).await.unwrap();
    assert_eq!(told, b"ok\n");
    assert_about(since.elapsed(), LIMITS.handshake);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_names_nobody_after_tls_is_ended_at_the_handshake_deadline() {
    let stage = Stage::new();
    let since = Instant::now();
    let mut served = stage.connect();
    served.io.write_all(b"tls\n").await.unwrap();
    served.io.read_exact(&mut [0; 3]).await.unwrap();
    let leaf = stage.authority.agent(&[BOT]);
    let connector = TlsConnector::from(stage.authority.client(Some(&leaf), &[&TLS13]));
    let mut tls = connector.connect(host(), served.io).await.unwrap();
    tls.write_all(b"use").await.unwrap();
    assert!(tls.read_u8().await.is_err());
    assert_about(since.elapsed(), LIMITS.handshake);
    assert_eq!(stage.journal.dials(), 0);
}

#[tokio::test(start_paused = true)]
async fn half_a_message_is_ended_at_the_stall_deadline() {
    let mut stage = Stage::new();
    let (mut agent, _target) = stage.open().await;
    // Not from the opening on: the deadline counts from the half message.
    tokio::time::sleep(LIMITS.stall / 2).await;
    agent.say("select ord").await;
    let since = Instant::now();
    assert_eq!(agent.last_line().await, "bye no progress within the deadline");
    assert_about(since.elapsed(), LIMITS.stall);
}

#[tokio::test(start_paused = true)]
async fn half_a_message_is_ended_although_the_target_talks_on() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    agent.say("select orders\nselect ite").await;
    target.line().await;
    let since = Instant::now();
    let talk = tokio::spawn(async move {
        while target.0.write_all(b"row 1\n").await.is_ok() {
            tokio::time::sleep(LIMITS.stall / 5).await;
        }
    });
    let mut told = String::new();
    let _reset = agent.tls.read_to_string(&mut told).await;
    assert!(told.ends_with("bye no progress within the deadline\n"), "{told}");
    assert_about(since.elapsed(), LIMITS.stall);
    talk.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn half_a_message_that_still_grows_is_waited_for() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    for byte in "select orders\n".chars() {
        agent.say(&byte.to_string()).await;
        tokio::time::sleep(LIMITS.stall / 2).await;
    }
    assert_eq!(target.line().await.unwrap(), "select orders");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_reading_is_ended_at_the_stall_deadline() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    agent.say("select orders\n").await;
    target.line().await;
    let since = Instant::now();
    let flood =
        tokio::spawn(async move { while target.0.write_all("row 1\n".repeat(100).as_bytes()).await.is_ok() {} });
    agent.task.await.unwrap();
    assert_about(since.elapsed(), LIMITS.stall);
    flood.await.unwrap();
    assert_eq!(stage.journal.outcomes(), [(1, "unknown".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_reading_is_ended_although_it_sends_on() {
    let mut stage = Stage::new();
    let (agent, mut target) = stage.open().await;
    let (mut hears, mut says) = tokio::io::split(agent.tls);
    says.write_all(b"select orders\n").await.unwrap();
    target.line().await;
    // Enough to fill the pipe, not so much that the client would no longer be read.
    let rows = tokio::spawn(async move {
        let _ended = target.0.write_all(format!("row {}\n", "x".repeat(1000)).repeat(120).as_bytes()).await;
        target
    });
    let since = Instant::now();
    let sending = tokio::spawn(async move {
        while says.write_all(b"drop orders\n").await.is_ok() {
            tokio::time::sleep(LIMITS.stall / 5).await;
        }
    });
    agent.task.await.unwrap();
    assert_about(since.elapsed(), LIMITS.stall);
    let _buffered = hears.read_to_end(&mut Vec::new()).await;
    sending.await.unwrap();
    rows.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_target_that_stops_reading_is_ended_at_the_stall_deadline_and_blamed() {
    let mut stage = Stage::with(LIMITS, 64);
    let (mut agent, target) = stage.open().await;
    let since = Instant::now();
    for _ in 0..5 {
        agent.say(&format!("select {}\n", "x".repeat(200))).await;
    }
    assert_eq!(agent.last_line().await, "bye the target takes no more");
    assert_about(since.elapsed(), LIMITS.stall);
    drop(target);
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_and_a_long_command_are_left_alone() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    tokio::time::sleep(LIMITS.stall * 10).await;
    agent.say("select orders\n").await;
    assert_eq!(target.line().await.unwrap(), "select orders");
    tokio::time::sleep(LIMITS.stall * 10).await;
    target.say("ok\n").await;
    assert_eq!(agent.line().await.unwrap(), "ok");
    agent.quit().await;
}
