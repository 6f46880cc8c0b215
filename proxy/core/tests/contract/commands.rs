//! What becomes of commands: claims about refusals, records and the order of both.
//!
//! Owns nothing else. Touches memory only. Invariant: what the target saw is compared as bytes, whole.

use std::sync::atomic::Ordering;

use sallyport_core::ports::Event;
use sallyport_policy::{Bundle, Recording, RecordingLevel};

use crate::support::ports::Note;
use crate::support::stage::{Stage, bundle, quiet};
use crate::support::toy::DEPTH;

fn unrecorded() -> Bundle {
    Bundle { recording: Recording::at(RecordingLevel::None), ..bundle() }.sealed()
}

#[tokio::test(start_paused = true)]
async fn an_allowed_command_reaches_the_target_byte_for_byte_and_its_answer_comes_back() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    agent.say("select orders\n").await;
    assert_eq!(target.line().await.unwrap(), "select orders");
    target.say("row 1 shoes\nok 1\n").await;
    assert_eq!(agent.line().await.unwrap(), "row 1 shoes");
    assert_eq!(agent.line().await.unwrap(), "ok 1");
    agent.quit().await;
    assert_eq!(target.rest().await, "quit\n");
    let outcome = &stage.journal.events("outcome")[0];
    assert_eq!((outcome["outcome"].as_str(), outcome["rows"].as_u64()), (Some("completed"), Some(1)));
}

