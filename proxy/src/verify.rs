//! `sallyport-proxy verify`: whether recordings are what was written, for somebody who does not trust who kept them.
//!
//! Owns the checks and their sentences. Touches the records directory, the anchor's file and standard output.
//! Invariant: nothing is repaired or guessed: what does not follow from the chain or the anchor is named.
//!
//! The chain finds what was edited, moved or taken out of the middle. A recording that was written anew, or
//! ends early, has a sound chain of its own: only an anchor, kept where the recording is not, finds that out.
//! What is missing from the beginning was pruned or deleted: pruning is told in a chain, before it is done, and
//! counts when that chain is sound and the telling lies below its anchor.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use crate::chain::{Hash, Head, Sealed, hex, unhex};
use crate::config::VerifyArguments;
use crate::edges::recordings::retention::pruned;
use crate::stored::{Line, Place, Tail, places};

/// Bytes of the file with the anchors at most.
const ANCHORS: u64 = 16 * 1024 * 1024;
/// Faults of one run that are told; more are counted.
const TOLD: usize = 100;

/// Checks recordings as the arguments say; whether all of it holds.
///
/// # Errors
/// When the directory, the anchor or standard output cannot be used.
pub fn verify(arguments: &VerifyArguments) -> anyhow::Result<bool> {
    let target = arguments.anchor.as_deref().map(read_target).transpose()?;
    verify_against(&arguments.records_dir, target.as_ref(), &mut io::stdout().lock())
}

/// Checks the recordings in `directory` against the anchors in the status of `target`, an object as JSON; whether
/// all of it holds.
///
/// # Errors
/// When the directory cannot be read, the target anchors nothing, or `out` cannot be written.
pub fn verify_against(directory: &Path, target: Option<&Value>, out: &mut impl Write) -> anyhow::Result<bool> {
    let mut anchors = target.map(anchors).transpose()?.unwrap_or_default();
    let mut runs: BTreeMap<String, Vec<Place>> = BTreeMap::new();
    for place in places(directory)? {
        runs.entry(place.stem.clone()).or_default().push(place);
    }
    let mut read = Vec::new();
    for (name, files) in runs {
        let mut run = Run::new(&name, anchors.remove(&name));
        for place in files {
            run.read(&place)?;
        }
        run.conclude();
        read.push((name, run));
    }
    let claims = Claims::of(&read);
    let mut holds = true;
    for (name, mut run) in read {
        run.judge_beginning(claims.about(&name));
        holds &= run.tell(&name, out)?;
    }
    for (name, anchor) in anchors {
        match claims.about(&name).iter().find(|claim| claim.head.records >= anchor.records && claim.counts) {
            Some(claim) => writeln!(out, "{name}: pruned: all {} records, as {} says", anchor.records, claim.by)?,
            None => {
                holds = false;
                let records = anchor.records;
                writeln!(out, "{name}: missing: the anchor knows {records} records of it, and there is no file")?;
            }
        }
    }
    out.flush()?;
    Ok(holds)
}

/// The target whose status holds the anchors.
fn read_target(path: &Path) -> anyhow::Result<Value> {
    let unreadable = || format!("--anchor {} cannot be read", path.display());
    let mut text = String::new();
    let stdin = path.as_os_str() == "-";
    let read = if stdin {
        io::stdin().take(ANCHORS).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).with_context(unreadable)?.take(ANCHORS).read_to_string(&mut text)
    };
    read.with_context(unreadable)?;
    serde_json::from_str(&text)
        .with_context(|| format!("--anchor {}: no JSON: pass kubectl get target NAME -o json", path.display()))
}

