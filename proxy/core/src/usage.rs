//! What each agent uses of this replica: the sessions it has open, and the commands it has run of late.
//!
//! Owns those counts. Touches its arguments only; the time is given. Invariant: a count is kept as long as it can still
//! refuse something and no longer, so that nobody gets a fresh one by leaving and coming again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sallyport_policy::{Bound, DenyReason, IdentityName, Seats};
use tokio::time::Instant;

/// In what time a pace is renewed whole.
const MINUTE: Duration = Duration::from_secs(60);

/// The counts of every agent that is here, or was a minute ago.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    agents: Mutex<Agents>,
}

#[derive(Debug, Default)]
struct Agents {
    by_name: BTreeMap<IdentityName, Arc<Mutex<Counts>>>,
    /// When those were last looked for that count nothing any more.
    swept: Option<Instant>,
}

/// The counts of one agent.
#[derive(Debug, Default)]
struct Counts {
    /// Open sessions by credential.
    sessions: BTreeMap<String, u64>,
    /// Spent commands by policy.
    spent: BTreeMap<Arc<str>, Bucket>,
}

/// A bucket that holds a minute's commands and fills evenly.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// When all of them will be there again, if none is taken.
    full_at: Instant,
}

/// A place of one session, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    counts: Arc<Mutex<Counts>>,
    credential: String,
}

impl Usage {
    /// Takes a place for a session of that agent and credential, if every bound that counts it has one left. Looked at and
    /// taken under one lock: of two that come at once, one gets the last.
    pub(crate) fn seat(
        &self,
        agent: &IdentityName,
        credential: &str,
        bounds: &[Seats],
        now: Instant,
    ) -> Result<Seat, DenyReason> {
        let mut agents = lock(&self.agents);
        agents.sweep(now);
        let counts = Arc::clone(agents.by_name.entry(agent.clone()).or_default());
        let mut held = lock(&counts);
        for Seats { bound, credentials } in bounds {
            let open: u64 = credentials.iter().filter_map(|name| held.sessions.get(name)).sum();
            if open >= bound.most {
                return Err(DenyReason::TooManySessions { most: bound.most, policy: bound.policy.to_string() });
            }
        }
        *held.sessions.entry(credential.to_owned()).or_default() += 1;
        drop(held);
        drop(agents);
        Ok(Seat { counts, credential: credential.to_owned() })
    }
}

impl Seat {
    /// Counts one command against every pace, if each has room for it. One that must run is counted and never refused: it
    /// is paid for by the next.
    pub(crate) fn spend(&self, paces: &[Bound], now: Instant, must_run: bool) -> Result<(), DenyReason> {
        if paces.is_empty() {
            return Ok(());
        }
        let mut counts = lock(&self.counts);
        for pace in paces.iter().filter(|_| !must_run) {
            let wait = counts.spent.get(&pace.policy).map_or(Duration::ZERO, |bucket| bucket.wait(pace.most, now));
            if !wait.is_zero() {
                return Err(DenyReason::TooManyCommands {
                    most: pace.most,
                    policy: pace.policy.to_string(),
                    // At least one: whoever waits for none would be refused again.
                    seconds: wait.as_secs() + u64::from(wait.subsec_nanos() > 0),
                });
            }
        }
        for pace in paces {
            let bucket = counts.spent.entry(Arc::clone(&pace.policy)).or_insert(Bucket { full_at: now });
            bucket.take(pace.most, now);
        }
        Ok(())
    }
}

impl Bucket {
    /// How long until there is one to take.
    fn wait(self, most: u64, now: Instant) -> Duration {
        let lacking = self.full_at.saturating_duration_since(now) + share(most);
        lacking.saturating_sub(MINUTE)
    }

    fn take(&mut self, most: u64, now: Instant) {
        // What must run may owe a minute at most: a pace is no punishment without end.
        self.full_at = (self.full_at.max(now) + share(most)).min(now + 2 * MINUTE);
    }
}

/// In what time one command comes back.
fn share(most: u64) -> Duration {
    MINUTE / u32::try_from(most.max(1)).unwrap_or(u32::MAX)
}

