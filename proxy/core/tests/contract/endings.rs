//! How sessions end when a side dies, breaks the protocol, or panics.
//!
//! Owns nothing else. Touches memory only. Invariant: a command that was recorded gets an outcome, whatever
//! happens.

use std::time::Duration;

use sallyport_core::ports::Event;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::support::stage::{BOT, LIMITS, Stage, quiet};
use crate::support::toy::{DEPTH, LONGEST};

fn unknown() -> [(u64, String); 1] {
    [(1, "unknown".to_owned())]
}

fn completed() -> [(u64, String); 1] {
    [(1, "completed".to_owned())]
}

#[tokio::test(start_paused = true)]
async fn a_target_that_dies_idle_ends_the_session_cleanly() {
    let mut stage = Stage::new();
    let (mut agent, target) = stage.open().await;
    drop(target);
    assert_eq!(agent.last_line().await, "bye the target closed the connection");
}

#[tokio::test(start_paused = true)]
async fn a_target_that_dies_in_a_command_ends_the_session_cleanly_with_an_unknown_outcome() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    agent.say("select orders\n").await;
    target.line().await;
    target.say("row 1\n").await;
    drop(target);
    assert_eq!(agent.line().await.unwrap(), "row 1");
    assert_eq!(agent.last_line().await, "bye the target closed the connection");
    agent.ended().await;
    assert_eq!(stage.journal.outcomes(), unknown());
    assert_eq!(stage.journal.events("close").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_dies_in_the_middle_of_a_message_ends_the_session() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    agent.say("select orders\n").await;
    target.line().await;
    target.say("ok wi").await;
    quiet().await;
    drop(target);
    assert_eq!(agent.last_line().await, "bye the target closed the connection");
    agent.ended().await;
    assert_eq!(stage.journal.outcomes(), unknown());
}

#[tokio::test(start_paused = true)]
async fn an_answer_before_the_target_breaks_the_protocol_still_counts() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    agent.say("select orders\n").await;
    target.line().await;
    target.say("ok 1\nnonsense from orders-db.internal\n").await;
    assert_eq!(agent.line().await.unwrap(), "ok 1");
    assert_eq!(agent.last_line().await, "bye the target broke the protocol");
    agent.ended().await;
    assert_eq!(stage.journal.outcomes(), completed());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_dies_in_a_command_leaves_its_outcome_recorded() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    agent.say("insert orders\n").await;
    target.line().await;
    drop(agent.tls);
    quiet().await;
    target.say("ok 1\n").await;
    assert_eq!(target.rest().await, "quit\n");
    agent.task.await.unwrap();
    assert_eq!(stage.journal.outcomes(), completed());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_dies_in_an_endless_command_leaves_an_unknown_outcome_after_the_deadline() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    agent.say("insert orders\n").await;
    target.line().await;
    let took = agent.ended().await;
    assert!(took >= LIMITS.parting && took < LIMITS.parting * 2 + Duration::from_secs(1), "{took:?}");
    assert_eq!(stage.journal.outcomes(), unknown());
    assert_eq!(target.rest().await, "");
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_lay_unread_when_the_client_died_is_recorded() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    agent.say("insert orders\n").await;
    target.line().await;
    // More than the client's side takes, so that the answer's end waits in the proxy or before it.
    let flood = tokio::spawn(async move {
        let rows = format!("row {}\n", "x".repeat(1000)).repeat(400);
        target.0.write_all(rows.as_bytes()).await.unwrap();
        target.say("ok 400\n").await;
        target
    });
    quiet().await;
    assert!(!flood.is_finished());
    drop(agent.tls);
    let target = flood.await.unwrap();
    assert_eq!(target.rest().await, "quit\n");
    agent.task.await.unwrap();
    assert_eq!(stage.journal.outcomes(), completed());
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_right_after_commands_lets_them_finish() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    agent.say("insert orders\nquit\n").await;
    assert_eq!(target.line().await.unwrap(), "insert orders");
    target.say("ok 1\n").await;
    assert_eq!(target.rest().await, "quit\n");
    agent.task.await.unwrap();
    assert_eq!(stage.journal.outcomes(), completed());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_is_noticed_although_no_more_of_its_commands_fit() {
    let mut stage = Stage::new();
    let (mut agent, target) = stage.open().await;
    agent.say(&"select orders\n".repeat(DEPTH)).await;
    quiet().await;
    let took = agent.ended().await;
    assert!(took < LIMITS.parting * 2 + Duration::from_secs(1), "{took:?}");
    drop(target);
}

