//! Until when a session goes on: claims about certificates that expire, durations, idleness and cuts.
//!
//! Owns nothing else. Touches memory only. Invariant: the wall clock goes on as paused time does, so that each
//! ending is seen at its very moment.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sallyport_core::sessions::SessionId;
use sallyport_policy::{FleetTerms, OnRevocation, SessionTerms};
use tokio::time::{Instant, sleep};

use crate::support::certificates::Leaf;
use crate::support::stage::{Agent, BOT, LIMITS, Stage, Target, bundle, member, quiet, roster};

const EXPIRED: &str = "this certificate has expired: connect again with the new one";
/// How long a certificate lives here, in seconds.
const LIFE: i64 = 2000;

fn assert_about(took: Duration, wanted: u64) {
    let wanted = Duration::from_secs(wanted);
    // A certificate counts whole seconds.
    assert!(took + Duration::from_secs(2) >= wanted && took <= wanted + Duration::from_secs(2), "{took:?}");
}

async fn short_lived(stage: &mut Stage) -> (Agent, Target) {
    let leaf: Leaf = stage.authority.agent_between(BOT, -10, LIFE);
    stage.open_with(&leaf).await
}

/// Runs a command to its end.
async fn done(agent: &mut Agent, target: &mut Target, command: &str) {
    agent.say(&format!("{command}\n")).await;
    assert_eq!(target.line().await.as_deref(), Some(command));
    target.say("ok\n").await;
    assert_eq!(agent.line().await.as_deref(), Some("ok"));
}

