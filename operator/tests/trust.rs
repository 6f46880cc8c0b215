//! Laws of a rotation: drawn worlds in which roots spread slowly, agents re-read late and operators die.
//!
//! Touches derive alone, with a clock of its own. Invariant of all: nobody who does as told is ever refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;
use sallyport_operator::derive::trust::{
    CaFacts, Given, Ledger, Next, Plan, Previous, Spread, Step, Wait, Wanted, plan,
};

const DAY: i64 = 24 * 3600;
const LIFE: i64 = 100 * DAY;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn ca(number: usize, made: i64) -> CaFacts {
    CaFacts {
        fingerprint: format!("ca-{number}"),
        serial: number.to_string(),
        not_before: at(made),
        not_after: at(made + LIFE),
        roots: [format!("root-{number}")].into(),
    }
}

fn stable(made: i64) -> Ledger {
    Ledger { active: ca(0, made), next: None, previous: Vec::new() }
}

fn want() -> Wanted {
    Wanted {
        renew_before: Duration::from_secs(30 * DAY as u64),
        requested_at: None,
        compromised_before: None,
        propagation: Duration::from_secs(300),
    }
}

fn hour() -> Spread {
    Spread { longest_leaf: Duration::from_secs(3600), ..Spread::default() }
}

fn after(ledger: &Ledger, step: &Step, taken: CaFacts, now: i64) -> Ledger {
    let mut ledger = ledger.clone();
    let signs = |ledger: &mut Ledger, ca: CaFacts, retire_after: Timestamp| {
        let old = std::mem::replace(&mut ledger.active, ca);
        ledger.previous.push(Previous { ca: old, retire_after });
    };
    match step {
        Step::Keep => {}
        Step::Prepare(_) => ledger.next = Some(Next { ca: taken, settled: None }),
        Step::Settle => ledger.next.as_mut().unwrap().settled = Some(at(now)),
        Step::Promote(until) => {
            let next = ledger.next.take().unwrap();
            signs(&mut ledger, next.ca, *until);
        }
        Step::Exchange(until) => signs(&mut ledger, taken, *until),
        Step::Retire(over) => ledger.previous.retain(|it| !over.contains(&it.ca.fingerprint)),
        Step::Abandon(_) => ledger.next = None,
        Step::Replace(_) => ledger = Ledger { active: taken, next: None, previous: Vec::new() },
    }
    ledger
}

fn trusted(ledger: &Ledger) -> BTreeSet<String> {
    let next = ledger.next.iter().flat_map(|next| &next.ca.roots);
    let previous = ledger.previous.iter().flat_map(|previous| &previous.ca.roots);
    ledger.active.roots.iter().chain(next).chain(previous).cloned().collect()
}

/// One side of connections: an agent or a fleet.
#[derive(Debug, Clone)]
struct Party {
    /// Seconds until it has new files; whoever does as told has them within the propagation time.
    lag: i64,
    /// What its Secret says, and since when: signer, end, roots.
    secret: Vec<(i64, usize, i64, BTreeSet<String>)>,
    is_fleet: bool,
    life: i64,
}

impl Party {
    /// What it uses.
    fn uses(&self, now: i64) -> &(i64, usize, i64, BTreeSet<String>) {
        self.secret.iter().rev().find(|(since, ..)| since + self.lag <= now).unwrap_or(&self.secret[0])
    }

    fn number(ledger: &Ledger) -> usize {
        ledger.active.serial.parse().unwrap()
    }

