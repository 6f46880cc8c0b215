//! How much an agent may use of a replica: claims about sessions at once and commands a minute.
//!
//! Owns nothing else. Touches memory only. Invariant: what is over a limit never reaches the target, and is recorded with
//! the policy that sets the limit.

use std::time::Duration;

use sallyport_core::ports::Event;
use sallyport_policy::{FleetTerms, SessionTerms};
use tokio::time::sleep;

use crate::support::stage::{Agent, BOT, Stage, Target, quiet};

const FULL: &str =
    "this agent has as many sessions open here as policy bots lets it (2): close one, or try again later";
const FAST: &str = "this agent has run as many commands here as policy bots lets it (3 a minute): try again in";

fn sessions(most: u64) -> SessionTerms {
    SessionTerms { concurrent_sessions: Some(most), ..SessionTerms::default() }
}

fn commands(most: u64) -> SessionTerms {
    SessionTerms { commands_per_minute: Some(most), ..SessionTerms::default() }
}

async fn runs(agent: &mut Agent, target: &mut Target, command: &str) {
    agent.say(&format!("{command}\n")).await;
    assert_eq!(target.line().await.as_deref(), Some(command));
    target.say("ok\n").await;
    assert_eq!(agent.line().await.as_deref(), Some("ok"));
}

