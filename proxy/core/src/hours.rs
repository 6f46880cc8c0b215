//! A session's hours: until when its certificate, its duration and its idleness let it go on.
//!
//! Owns that reckoning. Touches its arguments only: both clocks are read by the caller. Invariant: nothing that a
//! client does moves the end of its session past the grace that its terms give to an open transaction.

use std::time::{Duration, SystemTime};

use sallyport_policy::{Denial, DenyReason, Terms};
use tokio::time::Instant;

/// How long the wall clock is trusted not to jump.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// From when to when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hours {
    /// When the session began.
    pub(crate) opened: Instant,
    /// The end of its certificate.
    pub(crate) not_after: SystemTime,
}

/// What the clocks say.
#[derive(Debug)]
pub(crate) struct Reading {
    /// Set once the session shall end as soon as it has no transaction open.
    pub(crate) over: Option<Denial>,
    /// Whether no transaction is waited for any more.
    pub(crate) past: bool,
    /// When to read again at the latest, if no command has come.
    pub(crate) again: Instant,
}

impl Hours {
    /// Reads the clocks. `idle_since` is none while something runs.
    pub(crate) fn read(&self, terms: &Terms, now: Instant, wall: SystemTime, idle_since: Option<Instant>) -> Reading {
        let mut reading = Reading { over: None, past: false, again: now + LOOK_AGAIN };
        match self.not_after.duration_since(wall) {
            Ok(left) if !left.is_zero() => reading.wake(now + left.min(LOOK_AGAIN)),
            ended => {
                let since = ended.err().map(|error| error.duration()).unwrap_or_default();
                reading.ended(DenyReason::CertificateExpired, since, terms.expiry_grace, now);
            }
        }
        if let Some(limit) = terms.duration {
            match (self.opened + limit).checked_duration_since(now) {
                Some(left) if !left.is_zero() => reading.wake(now + left),
                _ => {
                    let since = now.duration_since(self.opened).saturating_sub(limit);
                    let reason = DenyReason::SessionTooLong { seconds: limit.as_secs() };
                    reading.ended(reason, since, terms.expiry_grace, now);
                }
            }
        }
        if let Some(limit) = terms.idle {
            match (idle_since.unwrap_or(now) + limit).checked_duration_since(now) {
                Some(left) if !left.is_zero() => reading.wake(now + left),
                // An idle transaction is no reason to wait: it holds its locks for nobody.
                _ => reading.ended(
                    DenyReason::SessionIdle { seconds: limit.as_secs() },
                    Duration::ZERO,
                    Duration::ZERO,
                    now,
                ),
            }
        }
        reading
    }
}

impl Reading {
    fn ended(&mut self, reason: DenyReason, since: Duration, grace: Duration, now: Instant) {
        match grace.checked_sub(since) {
            Some(left) if !left.is_zero() => self.wake(now + left.min(LOOK_AGAIN)),
            _ => self.past = true,
        }
        self.over.get_or_insert_with(|| reason.into());
    }

    fn wake(&mut self, at: Instant) {
        self.again = self.again.min(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    const HOUR: Duration = Duration::from_secs(3600);

    /// A session of a certificate of one hour, looked at after that long.
    fn after(passed: Duration, terms: &Terms, idle: Option<Duration>) -> (Option<DenyReason>, bool, Duration) {
        let now = Instant::now() + 100 * HOUR;
        let hours = Hours { opened: now.checked_sub(passed).unwrap(), not_after: UNIX_EPOCH + HOUR };
        let idle_since = idle.map(|idle| now.checked_sub(idle).unwrap());
        let Reading { over, past, again } = hours.read(terms, now, UNIX_EPOCH + passed, idle_since);
        (over.map(|denial| denial.reason), past, again - now)
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_certificate_ends_a_session_and_its_grace_ends_its_transaction() {
        let terms = Terms::default();
        assert_eq!(after(seconds(0), &terms, None), (None, false, LOOK_AGAIN));
        assert_eq!(after(seconds(3590), &terms, None), (None, false, seconds(10)));
        let expired = Some(DenyReason::CertificateExpired);
        assert_eq!(after(HOUR, &terms, None), (expired.clone(), false, LOOK_AGAIN));
        assert_eq!(after(HOUR + seconds(590), &terms, None), (expired.clone(), false, seconds(10)));
        assert_eq!(after(HOUR + seconds(600), &terms, None), (expired.clone(), true, LOOK_AGAIN));
        let none = Terms { expiry_grace: Duration::ZERO, ..Terms::default() };
        assert_eq!(after(HOUR, &none, None), (expired, true, LOOK_AGAIN));
    }

    #[test]
    fn a_duration_ends_a_session_as_its_certificate_does() {
        let terms = Terms { duration: Some(seconds(100)), expiry_grace: seconds(20), ..Terms::default() };
        let over = Some(DenyReason::SessionTooLong { seconds: 100 });
        assert_eq!(after(seconds(99), &terms, None), (None, false, seconds(1)));
        assert_eq!(after(seconds(100), &terms, None), (over.clone(), false, seconds(20)));
        assert_eq!(after(seconds(120), &terms, None), (over, true, LOOK_AGAIN));
    }

    #[test]
    fn idleness_ends_a_session_at_once_and_only_when_nothing_runs() {
        let terms = Terms { idle: Some(seconds(30)), ..Terms::default() };
        assert_eq!(after(seconds(100), &terms, None), (None, false, seconds(30)));
        assert_eq!(after(seconds(100), &terms, Some(seconds(29))), (None, false, seconds(1)));
        let over = Some(DenyReason::SessionIdle { seconds: 30 });
        assert_eq!(after(seconds(100), &terms, Some(seconds(30))), (over, true, LOOK_AGAIN));
    }

    #[test]
    fn a_wall_clock_that_jumps_is_noticed_within_a_minute() {
        for passed in [0, 100, 3000, 3599, 3600, 4000, 9000] {
            assert!(after(seconds(passed), &Terms::default(), None).2 <= LOOK_AGAIN);
        }
    }
}
