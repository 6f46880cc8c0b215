//! What becomes of files, and what an auditor makes of that: compressed, pruned, tampered with.
//!
//! Owns these claims. Touches temporary directories. Invariant under test: retention is told from deletion, and a
//! compressed file is as good a proof as a plain one.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sallyport_core::ports::RecordSink as _;
use sallyport_core::record::{Event, Record};
use sallyport_policy::Span;
use serde_json::{Value, json};

use super::Recordings;
use super::adoption::QUIET;
use super::retention::Retention;
use crate::verify::verify_against;

const RUN: &str = "pod-19700101T000000Z";

fn recordings(directory: &Path) -> Recordings {
    Recordings::within(directory, "pod", UNIX_EPOCH, (700, u64::MAX))
}

fn record(recordings: &Recordings, count: u64) {
    for sequence in 0..count {
        let (session, agent, serial, target) = ("00000000000000000000000000000001", "spiffe://t/a", "01", "shop/db");
        let event = Event::Close { reason: "the client left" };
        recordings.append(&Record { time: UNIX_EPOCH, session, sequence, agent, serial, target, event }).unwrap();
    }
}

fn names(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect::<BTreeSet<_>>().into_iter().collect()
}

fn file(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{RUN}-{number}.jsonl.zst"))
}

fn anchor(recordings: &Recordings) -> Value {
    let (run, records, hash) = recordings.anchor().unwrap();
    json!({"run": run, "records": records, "hash": hash})
}

fn checked(directory: &Path, anchors: &[Value]) -> (bool, String) {
    let target = (!anchors.is_empty()).then(|| json!({"status": {"recordings": anchors}}));
    let mut out = Vec::new();
    let holds = verify_against(directory, target.as_ref(), &mut out).unwrap();
    (holds, String::from_utf8(out).unwrap())
}

/// A recording of many files, compressed but for the open one.
fn compressed(count: u64) -> (tempfile::TempDir, Recordings) {
    let dir = tempfile::tempdir().unwrap();
    let recordings = recordings(dir.path());
    record(&recordings, count);
    recordings.compress_closed().unwrap();
    (dir, recordings)
}

#[test]
fn a_compressed_recording_is_whole_and_as_good_a_proof() {
    let dir = tempfile::tempdir().unwrap();
    let recordings = recordings(dir.path());
    record(&recordings, 10);
    let plain = fs::read(dir.path().join(format!("{RUN}-0.jsonl"))).unwrap();
    let written = fs::metadata(dir.path().join(format!("{RUN}-0.jsonl"))).unwrap().modified().unwrap();
    recordings.compress_closed().unwrap();
    let names = names(dir.path());
    let (last, closed) = names.split_last().unwrap();
    assert!(closed.len() > 2 && closed.iter().all(|name| name.ends_with(".jsonl.zst")), "{names:?}");
    assert!(last.ends_with(".jsonl"), "the open one stays as it is: {last}");
    // Somebody else's decoder reads the same, and age is told as before.
    let read = std::process::Command::new("zstd").arg("-dc").arg(file(dir.path(), 0)).output().unwrap();
    assert_eq!(read.stdout, plain);
    assert_eq!(fs::metadata(file(dir.path(), 0)).unwrap().modified().unwrap(), written);
    let (holds, told) = checked(dir.path(), &[anchor(&recordings)]);
    assert!(holds && told.contains("sound: 10 records"), "{told}");
    // And the chain goes on.
    record(&recordings, 1);
    assert!(checked(dir.path(), &[anchor(&recordings)]).0);
}