impl Agents {
    /// Forgets, once a minute, who has no session open and has all of its commands back.
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|swept| now < swept + MINUTE) {
            return;
        }
        self.swept = Some(now);
        self.by_name.retain(|_, counts| {
            let mut counts = lock(counts);
            counts.spent.retain(|_, bucket| bucket.full_at > now);
            !counts.sessions.is_empty() || !counts.spent.is_empty()
        });
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        if let Some(open) = counts.sessions.get_mut(&self.credential) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                counts.sessions.remove(&self.credential);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(name: &str) -> IdentityName {
        IdentityName::new("cluster.local", "ci", name).unwrap()
    }

    fn pace(most: u64) -> Vec<Bound> {
        vec![Bound { most, policy: "p".into() }]
    }

    fn seats(most: u64, credentials: &[&str]) -> Vec<Seats> {
        let credentials = credentials.iter().map(|&name| name.to_owned()).collect();
        vec![Seats { bound: Bound { most, policy: "p".into() }, credentials }]
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_pace_lets_a_minutes_commands_through_at_once_and_then_each_in_its_time() {
        for most in [1, 3, 60, 1000] {
            let (usage, now) = (Usage::default(), Instant::now());
            let seat = usage.seat(&agent("bot"), "default", &[], now).unwrap();
            let spend = |at| seat.spend(&pace(most), at, false).is_ok();
            assert_eq!((0..most + 5).filter(|_| spend(now)).count() as u64, most);
            let mut passed = 0;
            for tenth in 1..=1200 {
                passed += u64::from(spend(now + Duration::from_millis(100 * tenth)));
            }
            // Two minutes later, asked ten times a second.
            assert!(passed.abs_diff((2 * most).min(1200)) <= 1, "{most}: {passed}");
        }
    }

    #[test]
    fn a_pace_says_when_to_come_again_and_is_right() {
        let (usage, now) = (Usage::default(), Instant::now());
        let seat = usage.seat(&agent("bot"), "default", &[], now).unwrap();
        for _ in 0..4 {
            seat.spend(&pace(4), now, false).unwrap();
        }
        let refused = seat.spend(&pace(4), now + seconds(1), false).unwrap_err();
        assert_eq!(refused, DenyReason::TooManyCommands { most: 4, policy: "p".into(), seconds: 14 });
        seat.spend(&pace(4), now + seconds(15), false).unwrap();
        assert!(seat.spend(&pace(4), now + seconds(15), false).is_err());
    }

    #[test]
    fn what_must_run_is_paid_for_by_the_next_and_owes_a_minute_at_most() {
        let (usage, now) = (Usage::default(), Instant::now());
        let seat = usage.seat(&agent("bot"), "default", &[], now).unwrap();
        for _ in 0..100 {
            seat.spend(&pace(2), now, true).unwrap();
        }
        assert!(seat.spend(&pace(2), now + seconds(89), false).is_err());
        seat.spend(&pace(2), now + seconds(90), false).unwrap();
    }

    #[test]
    fn every_pace_counts_by_itself_and_one_that_refuses_spends_nothing_of_the_others() {
        let (usage, now) = (Usage::default(), Instant::now());
        let seat = usage.seat(&agent("bot"), "default", &[], now).unwrap();
        let wide = Bound { most: 3, policy: "wide".into() };
        let narrow = Bound { most: 1, policy: "narrow".into() };
        let both = [wide.clone(), narrow];
        seat.spend(&both, now, false).unwrap();
        for _ in 0..5 {
            let refused = seat.spend(&both, now, false).unwrap_err();
            assert!(matches!(refused, DenyReason::TooManyCommands { policy, .. } if policy == "narrow"));
        }
        let alone = [wide];
        assert!(seat.spend(&alone, now, false).is_ok() && seat.spend(&alone, now, false).is_ok());
        assert!(seat.spend(&alone, now, false).is_err());
    }

    #[test]
    fn leaving_and_coming_again_brings_no_fresh_minute() {
        let (usage, now) = (Usage::default(), Instant::now());
        usage.seat(&agent("bot"), "default", &[], now).unwrap().spend(&pace(1), now, false).unwrap();
        for later in [0, 30, 59] {
            let at = now + seconds(later);
            // Others come meanwhile, and what counts nothing is swept away.
            drop(usage.seat(&agent("other"), "default", &[], at).unwrap());
            let seat = usage.seat(&agent("bot"), "default", &[], at).unwrap();
            assert!(seat.spend(&pace(1), at, false).is_err(), "{later}");
        }
        let seat = usage.seat(&agent("bot"), "default", &[], now + seconds(60)).unwrap();
        seat.spend(&pace(1), now + seconds(60), false).unwrap();
    }

    #[test]
    fn who_is_gone_is_forgotten_after_a_minute() {
        let (usage, now) = (Usage::default(), Instant::now());
        for n in 0..100 {
            let seat = usage.seat(&agent(&format!("bot-{n}")), "default", &[], now).unwrap();
            seat.spend(&pace(10), now, false).unwrap();
        }
        let here = usage.seat(&agent("here"), "default", &[], now + seconds(61)).unwrap();
        assert_eq!(lock(&usage.agents).by_name.len(), 1);
        drop(here);
    }

    #[test]
    fn sessions_count_by_agent_and_credential_and_give_their_place_back() {
        let (usage, now) = (Usage::default(), Instant::now());
        let open = |name, credential: &str, bounds: &[Seats]| usage.seat(&agent(name), credential, bounds, now);
        let two = seats(2, &["default", "readonly"]);
        let first = open("bot", "default", &two).unwrap();
        let second = open("bot", "readonly", &two).unwrap();
        let refused = open("bot", "default", &two).unwrap_err();
        assert_eq!(refused, DenyReason::TooManySessions { most: 2, policy: "p".into() });
        drop(open("other", "default", &two).unwrap());
        drop(open("bot", "owner", &seats(1, &["owner"])).unwrap());
        drop(first);
        let third = open("bot", "default", &two).unwrap();
        assert!(open("bot", "default", &two).is_err());
        drop((second, third));
        assert!(lock(&lock(&usage.agents).by_name[&agent("bot")]).sessions.is_empty());
    }
}
