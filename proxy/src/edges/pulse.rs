//! When the API server last took up the watch of each namespace: the proof that silence means nothing new.
//!
//! Owns that knowledge; it hears every answer that the client is given. Touches the client it is given.
//! Invariant: a watch that has failed since proves nothing, however lately it was taken up; nor does one that is taken
//! up after such a one before it has lasted a moment.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::Client;
use kube::client::Body;
use sallyport_client::BRIEF;

/// The watches of identities, by namespace.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    watches: Mutex<BTreeMap<String, Watch>>,
}

#[derive(Debug, Default)]
struct Watch {
    taken_up: Option<Instant>,
    failed: bool,
    /// The one before was none: this one has to last.
    unproven: bool,
    /// Nothing is known of this namespace and nothing may be: there is nothing that could be old.
    excused: bool,
}

impl Pulse {
    /// The same client, whose answers are heard.
    pub(crate) fn listening(self: &Arc<Self>, client: Client, namespace: &str) -> Client {
        let pulse = Arc::clone(self);
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let (client, pulse) = (client.clone(), Arc::clone(&pulse));
            let namespace = watched(request.uri()).map(str::to_owned);
            if let Some(namespace) = &namespace {
                pulse.asked_again(namespace, Instant::now());
            }
            async move {
                let answer = client.send(request).await.map_err(tower::BoxError::from)?;
                if let Some(namespace) = namespace.filter(|_| answer.status().is_success()) {
                    pulse.taken_up(&namespace, Instant::now());
                }
                Ok::<_, tower::BoxError>(answer)
            }
        });
        Client::new(service, namespace)
    }

    /// Sets which namespaces have to be watched.
    pub(crate) fn expect(&self, namespaces: &[String]) {
        let mut watches = self.watches();
        watches.retain(|name, _| namespaces.contains(name));
        for name in namespaces {
            watches.entry(name.clone()).or_default();
        }
    }

    /// The watch is asked for, since the one before has ended. Who takes watches and ends them at once tells nothing.
    fn asked_again(&self, namespace: &str, now: Instant) {
        if let Some(watch) = self.watches().get_mut(namespace) {
            let brief = watch.taken_up.is_some_and(|since| now.duration_since(since) < BRIEF);
            (watch.failed, watch.unproven) = (watch.failed || brief, brief);
        }
    }

    /// The server has answered a watch that goes on from what is known: since then it tells what is new.
    fn taken_up(&self, namespace: &str, now: Instant) {
        if let Some(watch) = self.watches().get_mut(namespace) {
            *watch = Watch { taken_up: Some(now), unproven: watch.unproven, ..Watch::default() };
        }
    }

    /// A watch has failed. `excused`: nobody of the namespace is known.
    pub(crate) fn failed(&self, namespace: &str, excused: bool) {
        if let Some(watch) = self.watches().get_mut(namespace) {
            (watch.failed, watch.excused) = (true, excused);
        }
    }

    /// How long ago every watch was seen to be alive; none if one is not.
    pub(crate) fn age(&self, now: Instant) -> Option<Duration> {
        let mut oldest = Duration::ZERO;
        for watch in self.watches().values().filter(|watch| !watch.excused) {
            let lasts = |since: &Instant| !watch.unproven || now.duration_since(*since) >= BRIEF;
            let alive = watch.taken_up.filter(|_| !watch.failed).filter(lasts)?;
            oldest = oldest.max(now.duration_since(alive));
        }
        Some(oldest)
    }

    fn watches(&self) -> MutexGuard<'_, BTreeMap<String, Watch>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The namespace whose identities a request asks to watch.
fn watched(uri: &http::Uri) -> Option<&str> {
    let namespace = uri.path().strip_suffix("/agentidentities")?.rsplit('/').next()?;
    uri.query()?.split('&').any(|part| part == "watch=true").then_some(namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_oldest_watch_counts_and_one_that_failed_counts_until_it_is_taken_up_again() {
        let (pulse, start) = (Pulse::default(), Instant::now());
        let at = |seconds: u32| start + seconds * SECOND;
        assert_eq!(pulse.age(at(0)), Some(Duration::ZERO), "nothing to watch is known whole");
        pulse.expect(&["a".into(), "b".into()]);
        assert_eq!(pulse.age(at(0)), None);
        pulse.taken_up("a", at(0));
        assert_eq!(pulse.age(at(1)), None);
        pulse.taken_up("b", at(1));
        assert_eq!(pulse.age(at(2)), Some(2 * SECOND));
        pulse.failed("b", false);
        assert_eq!(pulse.age(at(2)), None);
        pulse.taken_up("b", at(2));
        assert_eq!(pulse.age(at(2)), Some(2 * SECOND));
        pulse.expect(&["b".into()]);
        assert_eq!(pulse.age(at(2)), Some(Duration::ZERO));
    }

    #[test]
    fn watches_that_end_at_once_prove_nothing_until_one_lasts() {
        let (pulse, start) = (Pulse::default(), Instant::now());
        let at = |millis: u64| start + Duration::from_millis(millis);
        pulse.expect(&["a".into()]);
        pulse.asked_again("a", at(0));
        pulse.taken_up("a", at(0));
        assert_eq!(pulse.age(at(10)), Some(Duration::from_millis(10)));
        pulse.asked_again("a", at(20));
        assert_eq!(pulse.age(at(20)), None, "it has ended");
        pulse.taken_up("a", at(30));
        assert_eq!(pulse.age(at(40)), None, "this one may end as well");
        assert_eq!(pulse.age(at(1030)), Some(SECOND), "it lasts");
        pulse.asked_again("a", at(2000));
        pulse.taken_up("a", at(2000));
        assert_eq!(pulse.age(at(2000)), Some(Duration::ZERO));
    }

    #[test]
    fn a_namespace_of_which_nothing_is_known_makes_nothing_old() {
        let (pulse, now) = (Pulse::default(), Instant::now());
        pulse.expect(&["a".into(), "b".into()]);
        pulse.taken_up("a", now);
        pulse.failed("b", true);
        assert_eq!(pulse.age(now), Some(Duration::ZERO));
        pulse.taken_up("b", now);
        pulse.failed("b", false);
        assert_eq!(pulse.age(now), None);
    }

    #[test]
    fn only_a_watch_of_identities_is_a_beat() {
        let of = |text: &str| watched(&text.parse().unwrap()).map(str::to_owned);
        let path = "https://h/apis/sallyport.dev/v1alpha1/namespaces/ci/agentidentities";
        assert_eq!(of(&format!("{path}?watch=true&timeoutSeconds=30")).as_deref(), Some("ci"));
        assert_eq!(of(&format!("{path}?limit=500")), None);
        assert_eq!(of(path), None);
        assert_eq!(of("https://h/api/v1/namespaces/ci/configmaps?watch=true"), None);
    }
}