/// The anchors by run: `status.replicas[].recording` and `status.recordings[]` of the target.
fn anchors(target: &Value) -> anyhow::Result<BTreeMap<String, Head>> {
    let list = |pointer: &str| target.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
    let live =
        list("/status/replicas").into_iter().filter_map(|mut replica| replica.get_mut("recording").map(Value::take));
    let mut anchors = BTreeMap::new();
    for recording in list("/status/recordings").into_iter().chain(live) {
        let head = (|| {
            let hash = unhex(recording.get("hash")?.as_str()?.as_bytes())?;
            let run = recording.get("run")?.as_str()?.to_owned();
            Some((run, Head { records: recording.get("records")?.as_u64()?, hash }))
        })();
        let (run, head) =
            head.with_context(|| format!("the target's status: {recording} is no run, records and hash"))?;
        anchors.insert(run, head);
    }
    anyhow::ensure!(
        !anchors.is_empty(),
        "no recording is anchored in the target's status: pass kubectl get target NAME -o json"
    );
    Ok(anchors)
}

/// What recordings say of pruning.
struct Claims(BTreeMap<String, Vec<Claim>>);

/// That a run was pruned up to a record.
#[derive(Clone)]
struct Claim {
    head: Head,
    /// The record that says so.
    by: String,
    /// That record stands in a sound chain, below its anchor where there is one.
    counts: bool,
}

impl Claims {
    fn of(read: &[(String, Run)]) -> Self {
        let mut claims: BTreeMap<String, Vec<Claim>> = BTreeMap::new();
        for (name, run) in read {
            for (number, of, head) in &run.claims {
                let counts = run.faults.is_empty() && run.anchor.is_none_or(|anchor| *number <= anchor.records);
                let claim = Claim { head: *head, by: format!("record {number} of {name}"), counts };
                claims.entry(of.clone()).or_default().push(claim);
            }
        }
        Self(claims)
    }

    fn about(&self, run: &str) -> &[Claim] {
        self.0.get(run).map(Vec::as_slice).unwrap_or_default()
    }
}

/// The first record of a run whose beginning is not there.
struct Beginning {
    number: u64,
    body: Vec<u8>,
    hash: Hash,
    place: String,
}

/// The check of one run of a replica.
struct Run {
    /// Where the chain stands.
    head: Head,
    /// Where it stood one record before.
    before: Head,
    /// What is to be judged by what is said of pruning.
    beginning: Option<Beginning>,
    /// What it says of pruning: the record that does, the run that it speaks of, and up to where.
    claims: Vec<(u64, String, Head)>,
    /// Numbers that were passed over, until they turn up.
    missing: Vec<(u64, u64)>,
    anchor: Option<Head>,
    faults: Vec<String>,
    untold: usize,
    notes: Vec<String>,
    place: String,
}

impl Run {
    fn new(name: &str, anchor: Option<Head>) -> Self {
        let head = Head::of_run(name);
        Self {
            head,
            before: head,
            beginning: None,
            claims: Vec::new(),
            missing: Vec::new(),
            anchor,
            faults: Vec::new(),
            untold: 0,
            notes: Vec::new(),
            place: String::new(),
        }
    }

    fn read(&mut self, place: &Place) -> anyhow::Result<()> {
        let mut file = Tail::open(&place.path)?;
        loop {
            match file.line(false) {
                Ok(Some(line)) => self.take(&line),
                Ok(None) => return Ok(()),
                // A plain file that cannot be read says nothing of the recording.
                Err(error) if !place.is_compressed() => return Err(error).with_context(|| file.place()),
                Err(error) => {
                    self.fault(format!("{}: it cannot be read on: it was changed or cut off ({error})", file.place()));
                    return Ok(());
                }
            }
        }
    }

    fn take(&mut self, line: &Line) {
        let place = &line.place;
        let Some(sealed) = Sealed::read(&line.bytes) else {
            if serde_json::from_slice::<Value>(&line.bytes).is_ok_and(|value| value.is_object()) {
                return self.fault(format!("{place}: a record without a seal: it was added, or changed"));
            }
            return note(
                &mut self.notes,
                format!("{place}: a torn line of {} bytes, which never counted", line.bytes.len()),
            );
        };
        self.place.clone_from(place);
        let number = sealed.number;
        let wanted = self.head.records.saturating_add(1);
        if number < wanted {
            return self.old(place, sealed);
        }
        if number > wanted && self.head.records == 0 {
            let (body, hash) = (sealed.body.to_vec(), sealed.hash);
            self.beginning = Some(Beginning { number, body, hash, place: place.clone() });
        } else if number > wanted {
            self.missing.push((wanted, number - 1));
            // What came before it is gone: what it says of itself is all there is.
        } else if self.head.next(sealed.body) != sealed.hash {
            let before = self.head.records;
            self.fault(format!(
                "{place}: record {number} does not follow from record {before}: one of them was changed"
            ));
        }
        self.before = self.head;
        self.head = Head { records: number, hash: sealed.hash };
        self.against_anchor(number, sealed.hash);
        self.listen(number, &line.bytes);
    }

