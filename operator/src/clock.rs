//! What time it is, and since when renewals are acted on without a gap.
//!
//! Owns the watch for a clock that jumps. Touches the wall clock (through its port) and the one that only runs.
//! Invariant: after a jump everything is looked at again, and what it made overdue is spread like what was missed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::bell::Bell;

/// How often the two clocks are compared.
const LOOK: Duration = Duration::from_secs(5);
/// A difference that no slewing makes between two looks.
const JUMP: SignedDuration = SignedDuration::from_secs(10);

/// The wall clock; clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    wall: fn() -> Timestamp,
    since: Arc<Mutex<Timestamp>>,
}

impl Clock {
    pub(crate) fn new(wall: fn() -> Timestamp) -> Self {
        Self { wall, since: Arc::new(Mutex::new(wall())) }
    }

    /// Now.
    pub(crate) fn now(&self) -> Timestamp {
        (self.wall)()
    }

    /// Since when this process acts on renewals.
    pub(crate) fn since(&self) -> Timestamp {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on; what was due before was missed.
    pub(crate) fn start(&self) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = self.now();
    }

    /// Rings for everything whenever the wall clock was set. Timers run by the other clock: without this, what
    /// ended by the new time would wait for a timer set by the old.
    pub(crate) async fn watch(self, bell: Bell, stop: CancellationToken) {
        let look = || (self.now(), tokio::time::Instant::now());
        let mut last = look();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let next = look();
            if let Some(jump) = jump(next.0.duration_since(last.0), next.1 - last.1) {
                tracing::warn!(seconds = jump.as_secs(), "the clock was set: every certificate is looked at again");
                self.start();
                bell.everything();
            }
            last = next;
        }
    }
}

/// How far the wall clock was set while `passed` went by.
fn jump(wall: SignedDuration, passed: Duration) -> Option<SignedDuration> {
    let jump = wall - SignedDuration::try_from(passed).unwrap_or(SignedDuration::MAX);
    (jump.abs() > JUMP).then_some(jump)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_either_way_is_told_from_the_course_of_time() {
        let wall = SignedDuration::from_secs;
        assert_eq!(jump(wall(5), LOOK), None);
        // Slewed, and a machine that was too busy to look.
        assert_eq!(jump(wall(6), LOOK), None);
        assert_eq!(jump(wall(300), Duration::from_secs(299)), None);
        assert_eq!(jump(wall(7205), LOOK), Some(wall(7200)));
        assert_eq!(jump(wall(-295), LOOK), Some(wall(-300)));
        // A machine that slept: the clock that only runs stood still.
        assert_eq!(jump(wall(600), Duration::from_millis(5)).map(|jump| jump.as_secs()), Some(599));
    }
}
