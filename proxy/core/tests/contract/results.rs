//! Results that are recorded: claims about what is on record before a client sees it, and what happens where it cannot be.
//!
//! Owns nothing else. Touches memory only. Invariant: what an agent has read is in the journal.

use std::sync::atomic::Ordering;

use sallyport_core::ports::Event;
use sallyport_policy::{Bundle, Durability, OnFailure, Recording, RecordingLevel};

use crate::support::ports::Note;
use crate::support::stage::{BOT, Stage, bundle, quiet};

fn full(on_failure: OnFailure) -> Bundle {
    let recording = Recording { on_failure, ..Recording::at(RecordingLevel::Full) };
    Bundle { recording, ..bundle() }.sealed()
}

/// The events of a session in their order, each with what it is about.
fn told(stage: &Stage) -> Vec<String> {
    let events = stage.journal.notes().into_iter().filter_map(|note| match note {
        Note::Record { event, .. } => Some(event),
        _ => None,
    });
    let word = |event: serde_json::Value| match event["event"].as_str().unwrap() {
        "data" => format!("{} sent {}", event["command"], event["sent"][0].as_str().unwrap()),
        "result" => format!("{} {}", event["command"], event["lines"][0].as_str().unwrap()),
        "outcome" => format!("{} {}", event["command"], event["outcome"].as_str().unwrap()),
        other => other.to_owned(),
    };
    events.map(word).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_shown_is_on_record_in_its_place_and_only_where_it_is_demanded() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    agent.say("select one\n").await;
    target.line().await.unwrap();
    // Demanded from the next command on.
    stage.service.feed.publish_bundle(full(OnFailure::Refuse));
    target.say("row a\nok 1\n").await;
    for expected in ["row a", "ok 1"] {
        assert_eq!(agent.line().await.unwrap(), expected);
    }
    agent.say("select two\nselect three\n").await;
    target.line().await.unwrap();
    target.line().await.unwrap();
    target.say("row b\nrow c\nok 2\nrow d\nok 1\n").await;
    for expected in ["row b", "row c", "ok 2", "row d", "ok 1"] {
        assert_eq!(agent.line().await.unwrap(), expected);
    }
    let expected =
        ["open", "command", "1 completed", "command", "command", "2 b", "2 c", "2 completed", "3 d", "3 completed"];
    assert_eq!(told(&stage), expected);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_recorded_is_seen_by_nobody_and_ends_the_session() {
    let mut stage = Stage::new();
    stage.service.feed.publish_bundle(full(OnFailure::Refuse));
    let (mut agent, mut target) = stage.open().await;
    agent.say("select one\n").await;
    target.line().await.unwrap();
    target.say("row seen\n").await;
    assert_eq!(agent.line().await.unwrap(), "row seen");
    stage.records.full.store(true, Ordering::SeqCst);
    target.say("row unseen\nok 2\n").await;
    let last = agent.last_line().await;
    assert!(last.contains("there is no room"), "{last}");
    agent.ended().await;
    assert!(stage.journal.counted(Event::RecordLost) >= 1);
    assert_eq!(target.rest().await, "quit\n", "its command had ended there");
}

#[tokio::test(start_paused = true)]
async fn what_a_client_sends_is_on_record_before_it_goes_on_or_goes_nowhere() {
    for durability in [Durability::Written, Durability::Synced] {
        let mut stage = Stage::new();
        let (mut agent, mut target) = stage.open().await;
        let recording = Recording { durability, ..Recording::at(RecordingLevel::Full) };
        stage.service.feed.publish_bundle(Bundle { recording, ..bundle() }.sealed());
        agent.say("insert one\n").await;
        quiet().await;
        if durability == Durability::Synced {
            stage.records.answer(Ok(()));
        }
        assert_eq!(target.line().await.unwrap(), "insert one");
        assert_eq!(told(&stage), ["open", "command", "1 sent one"]);
        stage.records.narrow.store(true, Ordering::SeqCst);
        agent.say("insert two\n").await;
        let last = agent.last_line().await;
        assert!(last.contains("there is no room"), "{last}");
        assert_eq!(target.rest().await, "", "no byte of it");
        agent.ended().await;
    }
}

#[tokio::test(start_paused = true)]
async fn where_the_target_goes_on_a_lost_result_is_counted_and_shown() {
    let mut stage = Stage::new();
    stage.service.feed.publish_bundle(full(OnFailure::Continue));
    let (mut agent, mut target) = stage.open().await;
    agent.say("select one\n").await;
    target.line().await.unwrap();
    stage.records.full.store(true, Ordering::SeqCst);
    target.say("row a\n").await;
    assert_eq!(agent.line().await.unwrap(), "row a");
    assert_eq!(stage.journal.counted(Event::RecordLost), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_client_that_has_left_is_not_shown_is_not_told_as_shown() {
    let mut stage = Stage::new();
    stage.service.feed.publish_bundle(full(OnFailure::Refuse));
    let (mut agent, mut target) = stage.open().await;
    agent.say("select one\nquit\n").await;
    target.line().await.unwrap();
    quiet().await;
    target.say("row a\nok 1\n").await;
    agent.ended().await;
    assert_eq!(told(&stage), ["open", "command", "1 completed", "close"]);
}

#[tokio::test(start_paused = true)]
async fn a_protocol_that_cannot_tell_lets_no_command_through() {
    let mut stage = Stage::new();
    stage.service.feed.publish_bundle(full(OnFailure::Refuse));
    let mut agent = stage.arrive(&stage.authority.agent(&[BOT])).await;
    let mut target = stage.target().await;
    target.let_in("blind").await;
    agent.greeted().await;
    agent.say("select one\n").await;
    let told = agent.line().await.unwrap();
    assert!(told.contains("results are to be recorded, which this protocol cannot do"), "{told}");
    drop(agent);
    assert_eq!(target.rest().await, "quit\n");
}