fn closed_because(stage: &Stage) -> String {
    stage.journal.events("close")[0]["reason"].as_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_ends_with_its_certificate_and_is_asked_to_connect_again() {
    let mut stage = Stage::new();
    let since = Instant::now();
    let (mut agent, target) = short_lived(&mut stage).await;
    assert_eq!(agent.last_line().await, format!("bye {EXPIRED}"));
    assert_about(since.elapsed(), 2000);
    agent.ended().await;
    assert_eq!(target.rest().await, "quit\n");
    assert_eq!(closed_because(&stage), EXPIRED);
}

#[tokio::test(start_paused = true)]
async fn an_open_transaction_outlives_the_certificate_and_the_session_ends_with_it() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = short_lived(&mut stage).await;
    done(&mut agent, &mut target, "begin").await;
    sleep(Duration::from_secs(2100)).await;
    done(&mut agent, &mut target, "insert orders").await;
    sleep(Duration::from_secs(300)).await;
    done(&mut agent, &mut target, "end").await;
    assert_eq!(agent.last_line().await, format!("bye {EXPIRED}"));
    agent.ended().await;
    assert_eq!(target.rest().await, "quit\n");
    assert_eq!(stage.journal.outcomes().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_pipelined_behind_the_end_of_the_transaction_is_not_run() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = short_lived(&mut stage).await;
    done(&mut agent, &mut target, "begin").await;
    sleep(Duration::from_secs(2100)).await;
    agent.say("end\nbegin\nselect orders\n").await;
    assert_eq!(target.line().await.as_deref(), Some("end"));
    quiet().await;
    target.say("ok\n").await;
    assert_eq!(agent.line().await.as_deref(), Some("ok"));
    assert_eq!(agent.last_line().await, format!("bye {EXPIRED}"));
    agent.ended().await;
    assert_eq!(target.rest().await, "quit\n");
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_is_left_open_ends_after_the_grace() {
    for (grace, wanted) in [(None, 600), (Some(30), 30), (Some(0), 0)] {
        let mut stage = Stage::new();
        stage.demand(FleetTerms { expiry_grace_seconds: grace, ..FleetTerms::default() }, SessionTerms::default());
        let since = Instant::now();
        let (mut agent, mut target) = short_lived(&mut stage).await;
        done(&mut agent, &mut target, "begin").await;
        assert_eq!(agent.last_line().await, format!("bye {EXPIRED}"));
        assert_about(since.elapsed(), 2000 + wanted);
        agent.ended().await;
        assert_eq!(target.rest().await, "quit\n");
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_that_runs_on_finishes_within_the_grace_and_is_cut_after_it() {
    let mut stage = Stage::new();
    let (mut agent, mut target) = short_lived(&mut stage).await;
    agent.say("select orders\n").await;
    target.line().await;
    sleep(Duration::from_secs(2300)).await;
    target.say("ok\n").await;
    assert_eq!(agent.line().await.as_deref(), Some("ok"), "five minutes late, and still the answer comes");
    assert_eq!(agent.last_line().await, format!("bye {EXPIRED}"));

    let mut stage = Stage::new();
    let since = Instant::now();
    let (mut agent, mut target) = short_lived(&mut stage).await;
    agent.say("select orders\n").await;
    target.line().await;
    let mut interrupt = stage.target().await;
    assert_eq!(interrupt.line().await.as_deref(), Some("interrupt key-1"));
    assert_about(since.elapsed(), 2600);
    drop(interrupt);
    target.say("err 57014\n").await;
    assert_eq!(agent.line().await.as_deref(), Some("err 57014"));
    assert_eq!(agent.last_line().await, format!("bye {EXPIRED}"));
    agent.ended().await;
    assert_eq!(stage.journal.outcomes(), [(1, "failed".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_command_after_a_jump_of_the_clock_is_refused_and_recorded_as_refused() {
    let mut stage = Stage::new();
    let (mut agent, target) = short_lived(&mut stage).await;
    stage.clock.fast.store(2 * LIFE, Ordering::SeqCst);
    agent.say("select orders\n").await;
    assert_eq!(agent.last_line().await, format!("bye {EXPIRED}"));
    agent.ended().await;
    assert_eq!(target.rest().await, "quit\n");
    let command = &stage.journal.events("command")[0];
    assert_eq!((&command["verdict"], &command["reason"]), (&"deny".into(), &EXPIRED.into()));
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_ends_an_idle_session_within_a_minute() {
    let mut stage = Stage::new();
    let (mut agent, _target) = short_lived(&mut stage).await;
    stage.clock.fast.store(2 * LIFE, Ordering::SeqCst);
    let since = Instant::now();
    assert_eq!(agent.last_line().await, format!("bye {EXPIRED}"));
    assert!(since.elapsed() <= Duration::from_secs(61));
}

#[tokio::test(start_paused = true)]
async fn a_session_lasts_as_long_as_the_strictest_policy_says() {
    let mut stage = Stage::new();
    let mut changed = bundle();
    for (name, seconds) in [("long", Some(7200)), ("short", Some(900)), ("silent", None)] {
        let mut policy = changed.policies[0].clone();
        policy.name = name.into();
        policy.sessions.duration_seconds = seconds;
        changed.policies.push(policy);
    }
    stage.service.feed.publish_bundle(changed.sealed());
    let since = Instant::now();
    let (mut agent, _target) = stage.open().await;
    assert_eq!(agent.last_line().await, "bye this session has lasted its 900 s: connect again");
    assert_about(since.elapsed(), 900);
    agent.ended().await;
    assert_eq!(closed_because(&stage), "this session has lasted its 900 s: connect again");
}

#[tokio::test(start_paused = true)]
async fn a_policy_for_others_or_for_another_credential_limits_nobody_else() {
    let mut stage = Stage::new();
    let mut changed = bundle();
    for (agent, credential) in [("other", "default"), ("bot", "readonly")] {
        let mut policy = changed.policies[0].clone();
        policy.subjects = vec![sallyport_policy::Subject::Agent { namespace: "ci".into(), name: agent.into() }];
        policy.credentials = vec![credential.into()];
        policy.sessions.duration_seconds = Some(60);
        changed.policies.push(policy);
    }
    stage.service.feed.publish_bundle(changed.sealed());
    let (mut agent, mut target) = stage.open().await;
    sleep(Duration::from_secs(600)).await;
    done(&mut agent, &mut target, "select orders").await;
}

#[tokio::test(start_paused = true)]
async fn a_long_session_concludes_its_transaction() {
    let mut stage = Stage::new();
    stage.demand(FleetTerms::default(), SessionTerms { duration_seconds: Some(900), ..SessionTerms::default() });
    let (mut agent, mut target) = stage.open().await;
    done(&mut agent, &mut target, "begin").await;
    sleep(Duration::from_secs(1000)).await;
    done(&mut agent, &mut target, "end").await;
    assert_eq!(agent.last_line().await, "bye this session has lasted its 900 s: connect again");
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_ends_at_its_limit_even_within_a_transaction() {
    for first in [None, Some("begin")] {
        let mut stage = Stage::new();
        stage.demand(FleetTerms::default(), SessionTerms { idle_seconds: Some(300), ..SessionTerms::default() });
        let (mut agent, mut target) = stage.open().await;
        for _ in 0..5 {
            sleep(Duration::from_secs(200)).await;
            done(&mut agent, &mut target, first.unwrap_or("select orders")).await;
        }
        let since = Instant::now();
        assert_eq!(agent.last_line().await, "bye this session has been idle for 300 s: connect again");
        assert_about(since.elapsed(), 300);
        agent.ended().await;
        assert_eq!(target.rest().await, "quit\n");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_runs_a_command_is_not_idle_however_long_that_takes() {
    let mut stage = Stage::new();
    stage.demand(FleetTerms::default(), SessionTerms { idle_seconds: Some(60), ..SessionTerms::default() });
    let (mut agent, mut target) = stage.open().await;
    agent.say("select orders\n").await;
    target.line().await;
    sleep(Duration::from_secs(1000)).await;
    target.say("ok\n").await;
    assert_eq!(agent.line().await.as_deref(), Some("ok"));
    let since = Instant::now();
    agent.last_line().await;
    assert_about(since.elapsed(), 60);
}

#[tokio::test(start_paused = true)]
async fn open_sessions_follow_an_edited_policy() {
    let mut stage = Stage::new();
    let (mut agent, _target) = stage.open().await;
    sleep(Duration::from_secs(1000)).await;
    let since = Instant::now();
    stage.demand(FleetTerms::default(), SessionTerms { duration_seconds: Some(1100), ..SessionTerms::default() });
    quiet().await;
    stage.demand(FleetTerms::default(), SessionTerms { duration_seconds: Some(1200), ..SessionTerms::default() });
    assert_eq!(agent.last_line().await, "bye this session has lasted its 1200 s: connect again");
    assert_about(since.elapsed(), 200);
}

/// A way to lose one's standing.
type Way = fn(&Stage);

fn cancel() -> SessionTerms {
    SessionTerms { on_revocation: OnRevocation::Cancel, ..SessionTerms::default() }
}

#[tokio::test(start_paused = true)]
async fn revocation_cuts_what_runs_where_a_policy_says_so() {
    // In whatever way the standing is lost: the policy that says so may be the one that is gone.
    let ways: [(&str, Way); 4] = [
        ("this identity is suspended", |stage| stage.suspend()),
        ("this identity is not known here", |stage| stage.service.feed.publish_roster(Default::default())),
        ("this certificate was revoked: use a newer one", |stage| {
            let newer = sallyport_policy::Member { min_not_before: i64::MAX, ..member() };
            stage.service.feed.publish_roster(roster(newer));
        }),
        ("no policy grants this identity anything here", |stage| {
            let mut changed = bundle();
            changed.policies.clear();
            stage.service.feed.publish_bundle(changed.sealed());
        }),
    ];
    for (reason, way) in ways {
        let mut stage = Stage::new();
        stage.demand(FleetTerms::default(), cancel());
        let (mut agent, mut target) = stage.open().await;
        agent.say("select orders\n").await;
        target.line().await;
        let since = Instant::now();
        way(&stage);
        let mut interrupt = stage.target().await;
        assert_eq!(interrupt.line().await.as_deref(), Some("interrupt key-1"));
        assert_eq!(since.elapsed(), Duration::ZERO);
        drop(interrupt);
        target.say("err 57014\n").await;
        assert_eq!(agent.line().await.as_deref(), Some("err 57014"));
        assert_eq!(agent.last_line().await, format!("bye {reason}"));
        agent.ended().await;
        assert_eq!(closed_because(&stage), reason);
    }
}

#[tokio::test(start_paused = true)]
async fn whose_authority_is_out_of_trust_is_cut_whatever_a_policy_says_and_told_to_come_again() {
    let told = "the authority of this certificate is not trusted any more: connect again with a newer one";
    let distrusted = |stage: &Stage| stage.service.sessions.distrust(SessionId::from_random(1));
    for busy in [false, true] {
        let mut stage = Stage::new();
        let (mut agent, mut target) = stage.open().await;
        if busy {
            agent.say("select orders\n").await;
            target.line().await;
        }
        let since = Instant::now();
        distrusted(&stage);
        if busy {
            let mut interrupt = stage.target().await;
            assert_eq!(interrupt.line().await.as_deref(), Some("interrupt key-1"));
            target.say("err 57014\n").await;
            assert_eq!(agent.line().await.as_deref(), Some("err 57014"));
        }
        assert_eq!(agent.last_line().await, format!("bye {told}"));
        assert_eq!(since.elapsed(), Duration::ZERO);
        agent.ended().await;
        assert_eq!(closed_because(&stage), told);
    }
    // Between the opening decision and the first command: nothing of it runs.
    let mut stage = Stage::new();
    let leaf = stage.authority.agent(&[BOT]);
    let mut agent = stage.arrive(&leaf).await;
    let mut target = stage.target().await;
    distrusted(&stage);
    agent.say("select orders\n").await;
    target.let_in("key-1").await;
    agent.greeted().await;
    assert_eq!(agent.last_line().await, format!("bye {told}"));
    assert!(!target.rest().await.contains("select"));
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_that_came_too_early_is_sent_again() {
    let mut stage = Stage::new();
    stage.demand(FleetTerms::default(), cancel());
    let (mut agent, mut target) = stage.open().await;
    agent.say("select orders\n").await;
    target.line().await;
    stage.suspend();
    for _ in 0..3 {
        let mut interrupt = stage.target().await;
        assert_eq!(interrupt.line().await.as_deref(), Some("interrupt key-1"));
    }
    target.say("err 57014\n").await;
    assert_eq!(agent.line().await.as_deref(), Some("err 57014"));
    assert_eq!(agent.last_line().await, "bye this identity is suspended");
}

#[tokio::test(start_paused = true)]
async fn a_target_that_does_not_stop_is_left() {
    let mut stage = Stage::new();
    stage.demand(FleetTerms::default(), cancel());
    let (mut agent, mut target) = stage.open().await;
    agent.say("select orders\n").await;
    target.line().await;
    let since = Instant::now();
    stage.suspend();
    assert_eq!(agent.last_line().await, "bye this identity is suspended");
    assert!(since.elapsed() <= LIMITS.parting + Duration::from_millis(10), "{:?}", since.elapsed());
    agent.ended().await;
    assert_eq!(target.rest().await, "", "gone in the middle of the command");
    assert_eq!(stage.journal.outcomes(), [(1, "unknown".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_world_that_nobody_confirms_is_not_decided_with_for_longer_than_the_bundle_says() {
    let mut stage = Stage::new();
    let stale = FleetTerms { stale_after_seconds: Some(120), ..FleetTerms::default() };
    stage.demand(stale, SessionTerms::default());
    stage.service.feed.confirm(Duration::ZERO);
    let (mut agent, mut target) = stage.open().await;
    sleep(Duration::from_secs(119)).await;
    done(&mut agent, &mut target, "select orders").await;
    sleep(Duration::from_secs(2)).await;
    let told =
        "this proxy has not heard from the cluster for 121 s and refuses everything until it does: try again later";
    agent.say("select orders\n").await;
    assert_eq!(agent.line().await, Some(format!("refused {told}")));
    let leaf = stage.authority.agent(&[BOT]);
    let mut late = stage.arrive(&leaf).await;
    assert_eq!(late.last_line().await, format!("no {told}"));
    assert_eq!(
        (stage.journal.dials(), stage.journal.counted(sallyport_core::ports::Event::Refused("internal"))),
        (1, 0)
    );
    late.ended().await;
    // The session was kept open, and goes on with the first word.
    stage.service.feed.confirm(Duration::from_secs(60));
    done(&mut agent, &mut target, "select orders").await;
    sleep(Duration::from_secs(61)).await;
    agent.say("select orders\n").await;
    assert_eq!(agent.line().await, Some(format!("refused {told}")), "old word counts as old");
}

#[tokio::test(start_paused = true)]
async fn a_clock_five_minutes_off_is_told_and_recorded_as_that() {
    for (fast, told) in [
        (-300, "this certificate is not valid for another 299 s by this proxy's clock: wait, or set the clocks right"),
        (LIFE + 300, EXPIRED),
    ] {
        let stage = Stage::new();
        stage.clock.fast.store(fast, Ordering::SeqCst);
        let leaf = stage.authority.agent_between(BOT, -1, LIFE);
        let mut agent = stage.arrive(&leaf).await;
        let words = agent.last_line().await;
        let number = |text: &str| text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect::<String>();
        assert_eq!(number(&words), number(&format!("no {told}")));
        agent.ended().await;
        assert_eq!(stage.journal.dials(), 0);
        let open = &stage.journal.events("open")[0];
        assert_eq!(open["verdict"], "deny");
        assert_eq!(format!("no {}", open["reason"].as_str().unwrap()), words);
    }
}
