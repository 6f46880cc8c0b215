//! Records that must be on disk: claims about what waits for them, and what does not.
//!
//! Owns nothing else. Touches memory only. Invariant: the disk answers only when a claim lets it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sallyport_core::ports::{Event, RecordFault};
use sallyport_policy::{Bundle, Durability, OnFailure, Recording, RecordingLevel};

use crate::support::ports::Note;
use crate::support::stage::{Agent, BOT, Stage, Target, bundle, quiet};

fn recording(durability: Durability, on_failure: OnFailure) -> Bundle {
    let recording = Recording { durability, on_failure, ..Recording::at(RecordingLevel::Commands) };
    Bundle { recording, ..bundle() }.sealed()
}

fn gone() -> Result<(), RecordFault> {
    Err(RecordFault("the disk is gone".into()))
}

/// A stage whose records must be on disk, and a session whose opening is.
async fn open(on_failure: OnFailure) -> (Stage, Agent, Target) {
    let mut stage = Stage::new();
    stage.service.feed.publish_bundle(recording(Durability::Synced, on_failure));
    let mut agent = stage.arrive(&stage.authority.agent(&[BOT])).await;
    quiet().await;
    stage.records.answer(Ok(()));
    let mut target = stage.target().await;
    target.let_in("key").await;
    agent.greeted().await;
    (stage, agent, target)
}

fn sent(stage: &Stage) -> String {
    let sent = stage.journal.notes().into_iter().filter_map(|note| match note {
        Note::Sent(bytes) => Some(bytes),
        _ => None,
    });
    sent.skip(1).collect()
}

#[tokio::test(start_paused = true)]
async fn the_target_is_not_dialled_before_the_opening_is_on_disk() {
    let stage = Stage::new();
    stage.service.feed.publish_bundle(recording(Durability::Synced, OnFailure::Refuse));
    let _agent = stage.arrive(&stage.authority.agent(&[BOT])).await;
    quiet().await;
    assert_eq!((stage.journal.events("open").len(), stage.journal.dials()), (1, 0));
    stage.records.answer(Ok(()));
    quiet().await;
    assert_eq!(stage.journal.dials(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_opening_that_is_not_brought_to_the_disk_is_refused() {
    for (on_failure, dials) in [(OnFailure::Refuse, 0), (OnFailure::Continue, 1)] {
        let stage = Stage::new();
        stage.service.feed.publish_bundle(recording(Durability::Synced, on_failure));
        let mut agent = stage.arrive(&stage.authority.agent(&[BOT])).await;
        quiet().await;
        stage.records.answer(gone());
        if on_failure == OnFailure::Refuse {
            let last = agent.last_line().await;
            assert!(last.contains("there is no room"), "{last}");
        }
        quiet().await;
        assert_eq!((stage.journal.dials(), stage.journal.counted(Event::RecordLost)), (dials, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn no_byte_of_a_command_reaches_the_target_before_its_record_is_on_disk() {
    let (stage, mut agent, mut target) = open(OnFailure::Refuse).await;
    agent.say("select one\nselect two\nselect three\n").await;
    quiet().await;
    // All of them are recorded and wait together.
    assert_eq!((stage.journal.events("command").len(), sent(&stage).as_str()), (3, ""));
    stage.records.answer(Ok(()));
    stage.records.answer(Ok(()));
    quiet().await;
    assert_eq!(sent(&stage), "select one\nselect two\n");
    stage.records.answer(Ok(()));
    quiet().await;
    assert_eq!(sent(&stage), "select one\nselect two\nselect three\n");
    for expected in ["select one", "select two", "select three"] {
        assert_eq!(target.line().await.unwrap(), expected);
    }
    target.say("ok 1\nok 2\nok 3\n").await;
    for expected in ["ok 1", "ok 2", "ok 3"] {
        assert_eq!(agent.line().await.unwrap(), expected);
    }
    agent.quit().await;
    assert_eq!(target.rest().await, "quit\n");
}

#[tokio::test(start_paused = true)]
async fn what_needs_no_record_does_not_overtake_what_waits_for_one() {
    let (stage, mut agent, mut target) = open(OnFailure::Refuse).await;
    agent.say("select one\n").await;
    quiet().await;
    // Another bundle: nothing is recorded any more, and the one before still waits.
    stage.service.feed.publish_bundle(Bundle { recording: Recording::at(RecordingLevel::None), ..bundle() }.sealed());
    agent.say("select two\n").await;
    quiet().await;
    assert_eq!(sent(&stage), "");
    stage.records.answer(Ok(()));
    assert_eq!(target.line().await.unwrap(), "select one");
    assert_eq!(target.line().await.unwrap(), "select two");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_not_brought_to_the_disk_ends_the_session_and_the_target_sees_nothing() {
    let (stage, mut agent, target) = open(OnFailure::Refuse).await;
    agent.say("insert one\ninsert two\n").await;
    quiet().await;
    stage.records.answer(gone());
    let last = agent.last_line().await;
    assert!(last.contains("there is no room"), "{last}");
    assert_eq!(target.rest().await, "", "no byte of either");
    agent.ended().await;
    let unknown = |number: u64| (number, "unknown".to_owned());
    assert_eq!(stage.journal.outcomes(), [unknown(1), unknown(2)]);
    assert_eq!(stage.journal.counted(Event::RecordLost), 1);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_never_answers_ends_the_session() {
    let (stage, mut agent, target) = open(OnFailure::Refuse).await;
    agent.say("insert one\n").await;
    let last = agent.last_line().await;
    assert!(last.contains("there is no room"), "{last}");
    assert_eq!(target.rest().await, "");
    let took = agent.ended().await;
    assert!(took < Duration::from_secs(60), "{took:?}");
    drop(stage);
}

#[tokio::test(start_paused = true)]
async fn where_the_target_goes_on_a_lost_record_is_counted_and_the_command_runs() {
    for durability in [Durability::Written, Durability::Synced] {
        let (stage, mut agent, mut target) = open(OnFailure::Continue).await;
        stage.service.feed.publish_bundle(recording(durability, OnFailure::Continue));
        stage.records.full.store(true, Ordering::SeqCst);
        agent.say("select one\n").await;
        assert_eq!(target.line().await.unwrap(), "select one");
        target.say("ok\n").await;
        assert_eq!(agent.line().await.unwrap(), "ok");
        assert!(stage.journal.counted(Event::RecordLost) >= 1);
        stage.records.full.store(false, Ordering::SeqCst);
        if durability == Durability::Synced {
            agent.say("select two\n").await;
            quiet().await;
            stage.records.answer(gone());
            assert_eq!(target.line().await.unwrap(), "select two");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_does_not_keep_its_command_from_running() {
    let (stage, mut agent, mut target) = open(OnFailure::Refuse).await;
    agent.say("insert one\nquit\n").await;
    quiet().await;
    assert_eq!(sent(&stage), "");
    stage.records.answer(Ok(()));
    assert_eq!(target.line().await.unwrap(), "insert one");
    target.say("ok 1\n").await;
    agent.ended().await;
    assert_eq!(stage.journal.outcomes(), [(1, "completed".to_owned())]);
}
