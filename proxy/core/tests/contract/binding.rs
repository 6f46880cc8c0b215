//! A certificate that is bound to pods: what it is worth elsewhere, and what becomes of sessions when pods move.
//!
//! Owns nothing else. Touches memory only. Invariant: the address is the socket's; nothing that a client says
//! changes where it comes from.

use std::net::{IpAddr, SocketAddr};

use sallyport_core::ports::Event;
use sallyport_policy::Member;
use tokio::time::Instant;

use crate::support::stage::{BOT, LIMITS, Stage, member, quiet, roster};

const OUTSIDE: &str = "this identity is bound to pods, and this connection comes from none of them";

fn pod(last: u8) -> Option<SocketAddr> {
    Some(([10, 0, 0, last], 40_000).into())
}

/// The bot is bound to pods at these addresses.
fn bind(stage: &Stage, lasts: &[u8]) {
    let addresses = lasts.iter().map(|last| IpAddr::from([10, 0, 0, *last])).collect();
    stage.service.feed.publish_roster(roster(Member { addresses: Some(addresses), ..member() }));
}

fn counted(stage: &Stage) -> (usize, usize) {
    let count = |at| stage.journal.counted(Event::OutsideBinding(at));
    (count("opening"), count("session"))
}

#[tokio::test(start_paused = true)]
async fn the_pod_that_the_identity_is_bound_to_is_let_in_without_a_wait() {
    let mut stage = Stage::new();
    bind(&stage, &[1]);
    stage.peer = pod(1);
    let since = Instant::now();
    let (agent, _target) = stage.open().await;
    assert!(since.elapsed() < LIMITS.binding);
    agent.quit().await;
    assert_eq!(counted(&stage), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_dual_stack_listener_sees_the_same_pod() {
    let mut stage = Stage::new();
    bind(&stage, &[1]);
    stage.peer = Some("[::ffff:10.0.0.1]:40000".parse().unwrap());
    let (agent, _target) = stage.open().await;
    agent.quit().await;
}

#[tokio::test(start_paused = true)]
async fn a_copied_certificate_is_refused_elsewhere_recorded_with_its_address_and_counted() {
    let mut stage = Stage::new();
    bind(&stage, &[1]);
    stage.peer = pod(66);
    let since = Instant::now();
    let mut agent = stage.arrive(&stage.authority.agent(&[BOT])).await;
    assert_eq!(agent.last_line().await, format!("no {OUTSIDE}"));
    assert!(since.elapsed() >= LIMITS.binding, "a pod that has just started would have been given time");
    agent.ended().await;
    assert_eq!(stage.journal.dials(), 0, "the target is not even dialled");
    let opened = stage.journal.events("open");
    assert_eq!((opened.len(), opened[0]["verdict"].as_str()), (1, Some("deny")));
    assert_eq!(opened[0]["reason"], OUTSIDE);
    assert_eq!(opened[0]["client"], "10.0.0.66:40000");
    assert_eq!(counted(&stage), (1, 0));
    assert_eq!(stage.journal.counted(Event::Refused("policy")), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_bound_to_nothing_or_comes_from_no_address_is_refused() {
    let mut stage = Stage::new();
    bind(&stage, &[]);
    stage.peer = pod(1);
    let mut agent = stage.arrive(&stage.authority.agent(&[BOT])).await;
    assert_eq!(agent.last_line().await, format!("no {OUTSIDE}"));
    bind(&stage, &[1]);
    stage.peer = None;
    let mut agent = stage.arrive(&stage.authority.agent(&[BOT])).await;
    assert_eq!(agent.last_line().await, format!("no {OUTSIDE}"));
    assert_eq!(stage.journal.dials(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_connects_before_its_address_is_known_is_let_in_as_soon_as_it_is() {
    let mut stage = Stage::new();
    bind(&stage, &[1]);
    stage.peer = pod(2);
    let mut agent = stage.arrive(&stage.authority.agent(&[BOT])).await;
    tokio::time::sleep(LIMITS.binding / 2).await;
    // A change that does not concern it is waited past.
    bind(&stage, &[1, 3]);
    quiet().await;
    assert_eq!((stage.journal.dials(), stage.journal.events("open").len()), (0, 0), "nothing is decided yet");
    let since = Instant::now();
    bind(&stage, &[2, 3]);
    let mut target = stage.target().await;
    assert_eq!(since.elapsed().as_millis(), 0);
    target.let_in("key").await;
    agent.greeted().await;
    agent.quit().await;
    assert_eq!((stage.journal.events("open")[0]["verdict"].as_str(), counted(&stage)), (Some("allow"), (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_suspension_during_the_wait_ends_it_with_its_own_reason() {
    let mut stage = Stage::new();
    bind(&stage, &[1]);
    stage.peer = pod(2);
    let mut agent = stage.arrive(&stage.authority.agent(&[BOT])).await;
    quiet().await;
    let since = Instant::now();
    stage.suspend();
    assert_eq!(agent.last_line().await, "no this identity is suspended");
    assert!(since.elapsed() < LIMITS.binding);
    assert_eq!(counted(&stage), (0, 0), "it is no copied certificate that was refused");
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_ends_at_once_when_its_pod_is_gone_and_is_counted_once() {
    let mut stage = Stage::new();
    bind(&stage, &[1, 2]);
    stage.peer = pod(1);
    let (mut agent, target) = stage.open().await;
    let since = Instant::now();
    bind(&stage, &[1]);
    quiet().await;
    bind(&stage, &[2]);
    bind(&stage, &[]);
    assert_eq!(agent.last_line().await, format!("bye {OUTSIDE}"));
    assert!(since.elapsed() < LIMITS.binding, "only openings are given time");
    agent.ended().await;
    assert_eq!(target.rest().await, "quit\n");
    assert_eq!(stage.journal.events("close")[0]["reason"], OUTSIDE);
    assert_eq!(counted(&stage), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_session_becomes_bound_while_it_is_open() {
    let mut stage = Stage::new();
    stage.peer = pod(1);
    let (mut stays, _target) = stage.open().await;
    stage.peer = pod(66);
    let (mut goes, mut target) = stage.open().await;
    goes.say("select orders\n").await;
    target.line().await;
    bind(&stage, &[1]);
    quiet().await;
    // What runs is answered; the next command is none any more.
    goes.say("select items\n").await;
    target.say("ok 3\n").await;
    assert_eq!(goes.line().await.unwrap(), "ok 3");
    assert_eq!(goes.last_line().await, format!("bye {OUTSIDE}"));
    assert_eq!(target.rest().await, "quit\n");
    stays.say("select orders\n").await;
    quiet().await;
    assert_eq!(stage.journal.events("command").len(), 2);
    assert_eq!(counted(&stage), (0, 1));
}
