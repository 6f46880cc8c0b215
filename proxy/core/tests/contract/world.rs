//! What a changed world does to open sessions: suspension, revocation, policy, drain and interrupt.
//!
//! Owns nothing else. Touches memory only. Invariant: "at once" means that no time passes, which paused time
//! shows exactly.

use std::time::Duration;

use sallyport_policy::{Effect, Member};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::support::stage::{BOT, Stage, bundle, member, quiet, roster};

#[tokio::test(start_paused = true)]
async fn a_policy_change_acts_on_the_next_command_of_an_open_session() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    agent.say("select orders\n").await;
    target.line().await;
    target.say("ok\n").await;
    assert_eq!(agent.line().await.unwrap(), "ok");
    let mut changed = bundle();
    changed.policies[0].rules[0].effect = Effect::Deny;
    let changed = changed.sealed();
    let revision = changed.revision.clone();
    stage.service.feed.publish_bundle(changed);
    agent.say("select orders\n").await;
    assert_eq!(agent.line().await.unwrap(), "refused refused by policy bots, rule work");
    assert_eq!(stage.journal.events("command")[1]["revision"], revision.as_str());
    agent.quit().await;
    assert_eq!(target.rest().await, "quit\n");
}

#[tokio::test(start_paused = true)]
async fn suspension_ends_an_idle_session_at_once() {
    let mut stage = Stage::new();
    let (mut agent, target) = stage.open().await;
    let since = Instant::now();
    stage.suspend();
    assert_eq!(agent.last_line().await, "bye this identity is suspended");
    assert_eq!(since.elapsed(), Duration::ZERO);
    agent.ended().await;
    assert_eq!(target.rest().await, "quit\n");
    assert_eq!(stage.journal.events("close")[0]["reason"], "this identity is suspended");
}

