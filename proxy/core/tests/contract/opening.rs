//! How sessions are opened: claims about the first decision, the login, and what the client learns of both.
//!
//! Owns nothing else. Touches memory only. Invariant: what a client is told holds nothing of the target.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sallyport_core::PolicyFeed;
use sallyport_core::ports::Event;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::support::ports::Note;
use crate::support::stage::{ADDRESS, BOT, LIMITS, Stage, quiet};

#[tokio::test(start_paused = true)]
async fn nothing_reaches_the_target_before_the_opening_is_recorded() {
    let mut stage = Stage::new();
    let (_agent, _target) = stage.open().await;
    let notes = stage.journal.notes();
    let at = |wanted: &dyn Fn(&Note) -> bool| notes.iter().position(wanted).unwrap();
    let recorded = at(&|note| matches!(note, Note::Record { event, .. } if event["event"] == "open"));
    assert!(recorded < at(&|note| *note == Note::Dialled));
    assert!(at(&|note| *note == Note::Dialled) < at(&|note| matches!(note, Note::Sent(_))));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_not_spoken_inside_tls_costs_the_target_nothing() {
    let stage = Stage::new();
    let mut served = stage.connect();
    served.io.write_all(b"tls\n").await.unwrap();
    quiet().await;
    assert_eq!(stage.journal.dials(), 0);
}

#[tokio::test(start_paused = true)]
async fn no_room_to_record_the_opening_means_no_session() {
    let stage = Stage::new();
    stage.records.full.store(true, Ordering::SeqCst);
    let mut agent = stage.arrive(&stage.authority.agent(&[BOT])).await;
    let told = agent.last_line().await;
    assert!(told.starts_with("no this must be recorded and there is no room"), "{told}");
    assert_eq!(stage.journal.dials(), 0);
    assert_eq!(stage.journal.counted(Event::RecordLost), 1);
}

#[tokio::test(start_paused = true)]
async fn before_there_is_a_policy_nobody_is_let_in() {
    let mut stage = Stage::new();
    std::sync::Arc::get_mut(&mut stage.service).unwrap().feed = PolicyFeed::default().into();
    let mut agent = stage.arrive(&stage.authority.agent(&[BOT])).await;
    assert_eq!(agent.last_line().await, "no this proxy has no policy yet: try again");
    assert_eq!(stage.journal.dials(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_missing_credential_is_told_without_its_name_and_closes_the_recording() {
    let stage = Stage::new();
    stage.vault.empty.store(true, Ordering::SeqCst);
    let mut agent = stage.arrive(&stage.authority.agent(&[BOT])).await;
    assert_eq!(agent.last_line().await, "no the target's credential is not available to this proxy");
    assert_eq!(stage.journal.dials(), 0);
    assert_eq!(stage.journal.events("close").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_cannot_be_reached_is_told_without_its_address() {
    let stage = Stage::new();
    stage.dialer.unreachable.store(true, Ordering::SeqCst);
    let mut agent = stage.arrive(&stage.authority.agent(&[BOT])).await;
    assert_eq!(agent.last_line().await, "no the target cannot be reached");
    assert!(!format!("{:?}", stage.journal.events("close")).contains(ADDRESS));
}

#[tokio::test(start_paused = true)]
async fn a_target_that_never_answers_the_login_is_given_up_at_the_deadline() {
    let mut stage = Stage::new();
    let mut agent = stage.arrive(&stage.authority.agent(&[BOT])).await;
    let _silent = stage.target().await;
    let since = Instant::now();
    assert_eq!(agent.last_line().await, "no the target did not answer in time");
    assert!(since.elapsed() >= LIMITS.login && since.elapsed() < LIMITS.login + Duration::from_secs(1));
    agent.ended().await;
    assert_eq!(stage.journal.events("close").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_refuses_the_login_is_told_without_its_words() {
    let mut stage = Stage::new();
    let mut agent = stage.arrive(&stage.authority.agent(&[BOT])).await;
    let mut target = stage.target().await;
    target.say("denied app from orders-db.internal\n").await;
    assert_eq!(agent.last_line().await, "no the target did not let this proxy in");
}

#[tokio::test(start_paused = true)]
async fn the_targets_password_stands_in_no_record_and_reaches_no_client() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    agent.say("select orders\n").await;
    target.line().await;
    target.say("ok 1\n").await;
    assert_eq!(agent.line().await.unwrap(), "ok 1");
    agent.quit().await;
    let recorded: Vec<_> =
        stage.journal.notes().into_iter().filter(|note| matches!(note, Note::Record { .. })).collect();
    assert_eq!(recorded.len(), 4);
    assert!(!format!("{recorded:?}").contains(crate::support::ports::PASSWORD));
}
