//! The archivist: what becomes of recordings once they are written.
//!
//! Owns when files are closed, compressed, copied to the store and removed, as the bundle in force says. Touches the
//! records directory, in threads where waiting for a disk harms nobody, and the store. Invariants: whatever fails is
//! told, and tried again; nothing fails towards removing more: where a store is given, what it does not have stays.
//!
//! The queue for the store is the directory itself. A store that is gone for long lets it fill, and then commands are
//! refused: nothing is dropped to make room.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sallyport_core::PolicyFeed;
use sallyport_policy::Recording;
use tokio::time::{Instant, timeout_at};

use super::recordings::Recordings;
use super::recordings::retention::Retention;
use super::store::{Access, ObjectStore};
use crate::meter::Metrics;
use crate::stored::places;

/// A file is followed by the next at this size, where the bundle does not say.
pub(crate) const FILE: u64 = 64 * 1024 * 1024;
/// And at this age.
const AGE: Duration = Duration::from_secs(3600);
/// And at this, where a store waits for it: what a pod that vanishes takes with it is no older.
const AGE_BEFORE_STORE: Duration = Duration::from_secs(300);
/// How often it is looked whether there is anything to do.
const PERIOD: Duration = Duration::from_secs(5);
/// How long a store that failed is left alone, doubled up to the last.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// Looks after the recordings of this replica.
pub(crate) struct Archivist {
    recordings: Arc<Recordings>,
    feed: Arc<PolicyFeed>,
    metrics: Arc<Metrics>,
    /// Whether somebody anchors the recordings: then nothing is removed before that.
    anchors: bool,
    access: Option<Access>,
    retention: Mutex<Retention>,
    /// Names of files that the store is known to have.
    kept: Mutex<BTreeSet<String>>,
    /// What was told last: the same is not told every few seconds.
    told: Mutex<Option<String>>,
}

impl Archivist {
    pub(crate) fn new(
        recordings: Arc<Recordings>,
        feed: Arc<PolicyFeed>,
        metrics: Arc<Metrics>,
        anchors: bool,
        access: Option<Access>,
    ) -> Self {
        let (retention, kept, told) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { recordings, feed, metrics, anchors, access, retention, kept, told }
    }

    pub(crate) async fn follow(self: Arc<Self>) -> Infallible {
        let mut store = None;
        let (mut pause, mut again) = (PAUSE.0, Instant::now());
        loop {
            tokio::time::sleep(PERIOD).await;
            // Without a bundle nobody knows what to keep.
            let Some(recording) = self.demands() else { continue };
            let looked = self.look(recording.clone(), false).await;
            let copied = match Instant::now() {
                now if now < again => Ok(()),
                _ => self.copy(&recording, &mut store).await,
            };
            if copied.is_err() {
                again = Instant::now() + pause;
                pause = (pause * 2).min(PAUSE.1);
            } else if Instant::now() >= again {
                pause = PAUSE.0;
            }
            self.tell(looked.and(copied));
        }
    }

    /// The last words of this replica go to the store as well, as far as there is time.
    pub(crate) async fn last(self: Arc<Self>, deadline: Instant) {
        let Some(recording) = self.demands().filter(|recording| recording.store.is_some()) else { return };
        let left = async {
            self.look(recording.clone(), true).await?;
            self.copy(&recording, &mut None).await
        };
        match timeout_at(deadline, left).await {
            Ok(outcome) => self.tell(outcome),
            Err(_) => tracing::warn!("the end of the recording was not copied to the store in time"),
        }
    }

    fn demands(&self) -> Option<Recording> {
        self.feed.load().as_ref().map(|world| world.bundle.recording.clone())
    }

    /// Closes, compresses and removes what is due; at the end all is closed.
    async fn look(self: &Arc<Self>, recording: Recording, end: bool) -> Result<(), String> {
        let this = Arc::clone(self);
        let looked = tokio::task::spawn_blocking(move || this.look_here(&recording, end)).await;
        looked.unwrap_or_else(|error| Err(error.to_string()))
    }

    fn look_here(&self, recording: &Recording, end: bool) -> Result<(), String> {
        let recordings = &self.recordings;
        let usual = if recording.store.is_some() { AGE_BEFORE_STORE } else { AGE };
        let age = recording.rotation.seconds.map_or(usual, Duration::from_secs);
        recordings.rotate(recording.rotation.bytes.unwrap_or(FILE), if end { Duration::ZERO } else { age });
        let compressed = recordings.compress_closed();
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_kept = |path: &Path| recording.store.is_none() || name(path).is_some_and(|name| kept.contains(name));
        let mut retention = self.retention.lock().unwrap_or_else(PoisonError::into_inner);
        let pruned = retention.step(recordings, recording.retention, self.anchors, is_kept);
        drop(retention);
        recordings.measure();
        if let Ok(files @ 1..) = pruned {
            tracing::info!(files, "recordings removed, as recording.retention says");
        }
        compressed.and(pruned.map(drop))
    }

    /// Copies what the store does not have, the oldest first.
    async fn copy(&self, recording: &Recording, store: &mut Option<ObjectStore>) -> Result<(), String> {
        let Some(wanted) = &recording.store else { return Ok(()) };
        if store.as_ref().is_none_or(|store| store.described() != wanted) {
            let access = self.access.as_ref();
            let access = access.ok_or("the bundle names a store for recordings and --store-dir is not given")?;
            // Another store has nothing yet.
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
            *store = Some(ObjectStore::new(wanted, access)?);
        }
        let Some(store) = store else { return Ok(()) };
        store.refresh()?;
        let mut places = places(self.recordings.directory()).map_err(|error| format!("{error:#}"))?;
        places.retain(|place| place.is_compressed() && self.recordings.looks_after(&place.stem));
        let there: BTreeSet<String> = places.iter().filter_map(|place| Some(name(&place.path)?.to_owned())).collect();
        let mut waiting = there.clone();
        {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.retain(|name| there.contains(name));
            waiting.retain(|name| !kept.contains(name));
        }
        self.metrics.recordings_waiting(waiting.len());
        let mut left = waiting.len();
        for place in places {
            let Some(name) = name(&place.path).filter(|name| waiting.contains(*name)) else { continue };
            store.keep(&place.path, name).await?;
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
            left -= 1;
            self.metrics.recordings_waiting(left);
        }
        Ok(())
    }

    fn tell(&self, outcome: Result<(), String>) {
        let cause = outcome.err();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cause) = cause.as_ref().filter(|cause| told.as_ref() != Some(cause)) {
            tracing::warn!(%cause, "the recordings could not be looked after");
        }
        *told = cause;
    }
}

fn name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}
