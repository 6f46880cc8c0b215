//! A command that people are asked about: it waits, runs once when it may, and never otherwise.
//!
//! Owns nothing else. Touches memory only. Invariant: what a test calls "nothing went up" it reads off the target's end.

use std::time::Duration;

use sallyport_core::asking::Sheet;
use sallyport_core::ports::Event;
use sallyport_policy::{AskTerms, Bundle, Effect, Matcher, NotBy, Rule};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::support::stage::{Agent, Stage, Target, bundle, quiet};

const TERMS: AskTerms =
    AskTerms { approvals: 1, timeout_seconds: 600, validity_seconds: 3600, not_by: NotBy::ServiceAccounts };

/// The bundle of the suite, where `alter` is asked about.
fn asking(terms: AskTerms) -> Bundle {
    let mut bundle = bundle();
    let verbs = Some(vec!["alter".to_owned()]);
    bundle.policies[0].rules.push(Rule {
        name: "ddl".into(),
        effect: Effect::Ask(terms),
        message: Some("schema changes are reviewed".into()),
        matcher: Matcher { verbs, ..Matcher::default() },
        when: None,
    });
    bundle.sealed()
}

async fn stage(terms: AskTerms) -> (Stage, Agent, Target) {
    let mut stage = Stage::new();
    stage.service.feed.publish_bundle(asking(terms));
    let (agent, target) = stage.open().await;
    (stage, agent, target)
}

/// What the records say of the commands: verdict, request, number.
fn verdicts(stage: &Stage) -> Vec<String> {
    let told = |event: &serde_json::Value| {
        let request = event["request"].as_str().unwrap_or("-");
        format!("{} {} {request}", event["command"], event["verdict"].as_str().unwrap())
    };
    stage.journal.events("command").iter().map(told).collect()
}

#[tokio::test(start_paused = true)]
async fn an_approved_command_runs_once_and_in_its_place() {
    let (mut stage, mut agent, mut target) = stage(TERMS).await;
    agent.say("alter orders\nselect orders\n").await;
    let asking = stage.asked().await;
    let question = &asking.question;
    assert_eq!(
        (question.policy.as_str(), question.rule.as_str(), question.text.as_str()),
        ("bots", "ddl", "alter orders")
    );
    assert_eq!(question.agent.name(), "bot");
    assert_eq!(question.session, agent.session);
    assert_eq!(question.reason.as_deref(), Some("schema changes are reviewed"));
    asking.stands("q-1", &[]);
    let told = agent.line().await.unwrap();
    let expected = "note policy bots, rule ddl asks people about this command (schema changes are reviewed): waiting for 1 approval of access request q-1, for up to 600 s";
    assert_eq!(told, expected);
    // Nothing is decoded behind it, and nothing has gone up.
    assert_eq!(verdicts(&stage), ["1 ask q-1"]);
    asking.stands("q-1", &["+alice"]);
    assert_eq!(agent.line().await.unwrap(), "note access request q-1 was approved by alice");
    assert_eq!(target.line().await.unwrap(), "alter orders");
    assert_eq!(target.line().await.unwrap(), "select orders");
    target.say("ok 1\nok 2\n").await;
    assert_eq!((agent.line().await.unwrap(), agent.line().await.unwrap()), ("ok 1".into(), "ok 2".into()));
    assert_eq!(verdicts(&stage), ["1 ask q-1", "1 allow q-1", "2 allow -"]);
    assert_eq!(stage.journal.events("command")[1]["answeredBy"], serde_json::json!(["alice"]));
    assert_eq!(stage.journal.outcomes(), [(1, "completed".to_owned()), (2, "completed".to_owned())]);
    assert_eq!(stage.journal.counted(Event::Asked), 1);
    assert!(stage.desk.spent.lock().unwrap().contains("q-1"));
    asking.let_go().await;
    // The next of its kind is asked about anew.
    agent.say("alter orders\n").await;
    stage.asked().await.stands("q-2", &["-bob"]);
    assert!(agent.line().await.unwrap().ends_with("access request q-2 was denied by bob: not today"));
    agent.quit().await;
}

