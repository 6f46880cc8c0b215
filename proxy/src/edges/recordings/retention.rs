//! Retention: the oldest closed files go, and the recording itself says so before they do.
//!
//! Owns which files may go, and in what order. Touches the records directory. Invariants: never the open file, never
//! one that was not kept elsewhere where it should be; what a file held is told in the chain, and that is anchored,
//! before it is removed. So whoever removes a file without that is found out by `verify`, and whoever forges the
//! telling has to forge the anchor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sallyport_policy::Span;

use super::{Notice, Pruned, Recordings};
use crate::chain::{Head, Sealed, hex};
use crate::stored::{Place, Tail, places};

/// Files that go at once; the rest goes the next time.
const AT_ONCE: usize = 64;
/// Runs whose pruning is remembered, as many as anchors are kept.
const RUNS: usize = 64;

/// What one replica prunes.
#[derive(Debug, Default)]
pub(crate) struct Retention {
    /// How far each run is pruned; read from the recordings when it is first needed.
    pruned: Option<BTreeMap<String, Pruned>>,
    /// Files whose going has been told, and by which record.
    going: Option<(u64, Vec<PathBuf>)>,
}

/// A closed file.
struct Closed {
    place: Place,
    bytes: u64,
    modified: SystemTime,
}

impl Retention {
    /// Takes one step: tells what is to go, or removes what was told and is anchored. `anchors` is whether anybody
    /// anchors at all; `kept` is whether a file is where it should be kept elsewhere. What went.
    pub(crate) fn step(
        &mut self,
        recordings: &Recordings,
        bound: Span,
        anchors: bool,
        kept: impl Fn(&Path) -> bool,
    ) -> Result<usize, String> {
        if let Some((record, files)) = self.going.take() {
            if anchors && recordings.anchored() < record {
                self.going = Some((record, files));
                return Ok(0);
            }
            return remove(&files);
        }
        let closed = closed(recordings)?;
        let overdue = overdue(&closed, bound, SystemTime::now());
        let going: Vec<_> = closed
            .into_iter()
            .take(overdue.min(AT_ONCE))
            .map_while(|file| kept(&file.place.path).then_some(file.place))
            .collect();
        if going.is_empty() {
            return Ok(0);
        }
        let record = self.tell(recordings, &going)?;
        self.going = Some((record, going.into_iter().map(|place| place.path).collect()));
        Ok(0)
    }

    /// Tells in the chain what each of them ends with.
    fn tell(&mut self, recordings: &Recordings, going: &[Place]) -> Result<u64, String> {
        let mut pruned = match self.pruned.take() {
            Some(pruned) => pruned,
            None => told_before(recordings.directory())?,
        };
        let mut files = Vec::new();
        for place in going {
            let before = pruned.remove(&place.stem);
            let head = end(&place.path)?;
            // A file without a record: what stands before it stands for it.
            let (records, hash) = match (head, before) {
                (Some(head), _) => (head.records, hex(&head.hash)),
                (None, Some(before)) => (before.records, before.hash),
                (None, None) => (0, hex(&Head::of_run(&place.stem).hash)),
            };
            let end = Pruned { run: place.stem.clone(), file: place.number, records, hash };
            files.push(end.clone());
            pruned.insert(place.stem.clone(), end);
        }
        let told: BTreeSet<&str> = going.iter().map(|place| place.stem.as_str()).collect();
        // Names of runs end in when they began: the oldest are forgotten, as their anchors are.
        while pruned.len() > RUNS {
            pruned.pop_first();
        }
        files.extend(pruned.values().filter(|end| !told.contains(end.run.as_str())).cloned());
        self.pruned = Some(pruned);
        recordings.notice(&Notice::Pruned { files })
    }
}

fn remove(files: &[PathBuf]) -> Result<usize, String> {
    // The oldest first: a crash in between leaves a recording that begins where it was told it might.
    for path in files {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("{} cannot be removed: {error}", path.display()));
            }
            _ => {}
        }
    }
    Ok(files.len())
}

