//! Recordings: a JSON object a line, in files of this replica.
//!
//! Owns the chain, the files and their order. Touches the records directory. Invariants: a record counts only when
//! one write has taken all of it, and only then the chain goes on from it; a torn line never joins another; what
//! could not be written is named where it is missing; no allocation a record, but for those that must be synced.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use sallyport_core::ports::{Pending, Promise, RecordFault, RecordSink};
use sallyport_core::record::Record;

use self::adoption::Fleet;
use self::disk::{Disk, LocalDisk, RecordFile};
pub(crate) use self::line::{Notice, Pruned};
use self::syncer::Unsynced;
use crate::chain::{self, Head};

mod adoption;
mod archive;
mod disk;
#[cfg(test)]
mod keeping;
mod line;
pub(crate) mod retention;
#[cfg(test)]
mod simulation;
mod syncer;

/// A buffer larger than this is not kept for the next record.
const KEPT: usize = 256 * 1024;
/// What is written to find out whether there is room again.
const PROBE: usize = 64 * 1024;
/// Where room is bounded, a file takes one part of so many at most: while it is compressed it is there twice.
const PARTS: u64 = 8;

/// Writes recordings into a directory.
#[derive(Debug)]
pub struct Recordings(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    stem: String,
    /// Bytes that may lie in the directory.
    room: u64,
    disk: Box<dyn Disk>,
    state: Mutex<State>,
    /// Wakes the thread that syncs.
    wake: Condvar,
}

#[derive(Debug)]
struct State {
    /// The chain of this run, which goes on from file to file.
    head: Head,
    file: Option<Arc<dyn RecordFile>>,
    written: u64,
    /// When it was begun.
    since: Instant,
    next: u32,
    /// It is followed by the next at this size.
    rotate_at: u64,
    /// Bytes that lie in the directory, as of the last look and what was written since.
    used: u64,
    /// The file ends in the middle of a line.
    torn: bool,
    fault: Option<String>,
    /// How many of its records are known where the recording is not.
    anchored: u64,
    /// Records that could not be written since the last that was, and when the first of them was due.
    lost: Option<(u64, SystemTime)>,
    unsynced: Unsynced,
    /// Which replicas there are, where anybody knows.
    fleet: Fleet,
}

impl Recordings {
    /// Records into `directory`, in files whose names begin with `replica` and the time `started`.
    #[must_use]
    pub fn new(directory: &Path, replica: &str, started: SystemTime) -> Self {
        Self::within(directory, replica, started, (super::archivist::FILE, u64::MAX))
    }

    /// The same with another size of files, and with a bound for what lies in the directory.
    #[must_use]
    pub fn within(directory: &Path, replica: &str, started: SystemTime, sizes: (u64, u64)) -> Self {
        Self::on(Box::new(LocalDisk), directory, replica, started, sizes)
    }

    fn on(
        disk: Box<dyn Disk>,
        directory: &Path,
        replica: &str,
        started: SystemTime,
        (rotate_at, room): (u64, u64),
    ) -> Self {
        let started = jiff::Timestamp::try_from(started).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let stem = format!("{replica}-{}", started.strftime("%Y%m%dT%H%M%SZ"));
        let state = State {
            head: Head::of_run(&stem),
            file: None,
            written: 0,
            since: Instant::now(),
            next: 0,
            rotate_at: rotate_at.min(room / PARTS),
            used: used(directory),
            torn: false,
            fault: None,
            anchored: 0,
            lost: None,
            unsynced: Unsynced::default(),
            fleet: Fleet::default(),
        };
        let (directory, wake) = (directory.to_owned(), Condvar::new());
        Self(Arc::new(Shared { directory, stem, room, disk, state: Mutex::new(state), wake }))
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.0.directory
    }

    /// What the names of this run's files begin with.
    pub(crate) fn stem(&self) -> &str {
        &self.0.stem
    }

    /// Which of them is written to.
    pub(crate) fn open_number(&self) -> Option<u32> {
        let state = self.0.lock();
        state.file.as_ref().and_then(|_| state.next.checked_sub(1))
    }

    /// Files are closed at this size, and this one if it is that old.
    pub(crate) fn rotate(&self, size: u64, age: Duration) {
        let mut state = self.0.lock();
        state.rotate_at = size.min(self.0.room / PARTS);
        if state.file.is_some() && state.written > 0 && state.since.elapsed() >= age {
            state.close();
        }
    }

