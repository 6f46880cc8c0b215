//! The policy feed: the world in force now, and a signal when it changes.
//!
//! Owns the one place where a world is swapped. Touches nothing outside; `edges/` publishes. Invariant:
//! readers never wait for a writer, and every swap raises the generation.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};
use sallyport_policy::{Bundle, Roster, World};
use tokio::sync::watch;
use tokio::time::Instant;

/// Hands out the world in force.
#[derive(Debug)]
pub struct PolicyFeed {
    world: ArcSwapOption<World>,
    parts: Mutex<Parts>,
    changed: watch::Sender<u64>,
    confirmed: Mutex<Option<Confirmed>>,
}

/// That what is in force was the newest, and when.
#[derive(Debug, Clone, Copy)]
struct Confirmed {
    /// When that was heard.
    heard: Instant,
    /// How old the word was then.
    age: Duration,
}

#[derive(Debug, Default)]
struct Parts {
    bundle: Option<Arc<Bundle>>,
    roster: Option<Arc<Roster>>,
    generation: u64,
}

impl Default for PolicyFeed {
    fn default() -> Self {
        Self {
            world: ArcSwapOption::empty(),
            parts: Mutex::default(),
            changed: watch::Sender::new(0),
            confirmed: Mutex::default(),
        }
    }
}

impl PolicyFeed {
    /// The world in force; none until bundle and roster have both come once.
    #[must_use]
    pub fn current(&self) -> Option<Arc<World>> {
        self.world.load_full()
    }

    /// The same, borrowed: for the hot path.
    #[must_use]
    pub fn load(&self) -> Guard<Option<Arc<World>>> {
        self.world.load()
    }

    /// Tells of every swap by its generation.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Puts a bundle in force.
    pub fn publish_bundle(&self, bundle: Bundle) {
        self.publish(|parts| {
            let same = parts.bundle.as_deref() == Some(&bundle);
            parts.bundle = Some(Arc::new(bundle));
            !same
        });
    }

    /// Puts a roster in force.
    pub fn publish_roster(&self, roster: Roster) {
        self.publish(|parts| {
            let same = parts.roster.as_deref() == Some(&roster);
            parts.roster = Some(Arc::new(roster));
            !same
        });
    }

    /// Notes that what is in force was known to be the newest that long ago.
    pub fn confirm(&self, age: Duration) {
        *self.confirmed() = Some(Confirmed { heard: Instant::now(), age });
    }

    /// How long ago what is in force was last known to be the newest; none if it never was. By a clock that
    /// does not jump.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.confirmed().map(|confirmed| confirmed.age.saturating_add(confirmed.heard.elapsed()))
    }

    fn confirmed(&self) -> MutexGuard<'_, Option<Confirmed>> {
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, change: impl FnOnce(&mut Parts) -> bool) {
        // A poisoned lock only means that a publisher panicked between two plain assignments.
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if !change(&mut parts) {
            return;
        }
        let (Some(bundle), Some(roster)) = (parts.bundle.clone(), parts.roster.clone()) else { return };
        parts.generation += 1;
        let generation = parts.generation;
        self.world.store(Some(Arc::new(World { bundle, roster, generation })));
        // After the store: whoever is woken reads the new world.
        self.changed.send_replace(generation);
    }
}