#[tokio::test(start_paused = true)]
async fn the_approval_is_used_up_before_a_byte_goes_up_and_the_record_comes_between() {
    let (mut stage, mut agent, mut target) = stage(TERMS).await;
    let shut = std::sync::Arc::clone(&stage.desk.open).acquire_owned().await.unwrap();
    agent.say("alter orders\n").await;
    stage.asked().await.stands("q-1", &["+alice"]);
    assert_eq!(agent.line().await.unwrap(), "note access request q-1 was approved by alice");
    quiet().await;
    assert_eq!(verdicts(&stage), ["1 ask q-1"]);
    assert!(stage.desk.spent.lock().unwrap().contains("q-1"));
    drop(shut);
    assert_eq!(target.line().await.unwrap(), "alter orders");
    assert_eq!(verdicts(&stage), ["1 ask q-1", "1 allow q-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_denied_command_is_refused_with_who_and_why_and_the_session_goes_on() {
    let (mut stage, mut agent, mut target) = stage(TERMS).await;
    agent.say("alter orders\nselect orders\n").await;
    let asking = stage.asked().await;
    asking.stands("q-1", &[]);
    agent.line().await.unwrap();
    // One denial denies, whoever approves.
    asking.stands("q-1", &["+alice", "-bob"]);
    let told = agent.line().await.unwrap();
    assert_eq!(
        told,
        "refused needs an approval by policy bots, rule ddl: access request q-1 was denied by bob: not today"
    );
    assert_eq!(target.line().await.unwrap(), "select orders");
    assert_eq!(verdicts(&stage), ["1 ask q-1", "1 deny q-1", "2 allow -"]);
    assert!(stage.desk.spent.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_quorum_is_of_different_people_and_programs_do_not_count() {
    let terms = AskTerms { approvals: 2, ..TERMS };
    let (mut stage, mut agent, mut target) = stage(terms).await;
    agent.say("alter orders\n").await;
    let asking = stage.asked().await;
    asking.stands("q-1", &[]);
    assert!(agent.line().await.unwrap().contains("waiting for 2 approvals of"));
    asking.stands("q-1", &["+alice", "+system:serviceaccount:ops:chat"]);
    assert!(agent.line().await.unwrap().contains("waiting for 1 approval of"));
    quiet().await;
    assert_eq!(verdicts(&stage), ["1 ask q-1"]);
    asking.stands("q-1", &["+alice", "+system:serviceaccount:ops:chat", "+bob"]);
    agent.line().await.unwrap();
    assert_eq!(target.line().await.unwrap(), "alter orders");
}

#[tokio::test(start_paused = true)]
async fn who_is_not_answered_in_time_is_refused_and_passes_once_when_it_comes_again() {
    let (mut stage, mut agent, mut target) = stage(AskTerms { timeout_seconds: 45, ..TERMS }).await;
    let since = Instant::now();
    agent.say("alter orders\n").await;
    let asking = stage.asked().await;
    asking.stands("q-1", &[]);
    agent.line().await.unwrap();
    // A connection that says nothing is one that many clients give up.
    assert_eq!(agent.line().await.unwrap(), "note still waiting for an answer to q-1, for up to 15 s");
    assert_eq!(since.elapsed(), Duration::from_secs(30));
    let told = agent.line().await.unwrap();
    assert_eq!(since.elapsed(), Duration::from_secs(45));
    assert!(
        told.starts_with(
            "refused needs an approval by policy bots, rule ddl: nobody has answered access request q-1 yet"
        ),
        "{told}"
    );
    assert!(told.contains("the same command passes, once: send it again"), "{told}");
    asking.let_go().await;
    agent.say("alter orders\n").await;
    stage.asked().await.stands("q-1", &["+alice"]);
    agent.line().await.unwrap();
    assert_eq!(target.line().await.unwrap(), "alter orders");
    assert_eq!(verdicts(&stage), ["1 ask q-1", "1 deny q-1", "2 ask q-1", "2 allow q-1"]);
}

#[tokio::test(start_paused = true)]
async fn two_that_race_for_one_approval_get_it_once() {
    let (mut stage, mut first, mut at_first) = stage(TERMS).await;
    let (mut second, mut at_second) = stage.open().await;
    first.say("alter orders\n").await;
    let one = stage.asked().await;
    one.stands("q-1", &[]);
    first.line().await.unwrap();
    second.say("alter orders\n").await;
    let two = stage.asked().await;
    two.stands("q-1", &[]);
    second.line().await.unwrap();
    one.stands("q-1", &["+alice"]);
    two.stands("q-1", &["+alice"]);
    first.line().await.unwrap();
    assert_eq!(at_first.line().await.unwrap(), "alter orders");
    second.line().await.unwrap();
    // The other asks anew, and waits for an answer of its own.
    let again = stage.asked().await;
    again.stands("q-2", &[]);
    assert!(second.line().await.unwrap().contains("access request q-2"));
    again.stands("q-2", &["+bob"]);
    second.line().await.unwrap();
    assert_eq!(at_second.line().await.unwrap(), "alter orders");
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_changed_meanwhile_wins_over_the_answer() {
    let (mut stage, mut agent, mut target) = stage(TERMS).await;
    agent.say("alter orders\n").await;
    let asking_first = stage.asked().await;
    asking_first.stands("q-1", &[]);
    agent.line().await.unwrap();
    // A change that leaves the rule as it is asks anew: an answer is for one revision.
    let mut changed = asking(TERMS);
    changed.policies[0].rules[0].message = Some("another".into());
    stage.service.feed.publish_bundle(changed.sealed());
    let asking_again = stage.asked().await;
    asking_first.let_go().await;
    assert_ne!(asking_again.question.revision, "");
    asking_again.stands("q-2", &[]);
    agent.line().await.unwrap();
    // A change of something else in the world goes on with the same question.
    stage.service.feed.publish_roster(crate::support::stage::roster(crate::support::stage::member()));
    quiet().await;
    assert!(stage.nobody_asks());
    // Then the rule itself becomes a denial: the command is refused at once, whatever is answered.
    let mut denied = asking(TERMS);
    denied.policies[0].rules.last_mut().unwrap().effect = Effect::Deny;
    stage.service.feed.publish_bundle(denied.sealed());
    assert_eq!(agent.line().await.unwrap(), "refused refused by policy bots, rule ddl: schema changes are reviewed");
    asking_again.let_go().await;
    // And one that asks about it no more lets it through.
    stage.service.feed.publish_bundle(asking(TERMS));
    agent.say("alter items\n").await;
    let asking_last = stage.asked().await;
    asking_last.stands("q-3", &[]);
    agent.line().await.unwrap();
    let mut allowed = asking(TERMS);
    allowed.policies[0].rules.last_mut().unwrap().effect = Effect::Allow;
    stage.service.feed.publish_bundle(allowed.sealed());
    assert_eq!(target.line().await.unwrap(), "alter items");
    asking_last.let_go().await;
    assert!(stage.desk.spent.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_changes_while_the_approval_is_used_up_wins_too() {
    let (mut stage, mut agent, target) = stage(TERMS).await;
    let shut = std::sync::Arc::clone(&stage.desk.open).acquire_owned().await.unwrap();
    agent.say("alter orders\n").await;
    stage.asked().await.stands("q-1", &["+alice"]);
    agent.line().await.unwrap();
    let mut denied = asking(TERMS);
    denied.policies[0].rules.last_mut().unwrap().effect = Effect::Deny;
    stage.service.feed.publish_bundle(denied.sealed());
    quiet().await;
    drop(shut);
    assert!(agent.line().await.unwrap().starts_with("refused refused by policy bots, rule ddl"));
    agent.quit().await;
    assert_eq!(target.rest().await, "quit\n");
}

#[tokio::test(start_paused = true)]
async fn an_approval_that_was_used_up_for_a_session_that_ended_stays_used_up() {
    let (mut stage, mut agent, target) = stage(TERMS).await;
    let shut = std::sync::Arc::clone(&stage.desk.open).acquire_owned().await.unwrap();
    agent.say("alter orders\n").await;
    let asking = stage.asked().await;
    asking.stands("q-1", &["+alice"]);
    agent.line().await.unwrap();
    quiet().await;
    // It ends after the write and before its answer, as a proxy that dies there does.
    agent.task.abort();
    drop(shut);
    assert_eq!(target.rest().await, "");
    assert!(stage.desk.spent.lock().unwrap().contains("q-1"));
    let (mut agent, _target) = stage.open().await;
    agent.say("alter orders\n").await;
    let asking = stage.asked().await;
    asking.stands("q-1", &["+alice"]);
    agent.line().await.unwrap();
    stage.asked().await.stands("q-2", &["-bob"]);
    assert!(agent.line().await.unwrap().contains("access request q-2 was denied by bob"));
    assert_eq!(verdicts(&stage), ["1 ask q-1", "1 ask q-1", "1 ask q-2", "1 deny q-2"]);
}

#[tokio::test(start_paused = true)]
async fn who_is_suspended_while_it_waits_never_runs_it() {
    let (mut stage, mut agent, target) = stage(TERMS).await;
    agent.say("alter orders\n").await;
    let asking = stage.asked().await;
    asking.stands("q-1", &[]);
    agent.line().await.unwrap();
    let since = Instant::now();
    stage.suspend();
    assert_eq!(agent.last_line().await, "bye this identity is suspended");
    assert_eq!(since.elapsed(), Duration::ZERO);
    asking.stands("q-1", &["+alice"]);
    asking.let_go().await;
    assert_eq!(target.rest().await, "quit\n");
    assert!(stage.desk.spent.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_while_it_waits_never_runs_it() {
    let (mut stage, mut agent, target) = stage(TERMS).await;
    agent.say("alter orders\n").await;
    let asking = stage.asked().await;
    asking.stands("q-1", &[]);
    agent.line().await.unwrap();
    agent.tls.shutdown().await.unwrap();
    assert_eq!(agent.ended().await, Duration::ZERO);
    asking.stands("q-1", &["+alice"]);
    asking.let_go().await;
    assert_eq!(target.rest().await, "quit\n");
    assert_eq!(stage.journal.events("close")[0]["reason"], "the client left");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_used_up_for_a_client_that_has_left_when_the_answer_comes() {
    let (mut stage, mut agent, target) = stage(TERMS).await;
    agent.say("alter orders\n").await;
    let asking = stage.asked().await;
    asking.stands("q-1", &[]);
    agent.line().await.unwrap();
    // Both in the same moment, before the session runs again.
    drop(agent.tls);
    asking.stands("q-1", &["+alice"]);
    asking.let_go().await;
    assert_eq!(target.rest().await, "quit\n");
    assert!(stage.desk.spent.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_goes_away_lets_who_waits_go_at_once() {
    let (mut stage, mut agent, target) = stage(TERMS).await;
    agent.say("alter orders\n").await;
    let asking = stage.asked().await;
    asking.stands("q-1", &[]);
    agent.line().await.unwrap();
    let since = Instant::now();
    stage.service.sessions.drain();
    assert_eq!(agent.last_line().await, "bye this proxy is going away: connect again");
    assert_eq!(since.elapsed(), Duration::ZERO);
    asking.let_go().await;
    assert_eq!(target.rest().await, "quit\n");
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_time_is_up_does_not_wait_on() {
    let (mut stage, mut agent, target) = stage(TERMS).await;
    let mut bundle = asking(TERMS);
    bundle.policies[0].sessions.duration_seconds = Some(120);
    bundle.policies[0].sessions.idle_seconds = Some(20);
    stage.service.feed.publish_bundle(bundle.sealed());
    let since = Instant::now();
    agent.say("alter orders\n").await;
    let asking = stage.asked().await;
    asking.stands("q-1", &[]);
    loop {
        // Who waits for an answer is not idle.
        match agent.line().await.unwrap().strip_prefix("bye ") {
            Some(told) => break assert_eq!(told, "this session has lasted its 120 s: connect again"),
            None => assert!(since.elapsed() < Duration::from_secs(121)),
        }
    }
    agent.ended().await;
    asking.let_go().await;
    assert_eq!(target.rest().await, "quit\n");
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_wait_is_refused_and_the_session_goes_on() {
    let (mut stage, mut agent, mut target) = stage(TERMS).await;
    agent.say("alter orders\n").await;
    let asking = stage.asked().await;
    asking.stands("q-1", &[]);
    agent.line().await.unwrap();
    let mut interrupt = stage.connect();
    interrupt.io.write_all(format!("interrupt {}\n", agent.session).as_bytes()).await.unwrap();
    assert!(agent.line().await.unwrap().ends_with("cancelled while it waited for an approval"));
    asking.let_go().await;
    agent.say("select orders\n").await;
    assert_eq!(target.line().await.unwrap(), "select orders");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_asked_is_refused() {
    let (mut stage, mut agent, target) = stage(TERMS).await;
    agent.say("alter orders\n").await;
    let told = "nobody can be reached".to_owned();
    stage.asked().await.sheet.send_replace(Sheet::Failed { told });
    let refused = "refused needs an approval by policy bots, rule ddl: nobody can be reached";
    assert_eq!(agent.line().await.unwrap(), refused);
    // A desk that goes away in the middle.
    agent.say("alter orders\n").await;
    let asking = stage.asked().await;
    asking.stands("q-1", &[]);
    agent.line().await.unwrap();
    drop(asking);
    assert!(agent.line().await.unwrap().contains("the question was dropped"));
    // A question that cannot be recorded is none.
    stage.records.full.store(true, std::sync::atomic::Ordering::SeqCst);
    agent.say("alter orders\n").await;
    stage.asked().await.stands("q-2", &["+alice"]);
    assert!(agent.line().await.unwrap().contains("there is no room to record it"));
    agent.quit().await;
    assert_eq!(target.rest().await, "quit\n");
    assert!(stage.desk.spent.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_does_not_show_what_it_runs_is_refused_and_nobody_asked() {
    let (mut stage, mut agent, _target) = stage(TERMS).await;
    agent.say("alter hidden\n").await;
    let told = agent.line().await.unwrap();
    assert_eq!(told, "refused needs an approval by policy bots, rule ddl: it does not show what it runs");
    assert_eq!(verdicts(&stage), ["1 deny -"]);
    assert!(stage.nobody_asks());
}

#[tokio::test(start_paused = true)]
async fn a_deny_is_not_asked_about() {
    let (mut stage, mut agent, _target) = stage(TERMS).await;
    agent.say("drop orders\n").await;
    assert!(agent.line().await.unwrap().starts_with("refused refused by policy bots, rule no-drop"));
    assert!(stage.nobody_asks());
}