    /// What the recording says of itself.
    fn listen(&mut self, number: u64, line: &[u8]) {
        for end in pruned(line) {
            if let Some(hash) = unhex(end.hash.as_bytes()) {
                self.claims.push((number, end.run, Head { records: end.records, hash }));
            }
        }
        let mark = br#""event":"gap","#;
        if line.windows(mark.len()).any(|window| window == mark) {
            let said = serde_json::from_slice::<Value>(line).unwrap_or_default();
            let (lost, since) = (said.get("lost").and_then(Value::as_u64), said.get("since").and_then(Value::as_str));
            let (lost, since) = (lost.unwrap_or_default(), since.unwrap_or_default());
            let place = self.place.clone();
            note(&mut self.notes, format!("{place}: a gap: {lost} records could not be written, the first at {since}"));
        }
    }

    /// The beginning is not there: it was pruned, if somebody who counts says so, and what is left follows from it.
    fn judge_beginning(&mut self, claims: &[Claim]) {
        let Some(Beginning { number, body, hash, place }) = self.beginning.take() else { return };
        let last = number - 1;
        let up_to = if last == 1 { "record 1 is".to_owned() } else { format!("records 1 to {last} are") };
        let about: Vec<_> = claims.iter().filter(|claim| claim.head.records == last).collect();
        match about.iter().find(|claim| claim.counts) {
            Some(claim) if claim.head.next(&body) == hash => {
                let by = &claim.by;
                let sentence = format!("{up_to} gone by retention, as {by} says, and the rest follows from them");
                note(&mut self.notes, sentence);
            }
            Some(claim) => self.fault(format!(
                "{place}: record {number} does not follow from what {} says was pruned: one of them was changed",
                claim.by
            )),
            None => self.fault(match about.first() {
                Some(claim) => format!(
                    "{up_to} missing, and {} says they were pruned, which does not count: it is not anchored, or its \
                     own recording is not sound (take the anchor after the recordings)",
                    claim.by
                ),
                None => format!("{up_to} missing, and nothing says that they were pruned: they were deleted"),
            }),
        }
    }

    /// A record whose number was already passed.
    fn old(&mut self, place: &str, sealed: Sealed<'_>) {
        let number = sealed.number;
        // What seemed to be gone from the beginning is only out of its place.
        if let Some(beginning) = self.beginning.take_if(|beginning| number < beginning.number) {
            self.missing.push((1, beginning.number - 1));
        }
        if let Some(at) = self.missing.iter().position(|(from, to)| (*from..=*to).contains(&number)) {
            let (from, to) = self.missing.remove(at);
            let rest = [(from, number.saturating_sub(1)), (number.saturating_add(1), to)];
            self.missing.extend(rest.into_iter().filter(|(from, to)| from <= to));
            return self.fault(format!("{place}: record {number} stands out of its order"));
        }
        let repeats_last = number == self.head.records && self.before.records + 1 == number;
        if repeats_last && self.before.next(sealed.body) == sealed.hash {
            // A full disk may have taken a whole line but not its end: that record did not count, this one does.
            note(
                &mut self.notes,
                format!("{place}: the line before was written and never counted: its command was refused"),
            );
            self.head.hash = sealed.hash;
            return self.against_anchor(number, sealed.hash);
        }
        self.fault(format!("{place}: record {number} is there twice"));
    }