#[tokio::test(start_paused = true)]
async fn an_oversized_message_ends_the_session_with_its_cause() {
    let mut stage = Stage::new();
    let (mut agent, target) = stage.open().await;
    agent.say(&"x".repeat(LONGEST + 1)).await;
    assert_eq!(agent.last_line().await, "bye the message is too long");
    agent.ended().await;
    assert_eq!(target.rest().await, "quit\n");
}

#[tokio::test(start_paused = true)]
async fn the_cause_reaches_a_client_that_is_still_sending() {
    let mut stage = Stage::new();
    let (mut agent, _target) = stage.open().await;
    agent.say(&"x".repeat(LONGEST + 1)).await;
    quiet().await;
    // The server has ended its side by now. Were it gone, these bytes would meet a closed socket, whose
    // reset takes the last words with it.
    agent.tls.write_all(&[b'x'; 4096]).await.expect("the server reads on");
    agent.tls.flush().await.expect("the server reads on");
    assert_eq!(agent.last_line().await, "bye the message is too long");
    assert_eq!(agent.ended().await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn commands_before_an_oversized_message_get_their_answers_first() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    agent.say("insert orders\n").await;
    agent.say(&"x".repeat(LONGEST + 1)).await;
    assert_eq!(target.line().await.unwrap(), "insert orders");
    quiet().await;
    target.say("ok 1\n").await;
    assert_eq!(agent.line().await.unwrap(), "ok 1");
    assert_eq!(agent.last_line().await, "bye the message is too long");
    agent.ended().await;
    assert_eq!(stage.journal.outcomes(), completed());
    assert_eq!(target.rest().await, "quit\n");
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_not_the_protocol_get_one_clear_error_and_cost_the_target_nothing() {
    let stage = Stage::new();
    let mut agent = stage.arrive(&stage.authority.agent(&[BOT])).await;
    drop(agent.tls.shutdown().await);
    let mut served = stage.connect();
    served.io.write_all(b"GET / HTTP/1.1\n").await.unwrap();
    let mut told = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut served.io, &mut told).await.unwrap();
    assert_eq!(told, "no speak tls\n");
    drop(served.io);
    served.task.await.unwrap();
    assert_eq!(stage.journal.counted(Event::Refused("client")), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_one_conversation_ends_no_other_and_leaves_its_records_whole() {
    let mut stage = Stage::new();
    let (mut one, mut target_one) = stage.open().await;
    let (mut two, mut target_two) = stage.open().await;
    one.say("insert orders\n").await;
    target_one.line().await;
    one.say("boom\n").await;
    assert!(one.task.await.unwrap_err().is_panic());
    assert_eq!(stage.service.sessions.count(), 1);
    assert_eq!(stage.journal.outcomes(), unknown());
    assert_eq!(stage.journal.events("close").len(), 1);
    assert_eq!(stage.journal.counted(Event::Closed), 1);
    two.say("select orders\n").await;
    assert_eq!(target_two.line().await.unwrap(), "select orders");
    target_two.say("ok\n").await;
    assert_eq!(two.line().await.unwrap(), "ok");
    assert_eq!(target_one.rest().await, "");
}

#[tokio::test(start_paused = true)]
async fn a_session_cut_off_by_the_end_of_the_process_leaves_its_records_whole() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    agent.say("insert orders\n").await;
    target.line().await;
    agent.task.abort();
    quiet().await;
    assert_eq!(stage.journal.outcomes(), unknown());
    assert_eq!(stage.journal.events("close").len(), 1);
    assert_eq!(stage.service.sessions.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn farewells_wait_for_nobody_longer_than_the_parting_deadline() {
    let mut stage = Stage::new();
    let (agent, target) = stage.open().await;
    let since = Instant::now();
    stage.suspend();
    agent.task.await.unwrap();
    assert!(since.elapsed() <= LIMITS.parting + Duration::from_millis(1), "{:?}", since.elapsed());
    assert_eq!(target.rest().await, "quit\n");
}
