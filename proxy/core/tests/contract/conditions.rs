//! Conditions of rules: claims about the time that a command is judged at.
//!
//! Owns nothing else. Touches memory only. Invariant: the wall clock goes on as paused time does.

use std::time::Duration;

use sallyport_policy::{AskTerms, Condition, Effect, Matcher, Mode, NotBy, Rule, When};

use crate::support::stage::{Stage, bundle};

const TERMS: AskTerms =
    AskTerms { approvals: 1, timeout_seconds: 600, validity_seconds: 3600, not_by: NotBy::ServiceAccounts };

fn rule(name: &str, effect: Effect, verb: &str, when: Option<&str>) -> Rule {
    let when = when.map(|text| When::Holds(Condition::parse(text).unwrap()));
    let verbs = Some(vec![verb.to_owned()]);
    Rule { name: name.into(), effect, message: None, matcher: Matcher { verbs, ..Matcher::default() }, when }
}

fn publish(stage: &Stage, mode: Mode, rules: Vec<Rule>) {
    let mut bundle = bundle();
    bundle.policies[0].rules = rules;
    bundle.policies[0].mode = mode;
    stage.service.feed.publish_bundle(bundle.sealed());
}

const FIRST_MINUTE: Option<&str> = Some("now - session.started < duration('1m')");
const NOT_NOW: &str = "no rule allows select on public.orders now: rule early of policy bots has a condition, which does not hold or cannot be derived";

#[tokio::test(start_paused = true)]
async fn a_command_is_judged_when_it_comes_and_an_idle_session_is_not_cut() {
    let mut stage = Stage::new();
    publish(&stage, Mode::Enforce, vec![rule("early", Effect::Allow, "select", FIRST_MINUTE)]);
    let (mut agent, mut target) = stage.open().await;
    for _ in 0..2 {
        agent.say("select orders\n").await;
        assert_eq!(target.line().await.as_deref(), Some("select orders"));
        target.say("ok\n").await;
        assert_eq!(agent.line().await.as_deref(), Some("ok"));
        tokio::time::sleep(Duration::from_secs(29)).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    agent.say("select orders\n").await;
    assert_eq!(agent.line().await.unwrap(), format!("refused {NOT_NOW}"));
    let commands = stage.journal.events("command");
    let verdicts: Vec<_> = commands.iter().map(|command| command["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["allow", "allow", "deny"]);
    assert_eq!(commands[2]["reason"], NOT_NOW);
    agent.quit().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_approved_too_late_for_its_rule_is_refused() {
    let mut stage = Stage::new();
    publish(&stage, Mode::Enforce, vec![rule("ddl", Effect::Ask(TERMS), "alter", FIRST_MINUTE)]);
    let (mut agent, mut target) = stage.open().await;
    agent.say("alter orders\n").await;
    let asking = stage.asked().await;
    asking.stands("q-1", &[]);
    agent.line().await.unwrap();
    asking.stands("q-1", &["+alice"]);
    assert_eq!(agent.line().await.unwrap(), "note access request q-1 was approved by alice");
    assert_eq!(target.line().await.as_deref(), Some("alter orders"), "in time it runs");
    target.say("ok\n").await;
    assert_eq!(agent.line().await.as_deref(), Some("ok"));
    asking.let_go().await;
    agent.say("alter orders\n").await;
    let asking = stage.asked().await;
    asking.stands("q-2", &[]);
    agent.line().await.unwrap();
    tokio::time::sleep(Duration::from_secs(61)).await;
    asking.stands("q-2", &["+alice"]);
    let mut told = agent.line().await.unwrap();
    while told.starts_with("note ") {
        told = agent.line().await.unwrap();
    }
    assert!(told.starts_with("refused no rule allows alter on public.orders now: rule ddl"), "{told}");
    let commands = stage.journal.events("command");
    assert_eq!((&commands[3]["verdict"], &commands[3]["request"]), (&"deny".into(), &"q-2".into()));
}

#[tokio::test(start_paused = true)]
async fn what_observing_conditions_would_have_made_of_it_is_told() {
    let mut stage = Stage::new();
    publish(&stage, Mode::Observe, vec![rule("early", Effect::Allow, "select", FIRST_MINUTE)]);
    let (mut agent, mut target) = stage.open().await;
    for wait in [0, 61] {
        tokio::time::sleep(Duration::from_secs(wait)).await;
        agent.say("select orders\n").await;
        assert_eq!(target.line().await.as_deref(), Some("select orders"));
        target.say("ok\n").await;
        assert_eq!(agent.line().await.as_deref(), Some("ok"));
    }
    let commands = stage.journal.events("command");
    assert_eq!(commands[0].get("wouldHave"), None);
    assert_eq!(commands[1]["wouldHave"]["reason"], NOT_NOW);
}