    /// Has the recording say something of itself; the number of that record.
    pub(crate) fn notice(&self, notice: &Notice) -> Result<u64, String> {
        let now = SystemTime::now();
        let mut line = vec![b'\n'];
        line::notice(now, notice, &mut line).map_err(|fault| fault.to_string())?;
        let mut state = self.0.lock();
        let written = self.0.write_gap(&mut state, now).and_then(|()| self.0.write_sealed(&mut state, &mut line));
        written.map(|()| state.head.records).map_err(|error| self.0.name(&error))
    }

    /// All up to this record is known where the recording is not.
    pub(crate) fn note_anchored(&self, records: u64) {
        let mut state = self.0.lock();
        state.anchored = state.anchored.max(records);
    }

    pub(crate) fn anchored(&self) -> u64 {
        self.0.lock().anchored
    }

    /// Looks how much lies in the directory.
    pub(crate) fn measure(&self) {
        let before = self.0.lock().used;
        let found = used(&self.0.directory);
        let mut state = self.0.lock();
        // What was written meanwhile may count twice until the next look; it never counts for nothing.
        state.used = found.saturating_add(state.used.saturating_sub(before));
    }

    /// Where this run's recording stands: its name, how many records it has, and the hash of the last in hexadecimal;
    /// nothing before the first.
    #[must_use]
    pub fn anchor(&self) -> Option<(&str, u64, String)> {
        let head = self.0.lock().head;
        (head.records > 0).then(|| (self.0.stem.as_str(), head.records, chain::hex(&head.hash)))
    }

    /// Whether the next record has room, as far as can be known.
    ///
    /// # Errors
    /// The cause of the last failure, as long as it lasts. May write and remove a small file to find out:
    /// without traffic nothing else would.
    pub fn check(&self) -> Result<(), String> {
        let shared = &self.0;
        let mut state = shared.lock();
        let missing = state.file.as_ref().is_some_and(|file| !file.is_at(&shared.path(state.next.saturating_sub(1))));
        if missing {
            // Somebody removed it: what is written into it is seen by nobody.
            state.close();
        }
        if state.file.is_some() && state.fault.is_none() {
            return Ok(());
        }
        let full = state.used.saturating_add(PROBE as u64) > shared.room;
        let probed = if full { Err(io::ErrorKind::QuotaExceeded.into()) } else { Ok(()) };
        let probed = probed
            .and_then(|()| shared.probe(state.unsynced.running))
            .and_then(|()| shared.opened(&mut state).map(drop));
        state.fault = probed.err().map(|error| shared.name(&error));
        state.fault.clone().map_or(Ok(()), Err)
    }

    fn append_line(&self, record: &Record<'_>, durably: bool) -> Result<Option<Pending>, RecordFault> {
        thread_local!(static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
        BUFFER.with_borrow_mut(|buffer| {
            buffer.clear();
            buffer.push(b'\n');
            let written = match line::record(record, buffer) {
                Ok(()) => self.0.write(record.time, buffer, durably),
                Err(fault) => {
                    self.0.lock().lose(record.time);
                    Err(fault)
                }
            };
            if buffer.capacity() > KEPT {
                *buffer = Vec::new();
            }
            written
        })
    }
}

impl Drop for Recordings {
    fn drop(&mut self) {
        self.0.lock().unsynced.ending = true;
        self.0.wake.notify_one();
    }
}

impl RecordSink for Recordings {
    fn append(&self, record: &Record<'_>) -> Result<(), RecordFault> {
        self.append_line(record, false).map(drop)
    }

    fn append_durably(&self, record: &Record<'_>) -> Result<Pending, RecordFault> {
        let pending = self.append_line(record, true)?;
        pending.ok_or_else(|| RecordFault("nobody brings it to the disk".to_owned()))
    }
}

impl Shared {
    /// `line` is a line break, which is only written where the file ends in a torn line, and a JSON object. Where it is
    /// to be synced, who waits for that is noted under the same lock: no sync can fall between the two.
    fn write(
        self: &Arc<Self>,
        time: SystemTime,
        line: &mut Vec<u8>,
        durably: bool,
    ) -> Result<Option<Pending>, RecordFault> {
        let mut state = self.lock();
        // What the recording says of itself has room beyond that: it may be what makes room.
        let full = state.used.saturating_add(line.len() as u64) > self.room;
        let room = if full { Err(io::ErrorKind::QuotaExceeded.into()) } else { Ok(()) };
        let written = room.and_then(|()| self.write_gap(&mut state, time)).and_then(|()| {
            // Before the record: one that nobody can bring to the disk would count and its command be refused.
            if durably {
                syncer::start(self, &mut state)?
            }
            self.write_sealed(&mut state, line)
        });
        match written {
            Ok(()) => {
                state.fault = None;
                Ok(durably.then(|| {
                    let (promise, pending) = Promise::new();
                    state.unsynced.waiting.push(promise);
                    self.wake.notify_one();
                    pending
                }))
            }
            Err(error) => {
                state.lose(time);
                let cause = self.name(&error);
                state.fault = Some(cause.clone());
                Err(RecordFault(cause))
            }
        }
    }

