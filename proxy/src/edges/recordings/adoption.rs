//! What replicas that are gone have left in a directory that their fleet shares: which of it another may take up.
//!
//! Owns that judgement. Touches the locks of files. Invariant: nothing of a replica that may live is touched. Where that
//! is not known, or files cannot be locked, what others wrote stays as it is.
//!
//! A lock alone would do, but for volumes on which each node sees its own locks only (SMB with `nobrl`, NFS with
//! `local_lock`). So three things must agree: the cluster knows no such pod any more, its file was not written to for a
//! while, and nobody has it locked.

use std::collections::BTreeSet;
use std::fs::File;
use std::time::{Duration, Instant, SystemTime};

use super::Recordings;
use crate::stored::Place;

/// What is known of the fleet counts for so long: longer than it takes to be told of it anew.
const KNOWN: Duration = Duration::from_secs(600);
/// A file that was written to later may be of a replica that is newer than what is known.
pub(super) const QUIET: Duration = Duration::from_secs(900);

/// The pods of a fleet, as the cluster knew them at some time.
#[derive(Debug, Default)]
pub(super) struct Fleet(Option<(Instant, BTreeSet<String>)>);

impl Fleet {
    pub(super) fn new(pods: BTreeSet<String>) -> Self {
        Self(Some((Instant::now(), pods)))
    }

    /// Whether the pod is known to be gone.
    fn misses(&self, pod: &str) -> bool {
        self.0.as_ref().is_some_and(|(at, pods)| at.elapsed() < KNOWN && !pods.contains(pod))
    }
}

/// Whose a run is: its name ends in when it began.
fn pod(run: &str) -> &str {
    run.rsplit_once('-').map_or(run, |(pod, _)| pod)
}

impl Recordings {
    /// The replicas of the fleet are these.
    pub(crate) fn note_fleet(&self, pods: BTreeSet<String>) {
        self.0.lock().fleet = Fleet::new(pods);
    }

    /// Whether a run is this replica's to look after: its own, of whichever container, or of one that is gone.
    pub(crate) fn looks_after(&self, run: &str) -> bool {
        pod(run) == pod(self.stem()) || self.0.lock().fleet.misses(pod(run))
    }

    /// What another process has left unfinished and nobody writes to any more, held so that nobody else takes it up at the
    /// same time.
    pub(super) fn left(&self, place: &Place) -> Option<File> {
        if !self.looks_after(&place.stem) {
            return None;
        }
        let file = File::open(&place.path).ok()?;
        if pod(&place.stem) != pod(self.stem()) {
            let written = file.metadata().and_then(|about| about.modified()).ok()?;
            SystemTime::now().duration_since(written).ok().filter(|quiet| *quiet >= QUIET)?;
        }
        // Where files cannot be locked, nobody knows.
        file.try_lock().ok()?;
        // Whoever had it until now may have replaced it.
        super::disk::is_at(&file, &place.path).then_some(file)
    }
}