/// The page for auditors has a script: it comes to what was anchored, and finds an edit.
#[test]
fn without_our_program_the_chain_is_checked_as_the_page_says() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/records.md")).unwrap();
    let (_, script) = page.split_once("    run=").unwrap();
    let lines = script.lines().skip(1).take_while(|line| !line.is_empty());
    let script = format!("run={RUN}\n{}", lines.collect::<Vec<_>>().join("\n"));
    let dir = tempfile::tempdir().unwrap();
    let recordings = Recordings::new(dir.path(), "pod", UNIX_EPOCH);
    record(&recordings, 5);
    let anchored = anchor(&recordings);
    recordings.rotate(u64::MAX, Duration::ZERO);
    recordings.compress_closed().unwrap();
    let said = || {
        let output =
            std::process::Command::new("bash").arg("-c").arg(&script).current_dir(dir.path()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(said().trim(), anchored["hash"].as_str().unwrap(), "{script}");
    let text = zstd::decode_all(&fs::read(file(dir.path(), 0)).unwrap()[..]).unwrap();
    let text = String::from_utf8(text).unwrap().replacen("client left", "client lied", 1);
    fs::write(file(dir.path(), 0), zstd::encode_all(text.as_bytes(), 0).unwrap()).unwrap();
    assert!(said().contains("NOT SOUND"), "{}", said());
}

#[test]
fn each_manipulation_of_compressed_files_is_named() {
    let told = |edit: fn(&Path)| {
        let (dir, recordings) = compressed(10);
        edit(dir.path());
        let (holds, told) = checked(dir.path(), &[anchor(&recordings)]);
        assert!(!holds, "{told}");
        told
    };
    let edited = told(|dir| {
        let mut bytes = fs::read(file(dir, 1)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(file(dir, 1), bytes).unwrap();
    });
    assert!(edited.contains("-1.jsonl.zst line") && edited.contains("changed"), "{edited}");
    let cut = told(|dir| {
        let bytes = fs::read(file(dir, 1)).unwrap();
        fs::write(file(dir, 1), &bytes[..bytes.len() - 20]).unwrap();
    });
    assert!(cut.contains("cannot be read on: it was changed or cut off"), "{cut}");
    let rewritten = told(|dir| {
        let text = zstd::decode_all(&fs::read(file(dir, 1)).unwrap()[..]).unwrap();
        let text = String::from_utf8(text).unwrap().replacen("client left", "client lied", 1);
        fs::write(file(dir, 1), zstd::encode_all(text.as_bytes(), 0).unwrap()).unwrap();
    });
    assert!(rewritten.contains("was changed"), "{rewritten}");
    let taken = told(|dir| fs::remove_file(file(dir, 1)).unwrap());
    assert!(taken.contains("are missing"), "{taken}");
    let first = told(|dir| fs::remove_file(file(dir, 0)).unwrap());
    assert!(first.contains("nothing says that they were pruned: they were deleted"), "{first}");
    let swapped = told(|dir| {
        fs::rename(file(dir, 0), dir.join("aside")).unwrap();
        fs::rename(file(dir, 1), file(dir, 0)).unwrap();
        fs::rename(dir.join("aside"), file(dir, 1)).unwrap();
    });
    assert!(swapped.contains("stands out of its order"), "{swapped}");
}

#[test]
fn a_process_killed_while_compressing_leaves_nothing_that_is_read_twice() {
    let (dir, recordings) = compressed(10);
    // Killed before the plain file was removed.
    let text = zstd::decode_all(&fs::read(file(dir.path(), 0)).unwrap()[..]).unwrap();
    fs::write(dir.path().join(format!("{RUN}-0.jsonl")), text).unwrap();
    // And another before it was renamed.
    fs::write(dir.path().join(format!(".{RUN}-1.jsonl.zst.part")), "half").unwrap();
    let (holds, told) = checked(dir.path(), &[anchor(&recordings)]);
    assert!(holds && told.contains("sound: 10 records"), "{told}");
    recordings.compress_closed().unwrap();
    assert!(!dir.path().join(format!("{RUN}-0.jsonl")).exists());
}

#[test]
fn a_file_that_another_process_writes_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let other = Recordings::new(dir.path(), "other", UNIX_EPOCH);
    record(&other, 3);
    let ours = recordings(dir.path());
    ours.compress_closed().unwrap();
    assert_eq!(names(dir.path()), ["other-19700101T000000Z-0.jsonl"]);
    // Of a replica that nobody says is gone nothing is touched, locked or not.
    drop(other);
    ours.compress_closed().unwrap();
    assert_eq!(names(dir.path()), ["other-19700101T000000Z-0.jsonl"]);
}

/// Makes a file look as if nobody had written to it for so long.
fn quiet(directory: &Path, name: &str, long: Duration) {
    let file = fs::File::options().write(true).open(directory.join(name)).unwrap();
    file.set_modified(SystemTime::now() - long).unwrap();
}

#[test]
fn what_a_replica_left_is_taken_up_once_it_is_known_to_be_gone_and_quiet_and_nobody_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let ours = recordings(dir.path());
    let fleet = |pods: &[&str]| ours.note_fleet(pods.iter().map(|&pod| pod.to_owned()).collect());
    let left = "other-19700101T000000Z-0.jsonl";
    let stays = |why: &str| {
        ours.compress_closed().unwrap();
        let mut retention = Retention::default();
        assert_eq!(retention.step(&ours, NOTHING, false, |_| true), Ok(0));
        assert_eq!(ours.anchor(), None, "{why}: nothing is told to go");
        assert_eq!(names(dir.path()), [left], "{why}");
    };
    let other = Recordings::new(dir.path(), "other", UNIX_EPOCH);
    record(&other, 3);
    let end = anchor(&other);
    quiet(dir.path(), left, QUIET);
    stays("nobody knows of the fleet");
    fleet(&["pod"]);
    stays("it is locked");
    drop(other);
    fleet(&["pod", "other"]);
    stays("its replica lives");
    fleet(&["pod"]);
    quiet(dir.path(), left, QUIET / 2);
    stays("it was written to lately");
    quiet(dir.path(), left, QUIET);
    ours.compress_closed().unwrap();
    assert_eq!(names(dir.path()), [format!("{left}.zst")]);
    let (holds, told) = checked(dir.path(), std::slice::from_ref(&end));
    assert!(holds, "{told}");
    // A replica that lives prunes its own.
    let mut retention = Retention::default();
    fleet(&["pod", "other"]);
    assert_eq!(retention.step(&ours, NOTHING, false, |_| true), Ok(0));
    assert_eq!(ours.anchor(), None);
    fleet(&["pod"]);
    retention.step(&ours, NOTHING, false, |_| true).unwrap();
    assert_eq!(retention.step(&ours, NOTHING, false, |_| true), Ok(1));
    let (holds, told) = checked(dir.path(), &[end, anchor(&ours)]);
    assert!(holds && told.contains("other-19700101T000000Z: pruned: all 3 records"), "{told}");
}

