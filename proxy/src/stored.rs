//! Recordings as they lie in a directory: files, and lines in them.
//!
//! Owns their order and the reading of lines, for this program and for others. Touches the records directory.
//! Invariant: a line is read whole or up to a bound, and its place can be told.

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
        if let Some((stem, number)) = path.file_name().and_then(|name| name.to_str()).and_then(stem_and_number) {
            places.push(Place { stem: stem.to_owned(), number, path: path.clone() });
        }
    }
    places.sort();
    Ok(places)
}

/// What the name of a recording file says: the run it belongs to, and its place among the run's files.
pub(crate) fn stem_and_number(name: &str) -> Option<(&str, u32)> {
    let (stem, number) = name.strip_suffix(".jsonl")?.rsplit_once('-')?;
    Some((stem, number.parse().ok()?))
}

/// A file read up to its end, which may move.
pub(crate) struct Tail {
    path: PathBuf,
    reader: BufReader<File>,
    number: u64,
    partial: Vec<u8>,
}

/// A line, and where it stands.
#[derive(Debug)]
pub struct Line {
    /// What it holds, without the line break.
    pub bytes: Vec<u8>,
    /// The file and the number of the line in it.
    pub place: String,
}

/// Every line of the recordings in a directory: run by run, each in the order in which it was written.
///
/// # Errors
/// When the directory, or later a file in it, cannot be read.
pub fn lines(directory: &Path) -> anyhow::Result<impl Iterator<Item = anyhow::Result<Line>>> {
    let mut places = places(directory)?.into_iter();
    let mut file: Option<Tail> = None;
    Ok(std::iter::from_fn(move || {
        loop {
            if let Some(tail) = &mut file
                && let Some(line) = tail.line(false).map_err(Into::into).transpose()
            {
                return Some(line);
            }
            match Tail::open(&places.next()?.path) {
                Ok(tail) => file = Some(tail),
                Err(error) => return Some(Err(error)),
            }
        }
    }))
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