    fn against_anchor(&mut self, number: u64, hash: Hash) {
        if let Some(anchor) = self.anchor.filter(|anchor| anchor.records == number && anchor.hash != hash) {
            let place = self.place.clone();
            let (found, known) = (hex(&hash), hex(&anchor.hash));
            self.fault(format!("{place}: record {number} is not the one that was anchored: the recording was written anew ({found}, anchored was {known})"));
        }
    }

    fn fault(&mut self, sentence: String) {
        if self.faults.len() < TOLD { self.faults.push(sentence) } else { self.untold += 1 }
    }

    /// What can be said once all of it was read.
    fn conclude(&mut self) {
        for (from, to) in std::mem::take(&mut self.missing) {
            let what = if from == to { format!("record {from} is") } else { format!("records {from} to {to} are") };
            self.fault(format!("{what} missing"));
        }
        if let Some(Head { records, .. }) = self.anchor.filter(|anchor| anchor.records > self.head.records) {
            self.fault(format!(
                "it ends at record {} and the anchor knows {records}: its end was cut off",
                self.head.records
            ));
        }
    }

    /// Tells what was found; whether all of it holds.
    fn tell(self, name: &str, out: &mut impl Write) -> anyhow::Result<bool> {
        let anchored = self.anchor.map(|anchor| anchor.records);
        let holds = self.faults.is_empty();
        let against = match anchored {
            Some(records) => format!("anchored up to record {records}"),
            None => "not anchored: a recording that was written anew or cut off would not be found out".to_owned(),
        };
        let verdict = if holds { "sound" } else { "NOT SOUND" };
        writeln!(out, "{name}: {verdict}: {} records, hash {}, {against}", self.head.records, hex(&self.head.hash))?;
        for sentence in self.faults.iter() {
            writeln!(out, "  fault: {sentence}")?;
        }
        if self.untold > 0 {
            writeln!(out, "  and {} more faults", self.untold)?;
        }
        for sentence in &self.notes {
            writeln!(out, "  note: {sentence}")?;
        }
        Ok(holds)
    }
}

