//! A record's bytes: a JSON object a line, before its seal.
//!
//! Owns that form. Touches memory only. Invariant: a record is never larger in memory than it may be on disk.

use std::io::{self, Write};
use std::time::SystemTime;

use sallyport_core::ports::RecordFault;
use sallyport_core::record::{Event, Record};
use serde::{Deserialize, Serialize, Serializer};

/// Bytes of one record at most; more is refused. Protocols bound their commands well below.
pub(super) const LONGEST: usize = 16 * 1024 * 1024;

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

/// What the recording says of itself, in the same chain.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum Notice {
    /// Records could not be written: how many, and when the first of them was due. Stands where they are missing.
    Gap {
        lost: u64,
        #[serde(serialize_with = "rfc3339")]
        since: SystemTime,
    },
    /// Files are about to be removed, as `recording.retention` says. What they held is told up to where each of them
    /// ended, so that what is left still hangs on something, and so are the ends of what was removed before.
    Pruned { files: Vec<Pruned> },
}

/// A file that was removed, or is about to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pruned {
    /// The run it belongs to.
    pub(crate) run: String,
    /// Its number among the run's files.
    pub(crate) file: u32,
    /// The last record in it.
    pub(crate) records: u64,
    /// The hash of that, in hexadecimal.
    pub(crate) hash: String,
}

#[derive(Serialize)]
struct NoticeLine<'a> {
    #[serde(serialize_with = "rfc3339")]
    time: SystemTime,
    #[serde(flatten)]
    notice: &'a Notice,
}

/// Appends a record's object to `buffer`.
pub(super) fn record(record: &Record<'_>, buffer: &mut Vec<u8>) -> Result<(), RecordFault> {
    let line = Line {
        time: record.time,
        session: record.session,
        sequence: record.sequence,
        agent: record.agent,
        serial: record.serial,
        target: record.target,
        event: &record.event,
    };
    write(&line, buffer)
}

/// Appends a notice's object to `buffer`.
pub(super) fn notice(time: SystemTime, notice: &Notice, buffer: &mut Vec<u8>) -> Result<(), RecordFault> {
    write(&NoticeLine { time, notice }, buffer)
}

fn write(line: &impl Serialize, buffer: &mut Vec<u8>) -> Result<(), RecordFault> {
    serde_json::to_writer(Bounded(buffer), line).map_err(|error| RecordFault(error.to_string()))
}

/// Takes bytes up to [`LONGEST`].
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

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let time = jiff::Timestamp::try_from(*time).map_err(serde::ser::Error::custom)?;
    serializer.collect_str(&format_args!("{time:.6}"))
}
