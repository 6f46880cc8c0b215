//! Recordings: a JSON object a line, in files of this replica.
//!
//! Owns the bytes of a record and the files they go to. Touches the records directory. Invariants: a record
//! counts only when one write has taken all of it, and only then the chain goes on from it; a torn line never
//! joins another; no allocation a record.

use std::cell::RefCell;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use sallyport_core::ports::{RecordFault, RecordSink};
use sallyport_core::record::{Event, Record};
use serde::{Serialize, Serializer};

use crate::chain::{self, Head};

/// A file is closed and the next begun at this size.
const FILE: u64 = 64 * 1024 * 1024;
/// Bytes of one record at most; more is refused. Protocols bound their commands well below.
const LONGEST: usize = 16 * 1024 * 1024;
/// A buffer larger than this is not kept for the next record.
const KEPT: usize = 256 * 1024;
/// What is written to find out whether there is room again.
const PROBE: usize = 64 * 1024;

/// Writes recordings into a directory.
#[derive(Debug)]
pub struct Recordings {
    directory: PathBuf,
    stem: String,
    rotate_at: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The chain of this run, which goes on from file to file.
    head: Head,
    file: Option<File>,
    written: u64,
    next: u32,
    /// The file ends in the middle of a line.
    torn: bool,
    fault: Option<String>,
}

/// A record as it is stored: its event's fields stand beside the others.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(serialize_with = "rfc3339")]
    time: SystemTime,
    session: &'a str,
    sequence: u64,
    agent: &'a str,
    serial: &'a str,
    target: &'a str,
    #[serde(flatten)]
    event: &'a Event<'a>,
}

impl Recordings {
    /// Records into `directory`, in files whose names begin with `replica` and the time `started`.
    #[must_use]
    pub fn new(directory: &Path, replica: &str, started: SystemTime) -> Self {
        Self::rotating_at(directory, replica, started, FILE)
    }

    /// The same with another size of files.
    #[must_use]
    pub fn rotating_at(directory: &Path, replica: &str, started: SystemTime, rotate_at: u64) -> Self {
        let started = jiff::Timestamp::try_from(started).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let stem = format!("{replica}-{}", started.strftime("%Y%m%dT%H%M%SZ"));
        let state = State { head: Head::of_run(&stem), file: None, written: 0, next: 0, torn: false, fault: None };
        Self { directory: directory.to_owned(), stem, rotate_at, state: Mutex::new(state) }
    }

    /// Where this run's recording stands: its name, how many records it has, and the hash of the last in hexadecimal;
    /// nothing before the first.
    #[must_use]
    pub fn anchor(&self) -> Option<(&str, u64, String)> {
        let head = self.lock().head;
        (head.records > 0).then(|| (self.stem.as_str(), head.records, chain::hex(&head.hash)))
    }

    /// Whether the next record has room, as far as can be known.
    ///
    /// # Errors
    /// The cause of the last failure, as long as it lasts. May write and remove a small file to find out:
    /// without traffic nothing else would.
    pub fn check(&self) -> Result<(), String> {
        let mut state = self.lock();
        let missing = state.file.as_ref().is_some_and(|file| !self.is_reachable(file, state.next));
        if missing {
            // Somebody removed it: what is written into it is seen by nobody.
            state.file = None;
        }
        if state.file.is_some() && state.fault.is_none() {
            return Ok(());
        }
        let probed = self.probe().and_then(|()| self.opened(&mut state).map(drop));
        state.fault = probed.err().map(|error| self.name(&error));
        state.fault.clone().map_or(Ok(()), Err)
    }

    fn probe(&self) -> io::Result<()> {
        self.made()?;
        let path = self.directory.join(format!(".{}.room", self.stem));
        let written = private(&mut OpenOptions::new())
            .create(true)
            .truncate(true)
            .open(&path)
            .and_then(|mut file| file.write_all(&[b'\n'; PROBE]));
        let _may_be_missing = std::fs::remove_file(&path);
        written
    }

    fn is_reachable(&self, file: &File, next: u32) -> bool {
        let there = std::fs::metadata(self.path(next.saturating_sub(1)));
        matches!((there, file.metadata()), (Ok(there), Ok(ours)) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()))
    }

    /// `line` is a line break, which is only written where the file ends in a torn line, and a JSON object.
    fn write(&self, line: &mut Vec<u8>) -> Result<(), RecordFault> {
        let mut state = self.lock();
        // Under the lock: the order of the chain is the order in the file.
        let head = state.head.seal(line, 1);
        line.push(b'\n');
        let written = self.write_whole(&mut state, line);
        if written.is_ok() {
            state.head = head;
        }
        state.fault = written.as_ref().err().map(|error| self.name(error));
        state.fault.clone().map_or(Ok(()), |cause| Err(RecordFault(cause)))
    }

    fn write_whole(&self, state: &mut State, line: &[u8]) -> io::Result<()> {
        if state.written >= self.rotate_at {
            state.file = None;
        }
        let torn = state.torn;
        let bytes = if torn { Some(line) } else { line.get(1..) }.unwrap_or_default();
        let mut file = self.opened(state)?;
        // A new file has no torn line; a needless empty line in it does no harm.
        let count = loop {
            match file.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        state.written = state.written.saturating_add(count as u64);
        if count == bytes.len() {
            state.torn = false;
            return Ok(());
        }
        // Some of it is in the file: the line is torn, and the record does not count.
        state.torn = torn || count > 0;
        Err(io::ErrorKind::StorageFull.into())
    }

    fn opened<'s>(&self, state: &'s mut State) -> io::Result<&'s File> {
        if state.file.is_none() {
            self.made()?;
            let mut options = OpenOptions::new();
            // Never an existing one: a clock set back must not mix two runs.
            let file = loop {
                let opened = private(&mut options).append(true).create_new(true).open(self.path(state.next));
                state.next = state.next.saturating_add(1);
                match opened {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists && state.next < u32::MAX => {}
                    other => break other?,
                }
            };
            state.file = Some(file);
            state.written = 0;
            state.torn = false;
        }
        state.file.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn made(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)
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

impl RecordSink for Recordings {
    fn append(&self, record: &Record<'_>) -> Result<(), RecordFault> {
        thread_local!(static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
        BUFFER.with_borrow_mut(|buffer| {
            buffer.clear();
            buffer.push(b'\n');
            serialise(record, buffer)?;
            let written = self.write(buffer);
            if buffer.capacity() > KEPT {
                *buffer = Vec::new();
            }
            written
        })
    }
}

fn serialise(record: &Record<'_>, buffer: &mut Vec<u8>) -> Result<(), RecordFault> {
    let line = Line {
        time: record.time,
        session: record.session,
        sequence: record.sequence,
        agent: record.agent,
        serial: record.serial,
        target: record.target,
        event: &record.event,
    };
    serde_json::to_writer(Bounded(buffer), &line).map_err(|error| RecordFault(error.to_string()))
}

/// Takes bytes up to [`LONGEST`]: a record is never larger in memory than it may be on disk.
struct Bounded<'b>(&'b mut Vec<u8>);

impl Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len().saturating_add(bytes.len()) > LONGEST {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("a record of more than {LONGEST} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.write(true).mode(0o600)
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let time = jiff::Timestamp::try_from(*time).map_err(serde::ser::Error::custom)?;
    serializer.collect_str(&format_args!("{time:.6}"))
}