/// The closed files, the oldest first, each run from its beginning on. A run of another replica that lives, or of another
/// process that still has a file open, is its own to prune.
fn closed(recordings: &Recordings) -> Result<Vec<Closed>, String> {
    let places = places(recordings.directory()).map_err(|error| format!("{error:#}"))?;
    let live: BTreeSet<String> = places
        .iter()
        .filter(|place| place.stem != recordings.stem())
        .filter(|place| {
            !recordings.looks_after(&place.stem) || (!place.is_compressed() && recordings.left(place).is_none())
        })
        .map(|place| place.stem.clone())
        .collect();
    let open = recordings.open_number();
    let mut closed = Vec::new();
    for place in places {
        let ours = place.stem == recordings.stem();
        if live.contains(&place.stem) || (ours && open.is_none_or(|open| place.number >= open)) {
            continue;
        }
        if let Ok(about) = std::fs::metadata(&place.path) {
            closed.push(Closed {
                place,
                bytes: about.len(),
                modified: about.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            });
        }
    }
    let mut began = BTreeMap::new();
    for file in &closed {
        began.entry(file.place.stem.clone()).or_insert(file.modified);
    }
    closed.sort_by(|one, other| {
        let key = |file: &Closed| began.get(&file.place.stem).copied();
        key(one).cmp(&key(other)).then_with(|| one.place.cmp(&other.place))
    });
    Ok(closed)
}

/// How many of them are beyond the bound.
fn overdue(closed: &[Closed], bound: Span, now: SystemTime) -> usize {
    let mut kept: u64 = closed.iter().map(|file| file.bytes).sum();
    let age = bound.seconds.map(Duration::from_secs);
    let goes = closed.iter().take_while(|file| {
        let old = age.is_some_and(|age| now.duration_since(file.modified).unwrap_or_default() > age);
        let beyond = bound.bytes.is_some_and(|bytes| kept > bytes);
        kept = kept.saturating_sub(file.bytes);
        old || beyond
    });
    goes.count()
}

/// Where the chain stands after a file.
fn end(path: &Path) -> Result<Option<Head>, String> {
    let mut file = Tail::open(path).map_err(|error| format!("{error:#}"))?;
    let mut head = None;
    while let Some(line) = file.line(false).map_err(|error| format!("{}: {error}", file.place()))? {
        if let Some(sealed) = Sealed::read(&line.bytes) {
            head = Some(Head { records: sealed.number, hash: sealed.hash });
        }
    }
    Ok(head)
}

/// What the recordings in a directory say of pruning, by run.
fn told_before(directory: &Path) -> Result<BTreeMap<String, Pruned>, String> {
    let mut told: BTreeMap<String, Pruned> = BTreeMap::new();
    for place in places(directory).map_err(|error| format!("{error:#}"))? {
        let mut file = Tail::open(&place.path).map_err(|error| format!("{error:#}"))?;
        while let Some(line) = file.line(false).map_err(|error| format!("{}: {error}", file.place()))? {
            for end in pruned(&line.bytes) {
                let newer = told.get(&end.run).is_none_or(|known| known.records <= end.records);
                if newer {
                    told.insert(end.run.clone(), end);
                }
            }
        }
    }
    Ok(told)
}

/// What a line says of pruning; most say nothing.
pub(crate) fn pruned(line: &[u8]) -> Vec<Pruned> {
    #[derive(serde::Deserialize)]
    struct Said {
        event: String,
        #[serde(default)]
        files: Vec<Pruned>,
    }
    // Quotes within a text are escaped: only a field of ours looks like this.
    let mark = br#""event":"pruned","#;
    if !line.windows(mark.len()).any(|window| window == mark) {
        return Vec::new();
    }
    let said = serde_json::from_slice::<Said>(line).ok().filter(|said| said.event == "pruned");
    said.map(|said| said.files).unwrap_or_default()
}
