//! Cancel keys: the proxy's own, one a session, useless to anyone else.
//!
//! Owns the table from keys to sessions. Touches the system's randomness. Invariants: a key is good exactly
//! as long as its session lives; secrets are compared in constant time and never printed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rand::Rng;
use sallyport_core::sessions::SessionId;
use subtle::ConstantTimeEq;

use crate::codec::startup::CancelKey;

/// Bytes of the secret in protocol 3.0, which has room for no more.
const SHORT: usize = 4;
/// And in protocol 3.2.
const LONG: usize = 32;

/// The keys of every open session.
#[derive(Default)]
pub(crate) struct Registry {
    keys: Mutex<BTreeMap<i32, (Vec<u8>, SessionId)>>,
}

/// A session's key, good while this value lives.
pub(crate) struct Registered {
    registry: Arc<Registry>,
    key: CancelKey,
}

impl Registry {
    /// Makes a key for a session whose client speaks that minor version.
    pub(crate) fn register(self: &Arc<Self>, session: SessionId, minor: u16) -> Registered {
        let mut random = rand::rng();
        let mut secret = vec![0; if minor >= 2 { LONG } else { SHORT }];
        random.fill(secret.as_mut_slice());
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = loop {
            let pid = random.random_range(1..=i32::MAX);
            if !keys.contains_key(&pid) {
                break pid;
            }
        };
        keys.insert(pid, (secret.clone(), session));
        Registered { registry: Arc::clone(self), key: CancelKey { pid, secret } }
    }

    /// The session that a key speaks of, if its secret is right.
    pub(crate) fn session(&self, key: &CancelKey) -> Option<SessionId> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let (secret, session) = keys.get(&key.pid)?;
        bool::from(secret.as_slice().ct_eq(&key.secret)).then_some(*session)
    }
}

impl Registered {
    pub(crate) const fn key(&self) -> &CancelKey {
        &self.key
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key.pid);
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_good_for_its_session_while_it_lives_and_for_nothing_else() {
        let registry = Arc::new(Registry::default());
        let (one, two) = (SessionId::from_random(1), SessionId::from_random(2));
        let first = registry.register(one, 0);
        let second = registry.register(two, 2);
        assert_eq!((first.key().secret.len(), second.key().secret.len()), (4, 32));
        assert_eq!(registry.session(first.key()), Some(one));
        assert_eq!(registry.session(second.key()), Some(two));
        let mixed = CancelKey { pid: first.key().pid, secret: second.key().secret.clone() };
        assert_eq!(registry.session(&mixed), None);
        let prefix = CancelKey { pid: second.key().pid, secret: second.key().secret[..4].to_vec() };
        assert_eq!(registry.session(&prefix), None);
        let key = first.key().clone();
        drop(first);
        assert_eq!(registry.session(&key), None);
        assert!(!format!("{registry:?}{second:?}").contains(&second.key().pid.to_string()));
    }
}