/// Notes are bounded as faults are.
fn note(notes: &mut Vec<String>, sentence: String) {
    if notes.len() < TOLD {
        notes.push(sentence);
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;
    use sallyport_core::ports::RecordSink as _;
    use sallyport_core::record::{Event, Record};

    use super::*;
    use crate::edges::recordings::Recordings;

    const RUN: &str = "pod-19700101T000000Z";

    /// The lines of a recording of `count` records, by file.
    fn recorded(count: u64) -> Vec<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let recordings = Recordings::within(dir.path(), "pod", UNIX_EPOCH, (700, u64::MAX));
        for sequence in 0..count {
            let (session, agent, serial, target) =
                ("00000000000000000000000000000001", "spiffe://t/a", "01", "shop/db");
            let event = Event::Close { reason: "the client left" };
            recordings.append(&Record { time: UNIX_EPOCH, session, sequence, agent, serial, target, event }).unwrap();
        }
        let files = (0..).map(|number| dir.path().join(format!("{RUN}-{number}.jsonl")));
        let read = files.map_while(|path| std::fs::read_to_string(path).ok());
        read.map(|text| text.lines().map(str::to_owned).collect()).collect()
    }

    fn head(files: &[Vec<String>]) -> Value {
        let last = files.last().unwrap().last().unwrap();
        let sealed = Sealed::read(last.as_bytes()).unwrap();
        serde_json::json!({"run": RUN, "records": sealed.number, "hash": hex(&sealed.hash)})
    }

    fn checked(files: &[Vec<String>], anchor: Option<Value>) -> (bool, String) {
        let dir = tempfile::tempdir().unwrap();
        for (number, lines) in files.iter().enumerate() {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            std::fs::write(dir.path().join(format!("{RUN}-{number}.jsonl")), text).unwrap();
        }
        let place = tempfile::NamedTempFile::new().unwrap();
        let anchor = anchor.map(|recording| {
            let target = serde_json::json!({"status": {"replicas": [{"pod": "pod", "recording": recording}]}});
            std::fs::write(place.path(), target.to_string()).unwrap();
            place.path().to_owned()
        });
        let mut out = Vec::new();
        let target = anchor.as_deref().map(|path: &Path| read_target(path).unwrap());
        let holds = verify_against(dir.path(), target.as_ref(), &mut out).unwrap();
        (holds, String::from_utf8(out).unwrap())
    }

    #[test]
    fn what_was_written_is_sound_across_its_files() {
        let files = recorded(7);
        assert!(files.len() > 2);
        let (holds, told) = checked(&files, Some(head(&files)));
        assert!(holds && told.contains("sound: 7 records") && told.contains("anchored up to record 7"), "{told}");
        // More was written after the anchor.
        assert!(checked(&recorded(9), Some(head(&files))).0);
    }

    #[test]
    fn each_manipulation_is_named() {
        let files = recorded(7);
        let told = |edit: fn(&mut Vec<Vec<String>>)| {
            let mut edited = files.clone();
            edit(&mut edited);
            let (holds, told) = checked(&edited, Some(head(&files)));
            assert!(!holds, "{told}");
            told
        };
        let edited = told(|files| files[1][0] = files[1][0].replace("client left", "client stayed"));
        assert!(edited.contains("-1.jsonl line 1: record") && edited.contains("was changed"), "{edited}");
        let deleted = told(|files| drop(files[0].remove(1)));
        assert!(deleted.contains("record 2 is missing"), "{deleted}");
        let a_file = told(|files| files[1].clear());
        assert!(a_file.contains("are missing"), "{a_file}");
        let moved = told(|files| files[0].swap(0, 1));
        assert!(moved.contains("stands out of its order"), "{moved}");
        let doubled = told(|files| {
            let line = files[0][0].clone();
            files[1].push(line)
        });
        assert!(doubled.contains("record 1 is there twice"), "{doubled}");
        let added = told(|files| files[0].insert(1, r#"{"event":"command"}"#.to_owned()));
        assert!(added.contains("without a seal"), "{added}");
        let cut = told(|files| drop(files.last_mut().unwrap().pop()));
        assert!(cut.contains("its end was cut off"), "{cut}");
        let gone = told(Vec::clear);
        assert!(gone.contains("missing: the anchor knows 7 records"), "{gone}");
        // A chain that is sound in itself, for another history.
        let anew = told(|files| {
            let mut head = Head::of_run(RUN);
            for line in files.iter_mut().flatten() {
                let body = line.replace("client left", "client stayed");
                let mut sealed = [&body.as_bytes()[..body.rfind(",\"link\"").unwrap()], b"}"].concat();
                head = head.seal(&mut sealed, 0);
                *line = String::from_utf8(sealed).unwrap();
            }
        });
        assert!(anew.contains("the recording was written anew"), "{anew}");
    }

    #[test]
    fn without_an_anchor_a_sound_chain_is_not_called_proof() {
        let (holds, told) = checked(&recorded(3), None);
        assert!(holds && told.contains("not anchored"), "{told}");
    }

    #[test]
    fn what_a_full_disk_left_is_noted_and_no_fault() {
        let mut files = recorded(4);
        let last = files.last_mut().unwrap();
        last.push(r#"{"time":"2026-"#.to_owned());
        let (holds, told) = checked(&files, None);
        assert!(holds && told.contains("note: ") && told.contains("torn line of 14 bytes"), "{told}");
    }

    proptest! {
        /// One byte of one line, or one line: whatever is done to it, it is found.
        #[test]
        fn no_change_of_one_byte_passes(at in 0_usize..5, offset in any::<prop::sample::Index>(), by in 1_u8..=255) {
            let mut files = recorded(5);
            let anchor = head(&files);
            let line = files.iter_mut().flatten().nth(at).unwrap();
            let mut bytes = line.clone().into_bytes();
            let offset = offset.index(bytes.len());
            bytes[offset] ^= by;
            prop_assume!(!bytes.contains(&b'\n'));
            if let Ok(text) = String::from_utf8(bytes) {
                *line = text;
                prop_assert!(!checked(&files, Some(anchor)).0);
            }
        }
    }
}
