//! The sessions that are open now.
//!
//! Owns their numbers and the way to reach one from outside its own task: interrupt, distrust, drain. Touches
//! nothing outside. Invariant: a session is registered before policy is asked, and gone when its task ends.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};

use crate::usage::Usage;

/// A session's number: 128 random bits, unguessable and unique.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u128);

impl SessionId {
    /// Made from 128 random bits, which the caller brings.
    #[must_use]
    pub const fn from_random(bits: u128) -> Self {
        Self(bits)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Every open session of this process.
#[derive(Debug, Default)]
pub struct Sessions {
    open: Mutex<BTreeMap<SessionId, Reach>>,
    draining: watch::Sender<bool>,
    usage: Usage,
}

/// How one session is reached.
#[derive(Debug)]
struct Reach {
    interrupted: Arc<Notify>,
    distrusted: watch::Sender<bool>,
}

impl Sessions {
    /// Registers a session for as long as the returned value lives.
    #[must_use]
    pub fn register(self: &Arc<Self>, id: SessionId) -> Registration {
        let (interrupted, (distrusted, distrust)) = (Arc::new(Notify::new()), watch::channel(false));
        self.lock().insert(id, Reach { interrupted: Arc::clone(&interrupted), distrusted });
        Registration { id, interrupted, distrust, draining: self.draining.subscribe(), sessions: Arc::clone(self) }
    }

    /// Asks a session to interrupt what its target is doing.
    pub fn interrupt(&self, id: SessionId) {
        if let Some(reach) = self.lock().get(&id) {
            reach.interrupted.notify_one();
        }
    }

    /// Ends a session, and cuts what it runs: the authority of its certificate is out of trust.
    pub fn distrust(&self, id: SessionId) {
        if let Some(reach) = self.lock().get(&id) {
            reach.distrusted.send_replace(true);
        }
    }

    /// Ends idle sessions now and the others after the command they run.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// How many are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<SessionId, Reach>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open session's place in the list.
#[derive(Debug)]
pub struct Registration {
    /// Its number.
    pub id: SessionId,
    interrupted: Arc<Notify>,
    distrust: watch::Receiver<bool>,
    draining: watch::Receiver<bool>,
    sessions: Arc<Sessions>,
}

impl Registration {
    /// Wakes whoever waits for it when somebody asks for an interrupt.
    pub(crate) fn interrupted(&self) -> Arc<Notify> {
        Arc::clone(&self.interrupted)
    }

    /// Turns true when this session's certificate is out of trust.
    pub(crate) fn distrust(&self) -> watch::Receiver<bool> {
        self.distrust.clone()
    }

    /// What each agent uses of this replica.
    pub(crate) fn usage(&self) -> &Usage {
        &self.sessions.usage
    }

    /// Turns true when all sessions shall end.
    pub(crate) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.clone()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.sessions.lock().remove(&self.id);
    }
}
