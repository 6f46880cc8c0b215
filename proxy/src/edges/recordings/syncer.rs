//! Group commit: one thread brings records to the disk, for all who wait for that.
//!
//! Owns the batches. Touches the disk through what it is given, never while it holds the lock that appending needs.
//! Invariants: a promise is kept only when a sync that began after its record was written has returned; what a
//! failed sync covered is told as failed, and that file is never written again.
//!
//! Linux forgets a failed write-back once it has told of it: the next sync of the same file would succeed and mean
//! nothing. So a file whose sync failed is left as it is.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use sallyport_core::ports::{Promise, RecordFault};

use super::disk::RecordFile;
use super::{Shared, State};

/// Outcomes and refusals, which nobody waits for, are on disk after this long.
const IDLE: Duration = Duration::from_secs(1);

/// What there is to bring to the disk.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    /// Those who wait, in the order of their records.
    pub(super) waiting: Vec<Promise>,
    /// Files that were closed with bytes that are not on disk.
    pub(super) closed: Vec<Arc<dyn RecordFile>>,
    /// The open file has such bytes.
    pub(super) open: bool,
    /// A file was made, and its name is not on disk.
    pub(super) names: bool,
    /// The thread runs.
    pub(super) running: bool,
    /// It shall end when all is done.
    pub(super) ending: bool,
}

/// One sync's worth.
struct Batch {
    waiting: Vec<Promise>,
    files: Vec<Arc<dyn RecordFile>>,
    names: bool,
}

/// Starts the thread unless it runs.
pub(super) fn start(shared: &Arc<Shared>, state: &mut State) -> io::Result<()> {
    if !state.unsynced.running {
        let shared = Arc::clone(shared);
        let thread = std::thread::Builder::new().name("records".to_owned());
        thread.spawn(move || run(&shared))?;
        state.unsynced.running = true;
    }
    Ok(())
}

fn run(shared: &Shared) {
    let mut state = shared.lock();
    loop {
        let unsynced = &state.unsynced;
        if !unsynced.waiting.is_empty() || (unsynced.ending && unsynced.owes()) {
            let batch = state.take_batch();
            drop(state);
            let synced = batch.sync(shared);
            state = shared.lock();
            state.settle(batch, synced, shared);
        } else if unsynced.ending {
            return;
        } else {
            let (woken, pause) = shared.wake.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if pause.timed_out() && state.unsynced.owes() {
                let batch = state.take_batch();
                drop(state);
                let synced = batch.sync(shared);
                state = shared.lock();
                state.settle(batch, synced, shared);
            }
        }
    }
}

impl Unsynced {
    fn owes(&self) -> bool {
        self.open || self.names || !self.closed.is_empty()
    }
}

impl State {
    fn take_batch(&mut self) -> Batch {
        let unsynced = &mut self.unsynced;
        let mut files = std::mem::take(&mut unsynced.closed);
        if std::mem::take(&mut unsynced.open) {
            files.extend(self.file.clone());
        }
        Batch { waiting: std::mem::take(&mut unsynced.waiting), files, names: std::mem::take(&mut unsynced.names) }
    }

    fn settle(&mut self, batch: Batch, synced: io::Result<()>, shared: &Shared) {
        let told = synced.map_err(|error| {
            let ours =
                self.file.as_ref().is_some_and(|file| batch.files.iter().any(|synced| Arc::ptr_eq(file, synced)));
            if ours {
                self.file = None;
            }
            let cause = shared.name(&error);
            tracing::error!(cause, "records could not be brought to the disk");
            self.fault = Some(cause.clone());
            RecordFault(cause)
        });
        for promise in batch.waiting {
            promise.resolve(told.clone());
        }
    }
}

impl Batch {
    fn sync(&self, shared: &Shared) -> io::Result<()> {
        self.files.iter().try_for_each(|file| file.sync())?;
        if self.names { shared.disk.sync_names(&shared.directory) } else { Ok(()) }
    }
}