#[tokio::test(start_paused = true)]
async fn a_refused_command_leaves_the_target_untouched_and_the_session_goes_on() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    agent.say("drop orders\n").await;
    assert_eq!(agent.line().await.unwrap(), "refused refused by policy bots, rule no-drop: ask the owner");
    agent.say("truncate orders\n").await;
    assert_eq!(agent.line().await.unwrap(), "refused no rule allows truncate on public.orders");
    agent.say("select orders\n").await;
    assert_eq!(target.line().await.unwrap(), "select orders");
    target.say("ok\n").await;
    assert_eq!(agent.line().await.unwrap(), "ok");
    agent.quit().await;
    assert_eq!(target.rest().await, "quit\n");
    let commands = stage.journal.events("command");
    let verdicts: Vec<_> = commands.iter().map(|event| event["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["deny", "deny", "allow"]);
    assert_eq!((commands[0]["rule"].as_str(), commands[0]["text"].as_str()), (Some("no-drop"), Some("drop orders")));
    assert_eq!(stage.journal.counted(Event::Denied), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_understood_is_refused_and_recorded_as_refused() {
    let mut stage = Stage::new();
    let (mut agent, target) = stage.open().await;
    agent.say("do what I mean\n").await;
    assert_eq!(agent.line().await.unwrap(), "refused a command is a verb and a table");
    agent.quit().await;
    assert_eq!(target.rest().await, "quit\n");
    let command = &stage.journal.events("command")[0];
    assert_eq!((command["verdict"].as_str(), command["text"].as_str()), (Some("deny"), Some("do what I mean")));
}

#[tokio::test(start_paused = true)]
async fn a_command_is_recorded_before_any_byte_of_it_reaches_the_target() {
    let mut stage = Stage::new();
    let (mut agent, _target) = stage.open().await;
    agent.say("select one\nselect two\ninsert three\n").await;
    quiet().await;
    let notes = stage.journal.notes();
    let mut recorded = String::new();
    let mut sent = String::new();
    for note in notes.iter().skip_while(|note| !matches!(note, Note::Sent(_))).skip(1) {
        match note {
            Note::Record { event, .. } => recorded += &format!("{}\n", event["text"].as_str().unwrap()),
            Note::Sent(bytes) => {
                sent += bytes;
                assert!(recorded.starts_with(&sent), "{sent:?} was sent when only {recorded:?} was recorded");
            }
            _ => {}
        }
    }
    assert_eq!(sent, "select one\nselect two\ninsert three\n");
}

#[tokio::test(start_paused = true)]
async fn without_room_to_record_commands_are_refused_until_there_is_room_again() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    stage.records.full.store(true, Ordering::SeqCst);
    agent.say("select orders\n").await;
    let refusal = agent.line().await.unwrap();
    assert!(refusal.starts_with("refused this must be recorded and there is no room"), "{refusal}");
    assert_eq!((stage.journal.counted(Event::Allowed), stage.journal.counted(Event::Denied)), (0, 1));
    stage.records.full.store(false, Ordering::SeqCst);
    agent.say("select items\n").await;
    assert_eq!(target.line().await.unwrap(), "select items");
    target.say("ok\n").await;
    assert_eq!(agent.line().await.unwrap(), "ok");
    agent.quit().await;
    assert_eq!(target.rest().await, "quit\n");
}

#[tokio::test(start_paused = true)]
async fn a_lost_record_leaves_a_gap_in_the_sequence() {
    let mut stage = Stage::new();
    let (mut agent, _target) = stage.open().await;
    stage.records.full.store(true, Ordering::SeqCst);
    agent.say("select orders\n").await;
    agent.line().await;
    stage.records.full.store(false, Ordering::SeqCst);
    agent.quit().await;
    let sequence = stage.journal.notes().into_iter().filter_map(|note| match note {
        Note::Record { sequence, .. } => Some(sequence),
        _ => None,
    });
    assert_eq!(sequence.collect::<Vec<_>>(), [0, 2]);
}

#[tokio::test(start_paused = true)]
async fn pipelined_commands_are_answered_in_order_with_a_refusal_in_the_middle() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    agent.say("select one\ndrop two\nselect three\n").await;
    assert_eq!(target.line().await.unwrap(), "select one");
    assert_eq!(target.line().await.unwrap(), "select three");
    target.say("ok 1\nerr 42\n").await;
    assert_eq!(agent.line().await.unwrap(), "ok 1");
    assert!(agent.line().await.unwrap().starts_with("refused refused by policy bots"));
    assert_eq!(agent.line().await.unwrap(), "err 42");
    agent.quit().await;
    assert_eq!(stage.journal.outcomes(), [(1, "completed".to_owned()), (3, "failed".to_owned())]);
    assert_eq!(stage.journal.events("outcome")[1]["code"], "42");
}

#[tokio::test(start_paused = true)]
async fn more_than_may_be_in_flight_waits_its_turn() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    agent.say(&"select orders\n".repeat(DEPTH + 2)).await;
    quiet().await;
    assert_eq!(stage.journal.events("command").len(), DEPTH);
    for _ in 0..DEPTH + 2 {
        assert_eq!(target.line().await.unwrap(), "select orders");
        target.say("ok\n").await;
        assert_eq!(agent.line().await.unwrap(), "ok");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_in_single_bytes_is_the_same_message() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    for byte in "select orders\n".chars() {
        agent.say(&byte.to_string()).await;
        quiet().await;
    }
    assert_eq!(target.line().await.unwrap(), "select orders");
    for byte in "ok 7\n".chars() {
        target.say(&byte.to_string()).await;
        quiet().await;
    }
    assert_eq!(agent.line().await.unwrap(), "ok 7");
    assert_eq!(stage.journal.events("outcome")[0]["rows"], 7);
}

#[tokio::test(start_paused = true)]
async fn an_outcome_is_recorded_whenever_its_command_was() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    agent.say("select recorded\n").await;
    target.line().await;
    stage.service.feed.publish_bundle(unrecorded());
    target.say("ok\n").await;
    assert_eq!(agent.line().await.unwrap(), "ok");
    agent.say("select unrecorded\n").await;
    target.line().await;
    stage.service.feed.publish_bundle(bundle());
    target.say("ok\n").await;
    assert_eq!(agent.line().await.unwrap(), "ok");
    agent.quit().await;
    assert_eq!(stage.journal.events("command").len(), 1);
    assert_eq!(stage.journal.outcomes(), [(1, "completed".to_owned())]);
}
