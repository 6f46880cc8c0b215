//! Memory is bounded: claims about how much is taken from a peer whose bytes nobody takes.
//!
//! Owns nothing else. Touches memory only. Invariant: the bound is the backlog and what the pipes, a read and
//! TLS hold themselves, never the length of what is sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::support::stage::{LIMITS, Stage, quiet};
use crate::support::toy::DEPTH;

/// The backlog, TLS's own buffer of 64 KiB with its record's overhead, two pipes and two reads.
const BOUND: usize = LIMITS.backlog + 64 * 1024 + 4 * 16 * 1024 + 16 * 1024;

/// Writes that line over and over for as long as anybody takes it, and counts the bytes taken.
async fn pour<S: AsyncWrite + Unpin>(io: &mut S, line: &str, taken: &AtomicUsize) {
    let text = line.repeat(100);
    let mut at = 0;
    while let Ok(written) = io.write(&text.as_bytes()[at..]).await {
        taken.fetch_add(written, Ordering::SeqCst);
        at = (at + written) % text.len();
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_reading_stops_the_target_from_being_read() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    agent.say("select orders\n").await;
    target.line().await;
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    let flood = tokio::spawn(async move { pour(&mut target.0, "row 1\n", &count).await });
    quiet().await;
    let held = taken.load(Ordering::SeqCst);
    assert!((LIMITS.backlog..=BOUND).contains(&held), "{held}");
    // And it is read on as the client takes what it was owed.
    let mut owed = vec![0; held * 2];
    agent.tls.read_exact(&mut owed).await.unwrap();
    assert!(taken.load(Ordering::SeqCst) >= held * 2);
    flood.abort();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_more_than_may_be_in_flight_is_not_read_without_end() {
    let mut stage = Stage::new();
    let (agent, target) = stage.open().await;
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    let mut tls = agent.tls;
    let flood = tokio::spawn(async move { pour(&mut tls, "select orders\n", &count).await });
    quiet().await;
    let held = taken.load(Ordering::SeqCst);
    assert!(held > 0 && held <= BOUND + 64 * 1024, "{held}");
    assert_eq!(stage.journal.events("command").len(), DEPTH);
    flood.abort();
    drop(target);
}

#[tokio::test(start_paused = true)]
async fn a_doomed_session_does_not_gather_what_its_client_still_sends() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    agent.say("select orders\n").await;
    target.line().await;
    stage.service.sessions.drain();
    quiet().await;
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    let mut tls = agent.tls;
    let flood = tokio::spawn(async move { pour(&mut tls, "select orders\n", &count).await });
    quiet().await;
    let held = taken.load(Ordering::SeqCst);
    assert!(held > 0 && held <= BOUND + 64 * 1024, "{held}");
    assert_eq!(stage.journal.events("command").len(), 1);
    flood.abort();
    drop(target);
}
