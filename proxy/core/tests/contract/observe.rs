//! Policies that observe: claims about what is let through, and what is recorded of it.
//!
//! Owns nothing else. Touches memory only. Invariant: what cannot be understood and who is not in good standing is refused
//! whatever the mode.

use sallyport_core::ports::Event;
use sallyport_policy::Mode;

use crate::support::stage::{Agent, Stage, Target, bundle};

async fn runs(agent: &mut Agent, target: &mut Target, command: &str) {
    agent.say(&format!("{command}\n")).await;
    assert_eq!(target.line().await.as_deref(), Some(command));
    target.say("ok\n").await;
    assert_eq!(agent.line().await.as_deref(), Some("ok"));
}

fn observe(stage: &Stage) {
    let mut bundle = bundle();
    bundle.policies[0].mode = Mode::Observe;
    stage.service.feed.publish_bundle(bundle.sealed());
}

#[tokio::test(start_paused = true)]
async fn what_would_have_been_refused_runs_and_is_recorded_with_the_rule() {
    let mut stage = Stage::new();
    observe(&stage);
    let (mut agent, mut target) = stage.open().await;
    runs(&mut agent, &mut target, "select orders").await;
    runs(&mut agent, &mut target, "drop orders").await;
    runs(&mut agent, &mut target, "truncate orders").await;
    let commands = stage.journal.events("command");
    assert!(commands.iter().all(|command| command["verdict"] == "allow"));
    assert_eq!(commands[0].get("wouldHave"), None);
    let would = &commands[1]["wouldHave"];
    assert_eq!(
        (&would["verdict"], &would["policy"], &would["rule"]),
        (&"deny".into(), &"bots".into(), &"no-drop".into())
    );
    assert_eq!(would["reason"], "refused by policy bots, rule no-drop: ask the owner");
    assert_eq!(commands[2]["wouldHave"]["reason"], "no rule allows truncate on public.orders");
    assert_eq!(stage.journal.counted(Event::WouldHave("deny")), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_understood_and_who_is_suspended_is_refused() {
    let mut stage = Stage::new();
    observe(&stage);
    let (mut agent, _target) = stage.open().await;
    agent.say("what\n").await;
    assert_eq!(agent.line().await.unwrap(), "refused a command is a verb and a table");
    stage.suspend();
    assert_eq!(agent.last_line().await, "bye this identity is suspended");
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_enforces_beside_it_decides_alone() {
    let mut stage = Stage::new();
    let mut both = bundle();
    let mut watching = both.policies[0].clone();
    watching.name = "watching".into();
    watching.mode = Mode::Observe;
    // It would allow dropping and refuse reading.
    for rule in &mut watching.rules {
        rule.effect = match rule.effect {
            sallyport_policy::Effect::Allow => sallyport_policy::Effect::Deny,
            _ => sallyport_policy::Effect::Allow,
        };
    }
    both.policies.push(watching);
    stage.service.feed.publish_bundle(both.sealed());
    let (mut agent, mut target) = stage.open().await;
    runs(&mut agent, &mut target, "select orders").await;
    agent.say("drop orders\n").await;
    assert!(agent.line().await.unwrap().contains("no-drop"));
    let commands = stage.journal.events("command");
    assert_eq!(commands[0]["wouldHave"]["policy"], "watching");
    assert_eq!(commands[1].get("wouldHave"), None, "the deny would stand");
}

#[tokio::test(start_paused = true)]
async fn an_edit_of_the_mode_holds_for_open_sessions() {
    let mut stage = Stage::new();
    observe(&stage);
    let (mut agent, mut target) = stage.open().await;
    runs(&mut agent, &mut target, "drop orders").await;
    stage.service.feed.publish_bundle(bundle());
    agent.say("drop orders\n").await;
    assert!(agent.line().await.unwrap().contains("no-drop"));
}
