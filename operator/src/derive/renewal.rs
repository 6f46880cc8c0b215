//! When a certificate is replaced: at a moment that its serial number draws from a window.
//!
//! Owns the window and the draw. Touches nothing. Invariant: what was issued together, or missed together,
//! is not renewed together; and at least three quarters of what `renewBefore` leaves of a life pass first.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::certificate::{minus, plus, until};

/// The least time between issue and renewal, where the life is that long.
const LEAST: Duration = Duration::from_secs(30);

/// When in a certificate's life it is replaced: from `latest - width` to `latest` after its start.
///
/// By default that is from a half to two thirds of the life: `renewBefore` is a third, the width a sixth. A larger
/// `renewBefore` makes the window narrower: it never takes more than a quarter of the time before `latest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    lifetime: Duration,
    latest: Duration,
    width: Duration,
}

impl Window {
    /// The window of a life; total, also where the schema would have refused the two.
    pub(super) fn new(lifetime: Duration, renew_before: Duration) -> Self {
        let latest = lifetime.saturating_sub(renew_before).max(LEAST.min(lifetime));
        Self { lifetime, latest, width: (lifetime / 6).min(latest / 4) }
    }

    /// When the certificate with that serial number and end is replaced by an operator that acts since `since`.
    ///
    /// A renewal that was due before `since` was missed, and so were others: they are spread over the width of the
    /// window again. Never beyond half of `renewBefore`: what has less left than that is replaced at once.
    pub(super) fn renewal(&self, serial: &str, not_after: Timestamp, since: Timestamp) -> Timestamp {
        let [planned, missed] = draws(serial);
        let ahead = self.lifetime.saturating_sub(self.latest);
        let due = minus(not_after, ahead + self.width.mul_f64(planned));
        if due >= since {
            return due;
        }
        let slack = until(minus(not_after, ahead / 2), since);
        plus(since, self.width.min(slack).mul_f64(missed))
    }
}

/// Two numbers from 0 up to 1 that are the same after a restart. Whether the first lies before some moment says
/// nothing about the second.
fn draws(serial: &str) -> [f64; 2] {
    let digest = Sha256::digest(serial.as_bytes());
    let draw = |from: usize| {
        let bits = digest.iter().skip(from).take(4).fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    };
    [draw(0), draw(4)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const NEVER_AWAY: Timestamp = Timestamp::MIN;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn share(window: Window, serial: &str) -> f64 {
        let end = plus(at(0), window.lifetime);
        window.renewal(serial, end, NEVER_AWAY).as_nanosecond() as f64 / 1e9 / window.lifetime.as_secs_f64()
    }

    #[test]
    fn by_default_it_is_from_a_half_to_two_thirds_of_the_life() {
        for hours in [1, 24] {
            let window = Window::new(HOUR * hours, HOUR * hours / 3);
            let shares: Vec<f64> = (0..2000).map(|n| share(window, &format!("{n:032x}"))).collect();
            let (least, most) = shares.iter().fold((1.0, 0.0), |(a, b): (f64, f64), s| (a.min(*s), b.max(*s)));
            assert!((0.5..0.502).contains(&least) && (0.664..=2.0 / 3.0 + 1e-9).contains(&most), "{least} {most}");
        }
    }

    #[test]
    fn a_life_shorter_than_its_jitter_still_has_a_renewal_after_its_start_and_by_its_end() {
        let seconds = [0, 1, 10, 29, 30, 31, 60, 299, 300, 301, 3600, 86_400, u64::MAX];
        for lifetime in seconds.map(Duration::from_secs) {
            for renew_before in seconds.map(Duration::from_secs) {
                let window = Window::new(lifetime, renew_before);
                assert!(window.width <= window.latest / 4 && window.latest <= lifetime, "{window:?}");
                // Three quarters of half a minute at the least, so that nothing loops.
                let first = window.latest.saturating_sub(window.width);
                assert!(first >= LEAST.min(lifetime) * 3 / 4, "{window:?}");
                let renewal = window.renewal("0f", plus(at(0), lifetime), at(0));
                assert!(renewal >= at(0) && renewal <= plus(at(0), lifetime), "{window:?}: {renewal}");
            }
        }
    }

    #[test]
    fn never_later_than_renew_before_says() {
        for (minutes, before) in [(60, 20), (60, 50), (5, 4), (60, 1), (1440, 1)] {
            let minute = Duration::from_secs(60);
            let window = Window::new(minute * minutes, minute * before);
            let limit = plus(at(0), minute * (minutes - before));
            for n in 0..500 {
                assert!(window.renewal(&format!("{n:x}"), plus(at(0), minute * minutes), NEVER_AWAY) <= limit);
            }
        }
    }

    #[test]
    fn a_missed_renewal_is_put_off_only_while_there_is_time() {
        let window = Window::new(HOUR, HOUR / 3);
        let end = at(3600);
        // Back right after the window: 20 minutes are left, ten of them may be used.
        let late = (0..500).map(|n| window.renewal(&format!("{n:x}"), end, at(2400))).max().unwrap();
        assert!(late > at(2400 + 500) && late <= at(2400 + 600), "{late}");
        // Less than half of renewBefore is left, or nothing: at once.
        for back in [3000, 3500, 3600, 9999] {
            assert_eq!(window.renewal("0f", end, at(back)), at(back));
        }
    }
}
