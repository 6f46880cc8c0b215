//! The doorway: what stands open for agents now, and how fresh it is.
//!
//! Owns the way of a bundle or roster from an edge into force. Touches the feed, the protocol in use and
//! TLS. Invariants: a bundle takes force whole, with its protocol, or not at all; its age is known.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use sallyport_core::PolicyFeed;
use sallyport_core::ports::Ports;
use sallyport_core::sessions::Sessions;
use sallyport_policy::{Bundle, Roster, TargetRef};
use serde_json::{Map, Value};

use crate::meter::{Metrics, WorldFacts};
use crate::registry::{Door, Parts, open};
use crate::tls::ServerTls;

/// What stands open for agents now.
pub(crate) struct Doorway {
    pub(crate) feed: Arc<PolicyFeed>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) ports: Ports,
    pub(crate) tls: Arc<ServerTls>,
    pub(crate) metrics: Arc<Metrics>,
    /// In a cluster: whom bundles must be for.
    pub(crate) target: Option<TargetRef>,
    pub(crate) entrance: ArcSwapOption<Entrance>,
    pub(crate) freshness: Mutex<Freshness>,
}

/// A door, and what it was opened with.
pub(crate) struct Entrance {
    protocol: String,
    settings: Map<String, Value>,
    door: Arc<dyn Door>,
}

/// When bundle and roster were last known to be the newest.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Freshness {
    bundle: Option<Seen>,
    roster: Option<Seen>,
}

/// Where a bundle or roster comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Seen {
    /// From its source, which had nothing newer at that time.
    AtSource(SystemTime),
    /// Kept from before this process started; it was the newest at that time.
    Kept(SystemTime),
}

impl Doorway {
    /// The door for a new connection; none until there was a bundle.
    pub(crate) fn door(&self) -> Option<Arc<dyn Door>> {
        self.entrance.load().as_ref().map(|entrance| Arc::clone(&entrance.door))
    }

    /// Puts a bundle in force.
    pub(crate) fn put_bundle(&self, json: &str, seen: Seen) -> Result<Bundle, String> {
        let taken = self.take_bundle(json);
        match &taken {
            Ok(bundle) => {
                let changed = self.revision().as_ref() != Some(&bundle.revision);
                self.feed.publish_bundle(bundle.clone());
                self.freshness().bundle = Some(seen);
                self.tell_age();
                if changed {
                    tracing::info!(revision = bundle.revision, policies = bundle.policies.len(), "bundle in force");
                }
            }
            Err(cause) => {
                self.metrics.input_refused("bundle");
                tracing::error!(%cause, "the bundle cannot be used, the one before stays");
            }
        }
        taken
    }

    /// Puts a roster in force.
    pub(crate) fn put_roster(&self, roster: Roster, seen: Seen) {
        tracing::debug!(identities = roster.members.len(), "roster in force");
        self.feed.publish_roster(roster);
        self.freshness().roster = Some(seen);
        self.tell_age();
    }

    /// Puts a roster in force that lacks a namespace or has it from before; its age stays what it was.
    pub(crate) fn put_partial_roster(&self, roster: Roster) {
        self.feed.publish_roster(roster);
    }

    /// What is in force was the newest at those times.
    pub(crate) fn confirm(&self, bundle: Option<SystemTime>, roster: Option<SystemTime>) {
        let mut freshness = self.freshness();
        let Freshness { bundle: bundle_seen, roster: roster_seen } = &mut *freshness;
        for (confirmed, seen) in [(bundle, bundle_seen), (roster, roster_seen)] {
            // What was kept counts as kept until its source has given it anew.
            if let (Some(at), Some(Seen::AtSource(time))) = (confirmed, seen) {
                *time = at.max(*time);
            }
        }
        drop(freshness);
        self.tell_age();
    }

    /// Decisions hang on the age of the older half, where the bundle says so.
    fn tell_age(&self) {
        let now = SystemTime::now();
        let Freshness { bundle, roster } = *self.freshness();
        if let (Some(bundle), Some(roster)) = (bundle, roster) {
            self.feed.confirm(Duration::from_secs_f64(bundle.age(now).max(roster.age(now))));
        }
    }

    /// The revision of the bundle in force.
    pub(crate) fn revision(&self) -> Option<String> {
        self.feed.load().as_ref().map(|world| world.bundle.revision.clone())
    }

    /// Why no session can be opened, if so.
    pub(crate) fn wanting(&self) -> Option<String> {
        if self.feed.load().is_some() {
            return None;
        }
        let freshness = self.freshness();
        Some(match (freshness.bundle, freshness.roster) {
            (None, _) => "no bundle yet: the operator writes it when the target is accepted".to_owned(),
            _ => "no roster yet: the identities of the agents are awaited".to_owned(),
        })
    }

    pub(crate) fn facts(&self, now: SystemTime) -> WorldFacts {
        let freshness = self.freshness();
        let kept = |seen| matches!(seen, Some(Seen::Kept(_)));
        WorldFacts {
            revision: self.revision(),
            bundle_age: freshness.bundle.map(|seen| seen.age(now)),
            roster_age: freshness.roster.map(|seen| seen.age(now)),
            last_known_good: kept(freshness.bundle) || kept(freshness.roster),
            certificate_left: self.tls.ends().map(|end| until(end, now)),
        }
    }

    fn take_bundle(&self, json: &str) -> Result<Bundle, String> {
        let bundle = Bundle::read(json).map_err(|error| error.to_string())?;
        if let Some(target) = self.target.as_ref().filter(|target| **target != bundle.target) {
            let TargetRef { namespace, name } = &bundle.target;
            return Err(format!("the bundle is for {namespace}/{name}, not {}/{}", target.namespace, target.name));
        }
        let entrance = self.entrance.load();
        let (protocol, settings) = (&bundle.upstream.protocol, &bundle.upstream.settings);
        if entrance.as_ref().is_none_or(|now| (&now.protocol, &now.settings) != (protocol, settings)) {
            let parts =
                Parts { feed: Arc::clone(&self.feed), ports: self.ports.clone(), sessions: Arc::clone(&self.sessions) };
            let opened = open(protocol, settings, parts)?;
            self.tls.speak(opened.alpn)?;
            // The settings were only tried: sessions read them from the bundle they open under. The door of the
            // same protocol stays, for it knows the sessions that are open (whom a cancel may interrupt).
            let same = entrance.as_ref().filter(|now| now.protocol == *protocol);
            let door = same.map_or(opened.door, |now| Arc::clone(&now.door));
            let (protocol, settings) = (protocol.clone(), settings.clone());
            self.entrance.store(Some(Arc::new(Entrance { protocol, settings, door })));
        }
        Ok(bundle)
    }

    fn freshness(&self) -> MutexGuard<'_, Freshness> {
        self.freshness.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds from `now` until `end`, less than nothing when it has passed.
fn until(end: i64, now: SystemTime) -> f64 {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    #[allow(clippy::cast_precision_loss, reason = "seconds are exact until the year 285 million")]
    let end = end as f64;
    end - now.as_secs_f64()
}

impl Seen {
    fn age(self, now: SystemTime) -> f64 {
        let (Self::AtSource(then) | Self::Kept(then)) = self;
        now.duration_since(then).map_or(0.0, |age| age.as_secs_f64())
    }
}
