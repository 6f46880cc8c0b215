//! Ten thousand certificates made in one minute, over many of their lives, in no time: when are they renewed?
//!
//! Drives `derive` with a clock of its own. Invariant: a second counts the renewals that were asked for in it, so a
//! bound on every ten seconds is a bound on what the API server would meet.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use sallyport_crds::KeyAlgorithm;
use sallyport_operator::derive::certificate::{Facts, Held, Names, Order, Plan, Wanted, plan};

const MANY: usize = 10_000;
const START: i64 = 1_800_000_000;
const HOUR: i64 = 3600;
/// Renewals are counted in slices of that many seconds.
const SLICE: i64 = 10;
/// A sixth of an hour: the window of a certificate of one hour.
const WINDOW: i64 = 600;
/// Renewals in a slice if they were even over the window.
const EVEN: f64 = MANY as f64 / (WINDOW / SLICE) as f64;

struct Simulation {
    held: Vec<Facts>,
    /// Who looks at its certificate when.
    queue: BinaryHeap<Reverse<(Timestamp, usize)>>,
    since: Timestamp,
    /// When each renewal was asked for.
    renewals: Vec<Timestamp>,
    made: u64,
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(START + second).unwrap()
}

impl Simulation {
    /// All are made in the first minute.
    fn new() -> Self {
        let mut new = Self { held: Vec::new(), queue: BinaryHeap::new(), since: at(0), renewals: Vec::new(), made: 0 };
        for who in 0..MANY {
            let now = at(i64::try_from(who * 60 / MANY).unwrap());
            let Plan::Issue(order) = plan(&Held::Missing, &new.want(), now) else { panic!("nothing was issued") };
            let facts = new.issue(&order);
            new.held.push(facts);
            new.queue.push(Reverse((now, who)));
        }
        new
    }

    fn want(&self) -> Wanted {
        Wanted {
            names: Names::default(),
            uid: None,
            key_algorithm: KeyAlgorithm::EcdsaP256,
            lifetime: Duration::from_secs(3600),
            renew_before: Duration::from_secs(1200),
            not_before: Timestamp::UNIX_EPOCH,
            since: self.since,
        }
    }

    fn issue(&mut self, order: &Order) -> Facts {
        self.made += 1;
        Facts {
            // Serial numbers are random; here they only differ.
            serial: format!("{:032x}", self.made),
            not_before: order.not_before,
            not_after: order.not_after,
            names: order.names.clone(),
            uid: None,
            from_our_authority: true,
            key_algorithm: Some(KeyAlgorithm::EcdsaP256),
            trust_is_current: true,
            key_matches: true,
        }
    }

    /// The operator's loop until `end`: each looks when its plan says that something changes.
    fn run_until(&mut self, end: Timestamp) {
        while let Some(Reverse((now, who))) = self.queue.peek().copied().filter(|Reverse((now, _))| *now < end) {
            self.queue.pop();
            match plan(&Held::Certificate(self.held[who].clone()), &self.want(), now) {
                Plan::Keep { renewal, .. } => {
                    assert!(renewal > now, "a plan to keep ends in time to come");
                    self.queue.push(Reverse((renewal, who)));
                }
                Plan::Issue(order) => {
                    assert_eq!(order.because, "its renewal is due");
                    self.renewals.push(now);
                    self.held[who] = self.issue(&order);
                    self.queue.push(Reverse((now, who)));
                }
                Plan::Blocked | Plan::OnRequest { .. } => panic!("it is ours"),
            }
        }
    }

    /// Nobody looked until `now`; then a new process looks at all of them.
    fn away_until(&mut self, now: Timestamp) {
        self.since = now;
        self.queue = (0..MANY).map(|who| Reverse((now, who))).collect();
    }

    /// Renewals by slice, from one moment to another.
    fn slices(&self, from: i64, to: i64) -> Vec<usize> {
        let mut slices = vec![0; usize::try_from((to - from) / SLICE).unwrap()];
        for renewal in &self.renewals {
            let second = renewal.as_second() - START - from;
            if (0..to - from).contains(&second) {
                slices[usize::try_from(second / SLICE).unwrap()] += 1;
            }
        }
        slices
    }