#[test]
fn two_that_take_up_the_same_leave_one_whole_file() {
    let dir = tempfile::tempdir().unwrap();
    let gone = Recordings::new(dir.path(), "gone", UNIX_EPOCH);
    record(&gone, 2000);
    let end = anchor(&gone);
    drop(gone);
    quiet(dir.path(), "gone-19700101T000000Z-0.jsonl", QUIET);
    let replicas: Vec<_> = ["one", "two", "three"].map(|pod| Recordings::new(dir.path(), pod, UNIX_EPOCH)).into();
    std::thread::scope(|scope| {
        for replica in &replicas {
            replica.note_fleet(BTreeSet::from(["one", "two", "three"].map(str::to_owned)));
            scope.spawn(|| replica.compress_closed().unwrap());
        }
    });
    assert_eq!(names(dir.path()), ["gone-19700101T000000Z-0.jsonl.zst"]);
    let (holds, told) = checked(dir.path(), &[end]);
    assert!(holds && told.contains("sound: 2000 records"), "{told}");
}

#[test]
fn an_old_file_is_closed_and_an_empty_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let recordings = Recordings::new(dir.path(), "pod", UNIX_EPOCH);
    recordings.check().unwrap();
    recordings.rotate(u64::MAX, Duration::ZERO);
    record(&recordings, 1);
    assert_eq!(names(dir.path()), [format!("{RUN}-0.jsonl")]);
    recordings.rotate(u64::MAX, Duration::from_secs(3600));
    record(&recordings, 1);
    assert_eq!(names(dir.path()).len(), 1);
    recordings.rotate(u64::MAX, Duration::ZERO);
    record(&recordings, 1);
    assert_eq!(names(dir.path()).len(), 2);
    assert!(checked(dir.path(), &[anchor(&recordings)]).0);
}

const NOTHING: Span = Span { bytes: Some(0), seconds: None };

/// A recording of which all that may go has gone.
fn pruned() -> (tempfile::TempDir, Recordings) {
    let (dir, recordings) = compressed(10);
    let mut retention = Retention::default();
    assert_eq!(retention.step(&recordings, NOTHING, true, |_| true), Ok(0));
    let told = anchor(&recordings);
    // Told, and not anchored: nothing goes.
    assert_eq!(retention.step(&recordings, NOTHING, true, |_| true), Ok(0));
    assert!(file(dir.path(), 0).exists());
    recordings.note_anchored(told["records"].as_u64().unwrap());
    assert!(retention.step(&recordings, NOTHING, true, |_| true).unwrap() > 2);
    (dir, recordings)
}

#[test]
fn what_retention_removed_is_told_from_what_was_deleted() {
    let (dir, recordings) = pruned();
    assert!(!file(dir.path(), 0).exists() && recordings.open_number().is_some());
    let told = anchor(&recordings);
    let (holds, sound) = checked(dir.path(), std::slice::from_ref(&told));
    assert!(holds && sound.contains("are gone by retention, as record 11 of pod-"), "{sound}");
    // It is so after more of it went as well.
    record(&recordings, 10);
    recordings.compress_closed().unwrap();
    let first = names(dir.path()).remove(0);
    let (holds, sound) = checked(dir.path(), &[anchor(&recordings)]);
    assert!(holds, "{sound}");
    fs::remove_file(dir.path().join(first)).unwrap();
    let (holds, deleted) = checked(dir.path(), &[anchor(&recordings)]);
    assert!(!holds && deleted.contains("they were deleted"), "{deleted}");
}

#[test]
fn a_telling_above_the_anchor_does_not_count() {
    let (dir, recordings) = compressed(10);
    let before = anchor(&recordings);
    // What somebody would do who has the volume, and the program, and not the status.
    let mut retention = Retention::default();
    retention.step(&recordings, NOTHING, false, |_| true).unwrap();
    assert!(retention.step(&recordings, NOTHING, false, |_| true).unwrap() > 2);
    let (holds, told) = checked(dir.path(), &[before]);
    assert!(!holds && told.contains("which does not count: it is not anchored"), "{told}");
}

