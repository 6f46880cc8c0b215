//! Recordings as they lie in a directory: files, and lines in them.
//!
//! Owns their order and the reading of lines. Touches the records directory. Invariant: a line is read whole
//! or up to a bound, and its place can be told.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Bytes of a line that are read at most.
const LONGEST: u64 = 32 * 1024 * 1024;

/// A recording file, ordered as it was written.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// What the names of all files of one run of a replica begin with.
    pub(crate) stem: String,
    pub(crate) number: u32,
    pub(crate) path: PathBuf,
}

/// The recording files in a directory, in the order in which each run wrote them.
///
/// # Errors
/// When the directory cannot be read.
pub(crate) fn places(directory: &Path) -> anyhow::Result<Vec<Place>> {
    let unreadable = || format!("{} cannot be read", directory.display());
    let mut places = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".jsonl"));
        if let Some((stem, number)) = name.and_then(|name| name.rsplit_once('-'))
            && let Ok(number) = number.parse()
        {
            places.push(Place { stem: stem.to_owned(), number, path });
        }
    }
    places.sort();
    Ok(places)
}

/// A file read up to its end, which may move.
pub(crate) struct Tail {
    path: PathBuf,
    reader: BufReader<File>,
    number: u64,
    partial: Vec<u8>,
}

/// A line, and where it stands.
pub(crate) struct Line {
    pub(crate) bytes: Vec<u8>,
    pub(crate) place: String,
}

impl Tail {
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
        Ok(Self { path: path.to_owned(), reader: BufReader::new(file), number: 1, partial: Vec::new() })
    }

    /// The next line; an unfinished one is waited for when more may come.
    pub(crate) fn line(&mut self, follow: bool) -> io::Result<Option<Line>> {
        loop {
            let room = LONGEST.saturating_sub(self.partial.len() as u64);
            let read = self.reader.by_ref().take(room).read_until(b'\n', &mut self.partial)?;
            let whole = self.partial.last() == Some(&b'\n') || self.partial.len() as u64 >= LONGEST;
            if !whole && (follow || (read == 0 && self.partial.is_empty())) {
                return Ok(None);
            }
            let place = format!("{} line {}", self.path.display(), self.number);
            self.number += 1;
            let mut bytes = std::mem::take(&mut self.partial);
            if bytes.last() == Some(&b'\n') {
                bytes.pop();
            }
            if !bytes.is_empty() {
                return Ok(Some(Line { bytes, place }));
            }
        }
    }
}