    /// What the controllers do, after a delay that the world draws.
    fn reconcile(&mut self, ledger: &Ledger, now: i64) {
        let (_, signer, end, roots) = self.secret.last().unwrap().clone();
        let current = Self::number(ledger);
        let due = now >= end - self.life / 3 || (self.is_fleet && signer != current);
        if due {
            self.secret.push((now, current, now + self.life, trusted(ledger)));
        } else if roots != trusted(ledger) {
            self.secret.push((now, signer, end, trusted(ledger)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn nobody_is_refused_while_an_authority_is_replaced_and_the_old_one_goes(
        lags in prop::collection::vec(0_i64..300, 2..6),
        lives in prop::collection::vec(300_i64..7200, 6),
        delays in prop::collection::vec(0_u8..4, 6),
        deaths in prop::collection::vec(any::<bool>(), 64),
        requests in 1_usize..3,
    ) {
        let start = 1_800_000_000;
        let mut ledger = stable(start - DAY);
        let mut parties: Vec<_> = lags.iter().enumerate().map(|(at, lag)| {
            let is_fleet = at % 2 == 0;
            let life = if is_fleet { 7 * DAY } else { lives[at] };
            let begun = start - lag - 1;
            Party { lag: *lag, secret: vec![(begun, 0, begun + life, trusted(&ledger))], is_fleet, life }
        }).collect();
        let longest = parties.iter().filter(|party| !party.is_fleet).map(|party| party.life).max().unwrap_or(3600);
        let (mut want, mut made, mut asked) = (want(), 0, 0);
        let mut promoted = 0;
        for tick in 0..4_000_i64 {
            let now = start + tick * 8;
            if asked < requests && ledger.next.is_none() && ledger.previous.is_empty() {
                asked += 1;
                want.requested_at = Some(at(now));
            }
            let turn = tick as usize % 64;
            for (at, party) in parties.iter_mut().enumerate() {
                if tick % (1 + i64::from(delays[at])) == 0 {
                    party.reconcile(&ledger, now);
                }
            }
            let lacks = |party: &&Party| {
                // A replica answers with what it uses; of agents the Secret is looked at.
                let has = if party.is_fleet { &party.uses(now).3 } else { &party.secret.last().unwrap().3 };
                *has != trusted(&ledger) || party.secret.last().unwrap().3 != trusted(&ledger)
            };
            let spread = Spread {
                lacking: parties.iter().filter(lacks).map(|party| format!("{party:?}")).collect(),
                serving: parties.iter().filter(|it| it.is_fleet).map(|it| format!("ca-{}", it.secret.last().unwrap().1)).collect(),
                longest_leaf: Duration::from_secs(longest as u64),
            };
            let next = plan(&ledger, &Given::Generate, &want, &spread, at(now));
            // Killed before the write: the same is planned again. Killed after it: what is written down goes on.
            prop_assert_eq!(&next, &plan(&ledger, &Given::Generate, &want, &spread, at(now)));
            let dies = deaths[turn] && !turn.is_multiple_of(3);
            if next.step != Step::Keep && !dies {
                if matches!(next.step, Step::Prepare(_)) { made += 1; }
                if matches!(next.step, Step::Promote(_)) { promoted += 1; }
                ledger = after(&ledger, &next.step, ca(made, now), now);
            }
            // Every agent dials every fleet, with what both use at this moment.
            for agent in parties.iter().filter(|party| !party.is_fleet) {
                for fleet in parties.iter().filter(|party| party.is_fleet) {
                    let ((_, a, a_end, a_roots), (_, f, f_end, f_roots)) = (agent.uses(now), fleet.uses(now));
                    if now < *a_end && now < *f_end {
                        prop_assert!(f_roots.contains(&format!("root-{a}")), "at {now} the fleet refuses the agent: {ledger:?}");
                        prop_assert!(a_roots.contains(&format!("root-{f}")), "at {now} the agent refuses the fleet: {ledger:?}");
                    }
                }
            }
        }
        prop_assert_eq!(promoted, requests, "every request is met: {:?}", ledger);
        prop_assert!(ledger.next.is_none() && ledger.previous.is_empty(), "and the old one goes: {:?}", ledger);
    }

    #[test]
    fn a_stolen_key_ends_at_the_next_look_whatever_goes_on(
        next in any::<bool>(), previous in 0_usize..3, since in 1_i64..1000, settled in any::<bool>(),
    ) {
        let now = 1_800_000_000;
        let mut ledger = stable(now - 2000);
        if next {
            ledger.next = Some(Next { ca: ca(9, now - 1500), settled: settled.then(|| at(now - 10)) });
        }
        for number in 0..previous {
            ledger.previous.push(Previous { ca: ca(20 + number, now - 5000), retire_after: at(now + 5000) });
        }
        let want = Wanted { compromised_before: Some(at(now - since)), ..want() };
        let spread = Spread { lacking: ["Pod a/b".to_owned()].into(), ..hour() };
        let told = plan(&ledger, &Given::Generate, &want, &spread, at(now));
        prop_assert_eq!(&told.step, &Step::Replace("its key is known to others"));
        let ledger = after(&ledger, &told.step, ca(10, now), now);
        prop_assert_eq!(trusted(&ledger), BTreeSet::from(["root-10".to_owned()]));
        prop_assert_eq!(plan(&ledger, &Given::Generate, &want, &spread, at(now)).step, Step::Keep, "once");
    }
}

fn look(ledger: &Ledger, given: &Given, want: &Wanted, spread: &Spread, now: i64) -> Plan {
    plan(ledger, given, want, spread, at(now))
}

#[test]
fn an_authority_is_replaced_before_its_end_by_itself() {
    let made = 1_800_000_000;
    let due = made + 70 * DAY;
    assert_eq!(look(&stable(made), &Given::Generate, &want(), &hour(), due - 1).step, Step::Keep);
    assert_eq!(look(&stable(made), &Given::Generate, &want(), &hour(), due).step, Step::Prepare("its end comes near"));
}

#[test]
fn a_request_is_an_appointment_and_is_met_once() {
    let made = 1_800_000_000;
    let want = Wanted { requested_at: Some(at(made + 1000)), ..want() };
    let before = look(&stable(made), &Given::Generate, &want, &hour(), made + 900);
    assert_eq!((before.step, before.again), (Step::Keep, Duration::from_secs(100)));
    assert_eq!(
        look(&stable(made), &Given::Generate, &want, &hour(), made + 1000).step,
        Step::Prepare("it was asked for")
    );
    assert_eq!(look(&stable(made + 1000), &Given::Generate, &want, &hour(), made + 1000).step, Step::Keep);
}

#[test]
fn who_lacks_the_next_root_is_waited_for_and_named_but_not_beyond_the_end() {
    let now = 1_800_000_000;
    let mut ledger = stable(now);
    ledger.next = Some(Next { ca: ca(1, now), settled: Some(at(now)) });
    let lacking = Spread { lacking: ["Pod shop/orders-db-proxy-0".to_owned()].into(), ..hour() };
    let told = look(&ledger, &Given::Generate, &want(), &lacking, now + DAY);
    let (wait, why) = told.waits.unwrap();
    assert_eq!((told.step, wait), (Step::Keep, Wait::Pending));
    assert!(why.contains("Pod shop/orders-db-proxy-0"), "{why}");
    let last = look(&ledger, &Given::Generate, &want(), &lacking, now + LIFE - 3600);
    assert!(matches!(last.step, Step::Promote(_)), "what the old one signs now ends with it: {last:?}");
}

#[test]
fn a_given_authority_is_rotated_to_when_another_is_given() {
    let now = 1_800_000_000;
    let given = |ca: &CaFacts| Given::Usable(ca.clone());
    let (old, new) = (stable(now), ca(1, now));
    assert_eq!(look(&old, &given(&old.active), &want(), &hour(), now).step, Step::Keep);
    assert_eq!(look(&old, &given(&new), &want(), &hour(), now).step, Step::Prepare("another one was given"));
    let under_way = Ledger { next: Some(Next { ca: new.clone(), settled: None }), ..old.clone() };
    assert_eq!(look(&under_way, &given(&new), &want(), &hour(), now).step, Step::Settle);
    assert!(matches!(look(&under_way, &given(&old.active), &want(), &hour(), now).step, Step::Abandon(_)));
    assert_eq!(
        look(&under_way, &given(&ca(2, now)), &want(), &hour(), now).step,
        Step::Prepare("another one was given")
    );
    // An intermediate below the same root: everybody trusts it already.
    let sibling = CaFacts { roots: old.active.roots.clone(), ..ca(3, now) };
    assert!(matches!(look(&old, &given(&sibling), &want(), &hour(), now).step, Step::Exchange(_)));
    // Asked to rotate, the operator cannot: it says what to do.
    let asked = Wanted { requested_at: Some(at(now + 10)), ..want() };
    let told = look(&old, &given(&old.active), &asked, &hour(), now + 20);
    assert_eq!((told.step, told.waits.unwrap().0), (Step::Keep, Wait::NearItsEnd));
}

#[test]
fn one_that_cannot_be_used_is_told_and_stops_nothing_that_is_under_way() {
    let now = 1_800_000_000;
    let bad = Given::Unusable("CAKeyMismatch", "tls.key is not the key".to_owned());
    let told = look(&stable(now), &bad, &want(), &hour(), now);
    assert_eq!((told.step, told.waits.unwrap().0), (Step::Keep, Wait::Given("CAKeyMismatch")));
    let under_way = Ledger { next: Some(Next { ca: ca(1, now), settled: None }), ..stable(now) };
    assert_eq!(look(&under_way, &bad, &want(), &hour(), now).step, Step::Settle);
}

#[test]
fn a_stolen_given_key_waits_for_a_new_one_and_a_stolen_new_one_is_not_taken() {
    let now = 1_800_000_000;
    let want = Wanted { compromised_before: Some(at(now)), ..want() };
    let old = stable(now - 1000);
    let told = look(&old, &Given::Usable(old.active.clone()), &want, &hour(), now);
    assert_eq!((told.step, told.waits.unwrap().0), (Step::Keep, Wait::Compromised));
    let stolen = look(&old, &Given::Usable(ca(1, now - 500)), &want, &hour(), now);
    assert_eq!(stolen.step, Step::Keep);
    assert_eq!(
        look(&old, &Given::Usable(ca(1, now)), &want, &hour(), now).step,
        Step::Replace("its key is known to others")
    );
    let mut retiring = stable(now);
    retiring.previous.push(Previous { ca: ca(7, now - 9), retire_after: at(now + 9000) });
    assert_eq!(look(&retiring, &Given::Generate, &want, &hour(), now).step, Step::Retire(["ca-7".to_owned()].into()));
}

#[test]
fn an_old_root_stays_while_a_fleet_serves_with_it() {
    let now = 1_800_000_000;
    let mut ledger = stable(now);
    ledger.previous.push(Previous { ca: ca(7, now), retire_after: at(now + 10) });
    let serving = Spread { serving: ["ca-7".to_owned()].into(), ..hour() };
    assert_eq!(look(&ledger, &Given::Generate, &want(), &serving, now + 100).step, Step::Keep);
    assert_eq!(look(&ledger, &Given::Generate, &want(), &hour(), now + 9).step, Step::Keep);
    assert!(matches!(look(&ledger, &Given::Generate, &want(), &hour(), now + 10).step, Step::Retire(_)));
}