#[tokio::test(start_paused = true)]
async fn suspension_ends_a_running_session_after_its_command_whose_outcome_is_recorded() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    agent.say("select orders\n").await;
    target.line().await;
    stage.suspend();
    agent.say("select items\n").await;
    quiet().await;
    target.say("ok 3\n").await;
    assert_eq!(agent.line().await.unwrap(), "ok 3");
    assert_eq!(agent.last_line().await, "bye this identity is suspended");
    agent.ended().await;
    assert_eq!(target.rest().await, "quit\n");
    assert_eq!(stage.journal.outcomes(), [(1, "completed".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_races_the_suspension_is_refused() {
    let mut stage = Stage::new();
    let (mut agent, target) = stage.open().await;
    // Both are there before the session's task runs again.
    agent.say("select orders\n").await;
    stage.suspend();
    assert_eq!(agent.last_line().await, "bye this identity is suspended");
    agent.ended().await;
    assert_eq!(target.rest().await, "quit\n");
}

#[tokio::test(start_paused = true)]
async fn a_raised_min_not_before_ends_sessions_of_older_certificates() {
    let mut stage = Stage::new();
    let (mut agent, _target) = stage.open().await;
    stage.service.feed.publish_roster(roster(Member { min_not_before: 4_000_000_000, ..member() }));
    assert_eq!(agent.last_line().await, "bye this certificate was revoked: use a newer one");
}

#[tokio::test(start_paused = true)]
async fn a_credential_that_is_no_longer_granted_ends_the_session() {
    let mut stage = Stage::new();
    let (mut agent, _target) = stage.open().await;
    let mut changed = bundle();
    changed.policies.clear();
    stage.service.feed.publish_bundle(changed.sealed());
    assert_eq!(agent.last_line().await, "bye no policy grants this identity anything here");
}

#[tokio::test(start_paused = true)]
async fn a_change_during_the_login_acts_before_any_command() {
    let mut stage = Stage::new();
    let shut = stage.dialer.open.try_acquire().unwrap();
    let leaf = stage.authority.agent(&[BOT]);
    let mut agent = stage.arrive(&leaf).await;
    agent.say("select orders\n").await;
    quiet().await;
    assert_eq!(stage.journal.dials(), 1);
    stage.suspend();
    drop(shut);
    let mut target = stage.target().await;
    target.let_in("key").await;
    agent.greeted().await;
    assert_eq!(agent.last_line().await, "bye this identity is suspended");
    agent.ended().await;
    assert_eq!(target.rest().await, "quit\n");
}

#[tokio::test(start_paused = true)]
async fn drain_ends_idle_sessions_at_once() {
    let mut stage = Stage::new();
    let (mut agent, target) = stage.open().await;
    stage.service.sessions.drain();
    assert_eq!(agent.last_line().await, "bye this proxy is going away: connect again");
    agent.ended().await;
    assert_eq!(target.rest().await, "quit\n");
}

#[tokio::test(start_paused = true)]
async fn drain_lets_a_running_command_finish_first() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    agent.say("select orders\n").await;
    target.line().await;
    stage.service.sessions.drain();
    tokio::time::sleep(Duration::from_secs(1800)).await;
    target.say("ok\n").await;
    assert_eq!(agent.line().await.unwrap(), "ok");
    assert_eq!(agent.last_line().await, "bye this proxy is going away: connect again");
    agent.ended().await;
    assert_eq!(stage.journal.outcomes(), [(1, "completed".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_logs_in_while_draining_is_ended() {
    let mut stage = Stage::new();
    stage.service.sessions.drain();
    let (mut agent, _target) = stage.open().await;
    assert_eq!(agent.last_line().await, "bye this proxy is going away: connect again");
}

#[tokio::test(start_paused = true)]
async fn suspension_is_told_even_when_draining_came_after_it() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    agent.say("select orders\n").await;
    target.line().await;
    stage.suspend();
    quiet().await;
    stage.service.sessions.drain();
    quiet().await;
    target.say("ok\n").await;
    assert_eq!(agent.line().await.unwrap(), "ok");
    assert_eq!(agent.last_line().await, "bye this identity is suspended");
}

#[tokio::test(start_paused = true)]
async fn a_doomed_session_ends_although_its_target_keeps_an_answer_back() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    agent.say("hold select orders\n").await;
    assert_eq!(target.line().await.unwrap(), "hold select orders");
    stage.suspend();
    // The client's own `go` would be refused now: the proxy says it, with a constant.
    assert_eq!(target.line().await.unwrap(), "go");
    target.say("ok\n").await;
    assert_eq!(agent.line().await.unwrap(), "ok");
    assert_eq!(agent.last_line().await, "bye this identity is suspended");
    agent.ended().await;
    assert_eq!(stage.journal.outcomes(), [(1, "completed".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_session_counts_as_open_until_its_last_record_is_written() {
    let mut stage = Stage::new();
    let (agent, _target) = stage.open().await;
    stage.service.sessions.drain();
    quiet().await;
    // Its client has not closed its side yet: the session is parting.
    assert_eq!((stage.service.sessions.count(), stage.journal.events("close").len()), (1, 0));
    agent.ended().await;
    assert_eq!((stage.service.sessions.count(), stage.journal.events("close").len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_reaches_only_its_own_session() {
    let mut stage = Stage::new();
    let (mut one, mut target_one) = stage.open().await;
    let (mut two, mut target_two) = stage.open().await;
    one.say("select one\n").await;
    two.say("select two\n").await;
    target_one.line().await;
    target_two.line().await;
    let mut request = stage.connect();
    request.io.write_all(format!("interrupt {}\n", two.session).as_bytes()).await.unwrap();
    let mut interrupt = stage.target().await;
    assert_eq!(interrupt.line().await.unwrap(), "interrupt key-2");
    drop(interrupt);
    quiet().await;
    assert_eq!(stage.journal.dials(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_of_an_idle_or_unknown_session_dials_nobody() {
    let mut stage = Stage::new();
    let (agent, _target) = stage.open().await;
    for session in [agent.session.as_str(), "ffffffffffffffffffffffffffffffff", "x"] {
        let mut request = stage.connect();
        request.io.write_all(format!("interrupt {session}\n").as_bytes()).await.unwrap();
        request.task.await.unwrap();
    }
    quiet().await;
    assert_eq!(stage.journal.dials(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_interrupts_opens_one_connection_at_a_time() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = stage.open().await;
    agent.say("select orders\n").await;
    target.line().await;
    for _ in 0..50 {
        let mut request = stage.connect();
        request.io.write_all(format!("interrupt {}\n", agent.session).as_bytes()).await.unwrap();
        request.task.await.unwrap();
        quiet().await;
    }
    assert_eq!(stage.journal.dials(), 2);
    // The last of those that were not sent is owed: the first may have come before what it was meant for.
    drop(stage.target().await);
    let mut again = stage.target().await;
    assert_eq!(again.line().await.unwrap(), "interrupt key-1");
    drop(again);
    quiet().await;
    assert_eq!(stage.journal.dials(), 3);
}