    /// Names what is missing, once there is room again.
    fn write_gap(&self, state: &mut State, time: SystemTime) -> io::Result<()> {
        let Some((lost, since)) = state.lost else { return Ok(()) };
        let mut gap = vec![b'\n'];
        line::notice(time, &Notice::Gap { lost, since }, &mut gap).map_err(io::Error::other)?;
        self.write_sealed(state, &mut gap)?;
        state.lost = None;
        Ok(())
    }

    /// Under the lock: the order of the chain is the order in the file.
    fn write_sealed(&self, state: &mut State, line: &mut Vec<u8>) -> io::Result<()> {
        let head = state.head.seal(line, 1);
        line.push(b'\n');
        self.write_whole(state, line)?;
        state.head = head;
        Ok(())
    }

    fn write_whole(&self, state: &mut State, line: &[u8]) -> io::Result<()> {
        if state.written >= state.rotate_at {
            state.close();
        }
        let torn = state.torn;
        let bytes = if torn { Some(line) } else { line.get(1..) }.unwrap_or_default();
        // A new file has no torn line; a needless empty line in it does no harm.
        let count = self.opened(state)?.append(bytes)?;
        state.written = state.written.saturating_add(count as u64);
        state.used = state.used.saturating_add(count as u64);
        state.unsynced.open = true;
        if count == bytes.len() {
            state.torn = false;
            return Ok(());
        }
        // Some of it is in the file: the line is torn, and the record does not count.
        state.torn = torn || count > 0;
        Err(io::ErrorKind::StorageFull.into())
    }

    fn opened<'s>(&self, state: &'s mut State) -> io::Result<&'s Arc<dyn RecordFile>> {
        if state.file.is_none() {
            self.disk.make_directory(&self.directory)?;
            // Never an existing one: a clock set back must not mix two runs.
            let file = loop {
                let opened = self.disk.create(&self.path(state.next));
                state.next = state.next.saturating_add(1);
                match opened {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists && state.next < u32::MAX => {}
                    other => break other?,
                }
            };
            state.file = Some(file);
            state.written = 0;
            state.since = Instant::now();
            state.torn = false;
            state.unsynced.names = true;
        }
        state.file.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn probe(&self, synced: bool) -> io::Result<()> {
        self.disk.make_directory(&self.directory)?;
        let path = self.directory.join(format!(".{}.room", self.stem));
        // What a process left that was killed here.
        let _may_be_missing = std::fs::remove_file(&path);
        let written = self.disk.create(&path).and_then(|file| {
            let count = file.append(&[b'\n'; PROBE])?;
            if synced {
                file.sync()?;
            }
            if count == PROBE { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
        });
        let _may_be_missing = std::fs::remove_file(&path);
        written
    }

    fn path(&self, number: u32) -> PathBuf {
        self.directory.join(format!("{}-{number}.jsonl", self.stem))
    }

    fn name(&self, error: &io::Error) -> String {
        let at = self.directory.display();
        match error.kind() {
            io::ErrorKind::StorageFull => format!("disk full: no room left for records in {at}"),
            io::ErrorKind::QuotaExceeded => format!("quota exceeded: no room left for records in {at}"),
            _ => format!("records cannot be written in {at}: {error}"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned state is still true: it changes only after each write.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that lie in a directory. What cannot be looked at counts nothing: writing there will tell.
fn used(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
}

impl State {
    /// The next record begins a new file. What of this one is not on disk is still brought there, if anybody waits for
    /// such things at all.
    fn close(&mut self) {
        let file = self.file.take();
        if std::mem::take(&mut self.unsynced.open) && self.unsynced.running {
            self.unsynced.closed.extend(file);
        }
    }

    fn lose(&mut self, due: SystemTime) {
        let (lost, since) = self.lost.unwrap_or((0, due));
        self.lost = Some((lost.saturating_add(1), since));
    }
}
