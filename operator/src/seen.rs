//! What certificates' Secrets were last seen to hold, so that nothing is read twice.
//!
//! Owns that memory: facts, never bytes. Touches the API server to fill it at the start (a page of Secrets at a
//! time). Invariant: a fact is believed only while the watch shows the version it was read from, and the authority
//! it was judged by is in force.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ListParams};
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, ResourceExt};

use crate::derive::certificate::Held;
use crate::derive::names;
use crate::fault::Fault;
use crate::issue::Authority;
use crate::issue::inspect::inspect;
use crate::issue::leaf::Role;

/// Secrets of a page; some megabytes at the most.
const PAGE: u32 = 500;

/// A Secret by namespace and name.
pub(crate) type Place = (String, String);

/// What is known of a Secret without reading it.
#[derive(Debug)]
pub(crate) enum Known {
    /// It holds this, at that version.
    Held(Held, String),
    /// The watch shows none of ours, and none of anybody's was met there before.
    Absent,
    /// It has to be read.
    Nothing,
}

#[derive(Debug)]
struct Entry {
    version: String,
    owner: String,
    authority: Arc<Authority>,
    held: Held,
}

/// The memory.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<HashMap<Place, Entry>>);

impl Seen {
    fn entries(&self) -> MutexGuard<'_, HashMap<Place, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of the Secret at `place`, for the owner with that UID.
    pub(crate) fn known(
        &self,
        store: &Store<PartialObjectMeta<Secret>>,
        place: &Place,
        owner: &str,
        authority: &Arc<Authority>,
    ) -> Known {
        let shown = store.get(&ObjectRef::new(&place.1).within(&place.0)).and_then(|secret| secret.resource_version());
        match (shown, self.entries().get(place)) {
            (Some(shown), Some(entry))
                if entry.version == shown && entry.owner == owner && Arc::ptr_eq(&entry.authority, authority) =>
            {
                Known::Held(entry.held.clone(), shown)
            }
            (None, None) => Known::Absent,
            // Deleted; or written a moment ago and not shown yet; or somebody's without our label.
            _ => Known::Nothing,
        }
    }

    /// `secret` was read or written: it holds `held`.
    pub(crate) fn saw(&self, secret: &Secret, owner: &str, authority: &Arc<Authority>, held: Held) {
        let place = (secret.namespace().unwrap_or_default(), secret.name_any());
        let (version, authority) = (secret.resource_version().unwrap_or_default(), Arc::clone(authority));
        self.entries().insert(place, Entry { version, owner: owner.to_owned(), authority, held });
    }

    /// There is none, or what is known led to a conflict.
    pub(crate) fn forget(&self, place: &Place) {
        self.entries().remove(place);
    }

    /// Forgets what belongs to objects that are gone.
    pub(crate) fn keep(&self, live: &HashSet<String>) {
        self.entries().retain(|_, entry| live.contains(&entry.owner));
    }

    /// Reads the Secrets of all identities, a page at a time: after a start nothing else has to be read of them.
    ///
    /// # Errors
    /// When the API server does not answer; then each is read when its turn comes.
    pub(crate) async fn fill(&self, client: &Client, authority: &Arc<Authority>) -> Result<usize, Fault> {
        let api: Api<Secret> = Api::all(client.clone());
        let mut params = ListParams::default().labels(&names::managed_selector()).limit(PAGE);
        let mut filled = 0;
        loop {
            let page = api.list(&params).await?;
            for secret in &page.items {
                let owners = secret.metadata.owner_references.iter().flatten();
                let mut owners = owners.filter(|owner| owner.controller == Some(true) && owner.kind == "AgentIdentity");
                if let Some(owner) = owners.next() {
                    self.saw(secret, &owner.uid, authority, inspect(Some(secret), &owner.uid, Role::Agent, authority));
                    filled += 1;
                }
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(filled),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use k8s_openapi::jiff::Timestamp;
    use kube::core::PartialObjectMetaExt;
    use kube::runtime::reflector;
    use kube::runtime::watcher::Event;

    fn secret(version: &str) -> Secret {
        let metadata = ObjectMeta {
            namespace: Some("ci".into()),
            name: Some("bot-mtls".into()),
            resource_version: Some(version.into()),
            ..ObjectMeta::default()
        };
        Secret { metadata, ..Secret::default() }
    }

    fn authority() -> Arc<Authority> {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let made = Authority::generate(ObjectMeta::default(), "cluster.local", now).unwrap();
        Arc::new(Authority::read(&made, now).unwrap())
    }

    #[test]
    fn a_fact_is_believed_only_at_the_version_that_the_watch_shows() {
        let (seen, authority, place) = (Seen::default(), authority(), ("ci".to_owned(), "bot-mtls".to_owned()));
        let (store, mut writer) = reflector::store::<PartialObjectMeta<Secret>>();
        let mut show =
            |version: &str| writer.apply_watcher_event(&Event::Apply(secret(version).metadata.into_response_partial()));
        let known = |owner: &str, authority: &Arc<Authority>| seen.known(&store, &place, owner, authority);
        assert!(matches!(known("u", &authority), Known::Absent));
        seen.saw(&secret("5"), "u", &authority, Held::Unreadable("it is empty".into()));
        assert!(matches!(known("u", &authority), Known::Nothing), "written, and not shown yet, or gone");
        show("4");
        assert!(matches!(known("u", &authority), Known::Nothing), "the watch is behind");
        show("5");
        assert!(matches!(known("u", &authority), Known::Held(Held::Unreadable(_), version) if version == "5"));
        assert!(matches!(known("another", &authority), Known::Nothing), "another object asks");
        assert!(matches!(known("u", &self::authority()), Known::Nothing), "another authority is in force");
        show("6");
        assert!(matches!(known("u", &authority), Known::Nothing), "somebody wrote it");
        seen.forget(&place);
        assert!(matches!(known("u", &authority), Known::Nothing), "it is there, and was not read");
        // Somebody's without our label: not shown, and remembered.
        seen.saw(&secret("7"), "u", &authority, Held::Foreign);
        seen.keep(&HashSet::new());
        assert!(seen.entries().is_empty(), "what belongs to nobody is forgotten");
    }
}