async fn refused(agent: &mut Agent, command: &str) -> String {
    agent.say(&format!("{command}\n")).await;
    agent.line().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn one_session_more_than_allowed_is_refused_and_recorded_and_a_closed_one_makes_room() {
    let mut stage = Stage::new();
    stage.demand(FleetTerms::default(), sessions(2));
    let (first, _target) = stage.open().await;
    let (_second, _other) = stage.open().await;
    let dials = stage.journal.dials();
    let mut third = stage.arrive(&stage.authority.agent(&[BOT])).await;
    assert_eq!(third.last_line().await, format!("no {FULL}"));
    assert_eq!(stage.journal.dials(), dials, "the target is not asked");
    let opened = stage.journal.events("open");
    assert_eq!((&opened[2]["verdict"], &opened[2]["policy"]), (&"deny".into(), &"bots".into()));
    assert_eq!(opened[2]["reason"], FULL);
    assert_eq!(stage.journal.counted(Event::Limited("concurrentSessions")), 1);
    first.quit().await;
    stage.open().await;
}

#[tokio::test(start_paused = true)]
async fn of_two_that_come_at_once_one_gets_the_last_place() {
    let mut stage = Stage::new();
    stage.demand(FleetTerms::default(), sessions(1));
    let leaf = stage.authority.agent(&[BOT]);
    let (mut one, mut other) = tokio::join!(stage.arrive(&leaf), stage.arrive(&leaf));
    // Neither is logged in yet: a session takes its place before that.
    let mut target = stage.target().await;
    quiet().await;
    assert_eq!(stage.journal.dials(), 1);
    target.let_in("key-1").await;
    let told = [one.line().await.unwrap(), other.line().await.unwrap()];
    assert_eq!(told.iter().filter(|line| line.starts_with("hello ")).count(), 1, "{told:?}");
    assert_eq!(told.iter().filter(|line| line.starts_with("no this agent has as many sessions")).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_never_logged_in_gives_its_place_back() {
    let mut stage = Stage::new();
    stage.demand(FleetTerms::default(), sessions(1));
    let mut failed = stage.arrive(&stage.authority.agent(&[BOT])).await;
    stage.target().await.say("go away\n").await;
    failed.last_line().await;
    failed.ended().await;
    stage.open().await;
}

#[tokio::test(start_paused = true)]
async fn a_lower_limit_leaves_open_sessions_alone_and_lets_no_other_in() {
    let mut stage = Stage::new();
    let (mut first, mut target) = stage.open().await;
    stage.open().await;
    stage.demand(FleetTerms::default(), sessions(1));
    runs(&mut first, &mut target, "select orders").await;
    let mut late = stage.arrive(&stage.authority.agent(&[BOT])).await;
    assert!(late.last_line().await.starts_with("no this agent has as many sessions open"));
}

#[tokio::test(start_paused = true)]
async fn commands_beyond_the_pace_are_refused_in_their_turn_and_come_back_with_time() {
    let mut stage = Stage::new();
    stage.demand(FleetTerms::default(), commands(3));
    let (mut agent, mut target) = stage.open().await;
    for _ in 0..3 {
        runs(&mut agent, &mut target, "select orders").await;
    }
    assert_eq!(refused(&mut agent, "select orders").await, format!("refused {FAST} 20 s"));
    sleep(Duration::from_secs(12)).await;
    assert_eq!(refused(&mut agent, "select orders").await, format!("refused {FAST} 8 s"));
    let judged = stage.journal.events("command");
    assert_eq!((&judged[3]["verdict"], &judged[3]["policy"]), (&"deny".into(), &"bots".into()));
    assert_eq!(stage.journal.counted(Event::Limited("commandsPerMinute")), 2);
    // What is refused spends nothing: the next comes when it was said to come.
    sleep(Duration::from_secs(8)).await;
    runs(&mut agent, &mut target, "select orders").await;
    agent.quit().await;
    assert_eq!(target.rest().await, "quit\n");
}

#[tokio::test(start_paused = true)]
async fn a_pace_is_the_agents_not_the_sessions() {
    let mut stage = Stage::new();
    stage.demand(FleetTerms::default(), commands(3));
    let (mut one, mut first) = stage.open().await;
    let (mut other, mut second) = stage.open().await;
    runs(&mut one, &mut first, "select orders").await;
    runs(&mut other, &mut second, "select orders").await;
    runs(&mut one, &mut first, "select orders").await;
    assert!(refused(&mut other, "select orders").await.contains(FAST));
    one.quit().await;
    other.quit().await;
    let (mut again, _target) = stage.open().await;
    assert!(refused(&mut again, "select orders").await.contains(FAST));
}

#[tokio::test(start_paused = true)]
async fn a_refused_try_is_paid_for_and_a_suspended_agent_hears_of_that_first() {
    let mut stage = Stage::new();
    stage.demand(FleetTerms::default(), commands(3));
    let (mut agent, _target) = stage.open().await;
    for _ in 0..3 {
        assert!(refused(&mut agent, "drop orders").await.contains("no-drop"));
    }
    assert!(refused(&mut agent, "drop orders").await.contains(FAST));
    stage.suspend();
    assert_eq!(refused(&mut agent, "drop orders").await, "bye this identity is suspended");
}

#[tokio::test(start_paused = true)]
async fn an_open_transaction_can_be_concluded_at_any_pace() {
    let mut stage = Stage::new();
    stage.demand(FleetTerms::default(), commands(2));
    let (mut agent, mut target) = stage.open().await;
    runs(&mut agent, &mut target, "begin").await;
    runs(&mut agent, &mut target, "insert orders").await;
    assert!(refused(&mut agent, "insert orders").await.contains("lets it (2 a minute)"));
    runs(&mut agent, &mut target, "end").await;
    // With nothing open there is nothing to conclude.
    assert!(refused(&mut agent, "end").await.contains("lets it (2 a minute)"));
}

#[tokio::test(start_paused = true)]
async fn a_changed_pace_holds_for_open_sessions() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    for _ in 0..20 {
        runs(&mut agent, &mut target, "select orders").await;
    }
    stage.demand(FleetTerms::default(), commands(3));
    for _ in 0..3 {
        runs(&mut agent, &mut target, "select orders").await;
    }
    assert!(refused(&mut agent, "select orders").await.contains(FAST));
    stage.demand(FleetTerms::default(), SessionTerms::default());
    runs(&mut agent, &mut target, "select orders").await;
}