#[test]
fn a_telling_that_was_changed_does_not_count() {
    let (dir, recordings) = pruned();
    let open = dir.path().join(format!("{RUN}-{}.jsonl", recordings.open_number().unwrap()));
    let text = fs::read_to_string(&open).unwrap();
    let at = text.find("\"event\":\"pruned\"").unwrap();
    let digit = at + text[at..].find("\"hash\":\"").unwrap() + 8;
    let other = if &text[digit..=digit] == "0" { "1" } else { "0" };
    fs::write(&open, format!("{}{other}{}", &text[..digit], &text[digit + 1..])).unwrap();
    let (holds, told) = checked(dir.path(), &[anchor(&recordings)]);
    assert!(!holds, "{told}");
}

#[test]
fn an_earlier_run_that_is_pruned_whole_is_told_by_the_later_and_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let earlier = Recordings::within(dir.path(), "pod", UNIX_EPOCH - Duration::from_secs(60), (700, u64::MAX));
    record(&earlier, 5);
    let end = anchor(&earlier);
    drop(earlier);
    let recordings = recordings(dir.path());
    record(&recordings, 5);
    recordings.compress_closed().unwrap();
    // Twice, by two processes: the second has only the recordings to remember by.
    for _ in 0..2 {
        let mut retention = Retention::default();
        retention.step(&recordings, NOTHING, false, |_| true).unwrap();
        retention.step(&recordings, NOTHING, false, |_| true).unwrap();
        record(&recordings, 5);
        recordings.compress_closed().unwrap();
        let (holds, told) = checked(dir.path(), &[end.clone(), anchor(&recordings)]);
        assert!(holds && told.contains("pod-19691231T235900Z: pruned: all 5 records"), "{told}");
    }
    let (holds, told) = checked(dir.path(), &[json!({"run": "pod-other", "records": 5, "hash": "0".repeat(64)})]);
    assert!(!holds && told.contains("pod-other: missing"), "{told}");
}

#[test]
fn retention_goes_by_age_and_size_and_takes_nothing_that_is_not_kept_elsewhere() {
    let (dir, recordings) = compressed(24);
    for number in 0..3 {
        let file = fs::File::options().write(true).open(file(dir.path(), number)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
    }
    let gone = |bound, kept: &dyn Fn(&Path) -> bool| {
        let mut retention = Retention::default();
        retention.step(&recordings, bound, false, kept).unwrap();
        retention.step(&recordings, bound, false, kept).unwrap()
    };
    let hour = Span { bytes: None, seconds: Some(3600) };
    assert_eq!(gone(hour, &|_| false), 0, "none of it is kept elsewhere");
    let first = file(dir.path(), 0);
    assert_eq!(gone(hour, &|path| path == first), 1, "only the first is");
    assert_eq!(gone(hour, &|_| true), 2);
    recordings.compress_closed().unwrap();
    let closed = (0..recordings.open_number().unwrap()).map(|number| file(dir.path(), number));
    let sizes: Vec<_> = closed.filter_map(|path| Some(fs::metadata(path).ok()?.len())).collect();
    let bytes = Some(sizes[2..].iter().sum());
    assert_eq!(gone(Span { bytes, seconds: None }, &|_| true), 2, "{sizes:?}");
    assert!(checked(dir.path(), &[anchor(&recordings)]).0);
}

#[test]
fn a_bounded_room_refuses_and_retention_makes_room_again() {
    let dir = tempfile::tempdir().unwrap();
    let recordings = Recordings::within(dir.path(), "pod", UNIX_EPOCH, (4000, 8 * 4000));
    let mut written = 0;
    let fault = loop {
        let (session, agent, serial, target) = ("s", "spiffe://t/a", "01", "shop/db");
        let event = Event::Close { reason: "the client left" };
        let record = Record { time: UNIX_EPOCH, session, sequence: 0, agent, serial, target, event };
        match recordings.append(&record) {
            Ok(()) => written += 1,
            Err(fault) => break fault,
        }
        assert!(written < 1000, "32 kB hold no more");
    };
    assert!(fault.to_string().contains("quota exceeded: no room left"), "{fault}");
    recordings.check().unwrap_err();
    let mut retention = Retention::default();
    let bound = Span { bytes: Some(8000), seconds: None };
    retention.step(&recordings, bound, false, |_| true).unwrap();
    assert!(retention.step(&recordings, bound, false, |_| true).unwrap() > 0);
    recordings.measure();
    record(&recordings, 1);
    let (holds, told) = checked(dir.path(), &[anchor(&recordings)]);
    assert!(holds && told.contains("a gap: 1 records could not be written"), "{told}");
}