    fn worst(&self, from: i64, to: i64) -> f64 {
        self.slices(from, to).into_iter().max().unwrap() as f64 / EVEN
    }

    fn all_are_valid(&self, now: Timestamp) -> bool {
        self.held.iter().all(|facts| facts.not_before <= now && now < facts.not_after)
    }
}

#[test]
fn a_herd_is_renewed_evenly_over_the_window_and_never_meets_again() {
    let mut herd = Simulation::new();
    herd.run_until(at(12 * HOUR));
    // The first renewal is the hardest: all were made in one minute. The slices at the edges take that minute up.
    let first = herd.slices(30 * 60 + 60, 40 * 60);
    let (least, most) = (first.iter().min().unwrap(), first.iter().max().unwrap());
    let spread = (*least as f64 / EVEN, *most as f64 / EVEN);
    assert!(spread.0 > 0.7 && spread.1 < 1.35, "the first generation: {spread:?} of the even rate");
    // Nothing before, and nobody waits longer than renewBefore says.
    assert_eq!(herd.slices(0, 30 * 60).iter().sum::<usize>(), 0);
    assert!(herd.worst(0, 12 * HOUR) < 1.35);
    // Each generation is wider than the one before; after half a day they are spread over the whole cycle of 35 minutes.
    let (worst, cycle) = (herd.worst(10 * HOUR, 12 * HOUR), 35.0 / 10.0);
    assert!(worst * cycle < 2.0, "half a day later: {worst} of the even rate of the window");
    let renewed = herd.renewals.len() / MANY;
    assert!((19..=21).contains(&renewed), "{renewed} generations in 12 hours: one in 35 minutes on average");
    println!(
        "worst ten seconds beside the even rate of the window: first {:.2}, after half a day {worst:.2}",
        spread.1
    );
}

#[test]
fn what_was_missed_is_made_up_for_without_a_burst() {
    // Away over the whole first window, back when it ends: all were missed, a third of every life is left.
    let mut herd = Simulation::new();
    herd.run_until(at(29 * 60));
    herd.away_until(at(40 * 60));
    herd.run_until(at(4 * HOUR));
    let worst = herd.worst(40 * 60, 4 * HOUR);
    // Those made last in that minute are due only now, and join.
    assert!(worst < 2.0, "{worst} of the even rate");
    assert!(herd.slices(40 * 60, 60 * 60).iter().sum::<usize>() == MANY, "all were renewed before their end");
    // Gone in the middle of the window, back later in it: those missed join those that are due.
    let mut herd = Simulation::new();
    herd.run_until(at(33 * 60));
    herd.away_until(at(36 * 60));
    herd.run_until(at(4 * HOUR));
    let worst = herd.worst(33 * 60, 4 * HOUR);
    assert!(worst < 2.0, "{worst} of the even rate");
    assert!(herd.all_are_valid(at(4 * HOUR)));
    // Processes that come and go put nothing off for ever: each lives for a minute.
    let mut herd = Simulation::new();
    for minute in 1..=120 {
        herd.run_until(at(minute * 60));
        assert!(herd.all_are_valid(at(minute * 60)), "minute {minute}");
        herd.away_until(at(minute * 60));
    }
}

#[test]
fn what_has_expired_waits_for_nothing() {
    let mut herd = Simulation::new();
    herd.run_until(at(10 * 60));
    herd.away_until(at(5 * HOUR));
    herd.run_until(at(5 * HOUR + 1));
    assert_eq!(herd.renewals.len(), MANY);
    assert!(herd.all_are_valid(at(5 * HOUR + 1)));
    // That one burst is all: the next generation is spread like the first.
    herd.run_until(at(8 * HOUR));
    assert!(herd.worst(5 * HOUR + SLICE, 8 * HOUR) < 1.35);
}
