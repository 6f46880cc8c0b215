//! Recordings as they lie in a directory: files, and lines in them.
//!
//! Owns their names, their order and the reading of lines, for this program and for others. Touches the records
//! directory. Invariant: a line is read whole or up to a bound, whether its file is compressed or not, and its place can
//! be told.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Bytes of a line that are read at most.
const LONGEST: u64 = 32 * 1024 * 1024;
/// What a compressed file may ask of memory: 2 to this power. Ours ask for 8 MiB at most.
const WINDOW: u32 = 23;
/// What the name of a file ends in, and of a compressed one.
pub(crate) const PLAIN: &str = ".jsonl";
pub(crate) const COMPRESSED: &str = ".jsonl.zst";

/// A recording file, ordered as it was written. A file and what it was compressed to are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// What the names of all files of one run of a replica begin with.
    pub(crate) stem: String,
    pub(crate) number: u32,
    pub(crate) path: PathBuf,
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        (&self.stem, self.number).cmp(&(&other.stem, other.number))
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Place {}

impl Place {
    pub(crate) fn is_compressed(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "zst")
    }
}

/// The recording files in a directory, in the order in which each run wrote them. Where a file and what it was
/// compressed to are both there, because a process ended between the two, it is the file itself.
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
    places.sort_by(|one, other| one.cmp(other).then(one.is_compressed().cmp(&other.is_compressed())));
    places.dedup();
    Ok(places)
}

/// What the name of a recording file says: the run it belongs to, and its place among the run's files.
pub(crate) fn stem_and_number(name: &str) -> Option<(&str, u32)> {
    let (stem, number) = name.strip_suffix(COMPRESSED).or_else(|| name.strip_suffix(PLAIN))?.rsplit_once('-')?;
    Some((stem, number.parse().ok()?))
}

/// A file read up to its end, which may move.
pub(crate) struct Tail {
    path: PathBuf,
    reader: Box<dyn BufRead>,
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

/// Opens a file to be read as what was recorded.
pub(crate) fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let file = File::open(path)?;
    if path.extension().is_none_or(|extension| extension != "zst") {
        return Ok(Box::new(BufReader::new(file)));
    }
    Ok(Box::new(BufReader::new(decoder(file)?)))
}

/// What a compressed file holds.
pub(crate) fn decoder(file: File) -> io::Result<impl Read> {
    let mut decoder = zstd::stream::read::Decoder::new(file)?;
    decoder.window_log_max(WINDOW)?;
    Ok(decoder)
}

impl Tail {
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let opened = match open(path) {
            // It was compressed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => open(&path.with_extension("jsonl.zst")),
            other => other,
        };
        let reader = opened.with_context(|| format!("{} cannot be read", path.display()))?;
        Ok(Self { path: path.to_owned(), reader, number: 1, partial: Vec::new() })
    }

    /// The next line; an unfinished one is waited for when more may come.
    pub(crate) fn line(&mut self, follow: bool) -> io::Result<Option<Line>> {
        loop {
            let room = LONGEST.saturating_sub(self.partial.len() as u64);
            let read = (&mut self.reader).take(room).read_until(b'\n', &mut self.partial)?;
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

    /// What is left of a line where the file could not be read on.
    pub(crate) fn place(&self) -> String {
        format!("{} line {}", self.path.display(), self.number)
    }
}
