//! Watches that end as soon as they begin are not begun again at once, and requests that nobody answers are given up.
//!
//! Owns the client that both programs ask the API server with. Touches what that one touches, and a monotonic clock.
//! Invariants: whatever an API server, or what stands before it, does with watches, nobody asks without a pause; nobody
//! waits for an answer to begin for longer than [`ANSWER`].
//!
//! The watcher backs off from errors alone: a watch that is taken and closed, again and again, is none to it. It waits
//! for the answer to a list or a watch for as long as the connection stands, which may be dead.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::Client;
use kube::client::Body;
use tokio::time::{Instant, sleep, timeout};

/// A watch that was given up sooner than this after it was taken up was none.
pub const BRIEF: Duration = Duration::from_secs(1);
/// Before the second in a row; doubled with each.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
/// For an answer to begin.
pub const ANSWER: Duration = Duration::from_secs(20);
/// Watches that are remembered; beyond that, only those that may yet be none.
const MOST: usize = 1000;
/// Doublings up to the longest.
const DOUBLINGS: u32 = 6;

/// When each watch was taken up last, and how many in a row were none.
#[derive(Debug, Default)]
struct Pace(Mutex<HashMap<String, (Instant, u32)>>);

/// Nobody answers.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the API server has not answered for {ANSWER:?}")]
struct Unanswered;

/// The same client, with pauses between watches that are none, and a deadline for every answer to begin.
#[must_use]
pub fn paced(client: Client, namespace: &str) -> Client {
    let pace = Arc::new(Pace::default());
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (client, pace) = (client.clone(), Arc::clone(&pace));
        async move {
            let watch = watch(request.uri());
            if let Some(watch) = &watch {
                sleep(pace.pause(watch, Instant::now())).await;
            }
            let answer = timeout(ANSWER, client.send(request)).await.map_err(|_| Unanswered)??;
            if let Some(watch) = watch.filter(|_| answer.status().is_success()) {
                pace.taken_up(watch, Instant::now());
            }
            Ok::<_, tower::BoxError>(answer)
        }
    });
    Client::new(service, namespace)
}

impl Pace {
    /// How long to wait before asking for it again: the watcher asks as soon as the one before has ended.
    fn pause(&self, watch: &str, now: Instant) -> Duration {
        let mut watches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((taken_up, in_a_row)) = watches.get_mut(watch) else { return Duration::ZERO };
        if now.duration_since(*taken_up) >= BRIEF {
            watches.remove(watch);
            return Duration::ZERO;
        }
        let pause = FIRST.saturating_mul(1 << (*in_a_row).min(DOUBLINGS)).min(LONGEST);
        *in_a_row = in_a_row.saturating_add(1);
        // What is cut off together does not come back together.
        pause.mul_f64(1.0 + rand::random::<f64>() / 5.0)
    }

    fn taken_up(&self, watch: String, now: Instant) {
        let mut watches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of questions that were answered long ago are asked for no more.
        if watches.len() >= MOST {
            watches.retain(|_, (taken_up, _)| now.duration_since(*taken_up) < BRIEF);
        }
        watches.entry(watch).or_insert((now, 0)).0 = now;
    }
}

/// What a request asks to watch; nothing for any other. The version from which on is not part of it.
fn watch(uri: &http::Uri) -> Option<String> {
    let query = uri.query()?;
    query.split('&').any(|part| part == "watch=true").then(|| {
        let selectors = query.split('&').filter(|part| part.contains("Selector="));
        [uri.path()].into_iter().chain(selectors).collect::<Vec<_>>().join("&")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_watches_that_are_given_up_at_once_are_waited_for_and_ever_longer() {
        let (pace, start) = (Pace::default(), Instant::now());
        let at = |millis: u64| start + Duration::from_millis(millis);
        assert_eq!(pace.pause("a", at(0)), Duration::ZERO);
        let (mut now, mut pauses) = (0, Vec::new());
        for _ in 0..10 {
            pace.taken_up("a".into(), at(now));
            pauses.push(pace.pause("a", at(now + 1)));
            now += 10_000;
        }
        assert!(pauses[0] >= FIRST && pauses[0] < 2 * FIRST, "{pauses:?}");
        assert!(pauses[9] >= LONGEST && pauses[9] < 2 * LONGEST, "{pauses:?}");
        assert_eq!(pace.pause("b", at(now)), Duration::ZERO, "another's watch");
        pace.taken_up("a".into(), at(now));
        assert_eq!(pace.pause("a", at(now + 1000)), Duration::ZERO, "it lasted");
        pace.taken_up("a".into(), at(now + 1000));
        assert!(pace.pause("a", at(now + 1001)) < 2 * FIRST, "and all is as it was");
    }

    #[test]
    fn a_watch_is_known_by_what_it_shows_and_not_by_where_it_begins() {
        let of = |text: &str| watch(&text.parse().unwrap());
        let pods = "https://h/api/v1/pods?&watch=true&timeoutSeconds=290&allowWatchBookmarks=true";
        assert_eq!(of(&format!("{pods}&resourceVersion=1")), of(&format!("{pods}&resourceVersion=2")));
        assert_ne!(of(pods), of(&format!("{pods}&labelSelector=a%3Db")));
        assert_eq!(of("https://h/api/v1/pods?limit=500"), None);
        assert_eq!(of("https://h/api/v1/pods"), None);
    }
}
