//! Recordings against real files and a really full disk.
//!
//! Owns the proof that a record is whole or refused. Touches temporary directories; the full disk is a small
//! tmpfs in a mount namespace of its own. Invariant under test: nothing is lost silently, nothing torn joins.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use sallyport_core::ports::{RecordFault, RecordSink};
use sallyport_core::record::{Decision, Event, Parameter, Record};
use sallyport_proxy::Recordings;

fn append(recordings: &Recordings, sequence: u64, text: &str) -> Result<(), RecordFault> {
    let decision = Decision {
        verdict: "allow",
        policy: Some("p"),
        rule: Some("r"),
        reason: None,
        revision: "0123456789abcdef",
        request: None,
        answered_by: &[],
        would_have: None,
    };
    let parameters = [Parameter::Text("a\"b".to_owned()), Parameter::Null];
    recordings.append(&Record {
        time: UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_001),
        session: "00000000000000000000000000000001",
        sequence,
        agent: "spiffe://cluster.local/ns/ci/agent/bot",
        serial: "01ab",
        target: "shop/orders-db",
        event: Event::Command { command: sequence, text, parameters: &parameters, decision },
    })
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn lines(dir: &Path) -> Vec<String> {
    let all = files(dir).iter().map(|file| fs::read_to_string(file).unwrap()).collect::<String>();
    all.lines().map(str::to_owned).collect()
}

fn kinds(dir: &Path) -> Vec<String> {
    let read =
        |line: &String| serde_json::from_str::<serde_json::Value>(line).unwrap()["event"].as_str().unwrap().into();
    lines(dir).iter().map(read).collect()
}

#[test]
fn a_record_is_one_flat_line_and_private() {
    let dir = tempfile::tempdir().unwrap();
    let recordings = Recordings::new(&dir.path().join("pod"), "orders-db-0", UNIX_EPOCH);
    append(&recordings, 7, "select\n1").unwrap();
    let dir = dir.path().join("pod");
    let [line] = &lines(&dir)[..] else { panic!("one line") };
    let (body, hash) = line.split_once(r#","hash":""#).unwrap();
    assert_eq!(
        body,
        concat!(
            r#"{"time":"2023-11-14T22:13:20.000001Z","session":"00000000000000000000000000000001","sequence":7,"#,
            r#""agent":"spiffe://cluster.local/ns/ci/agent/bot","serial":"01ab","target":"shop/orders-db","#,
            r#""event":"command","command":7,"text":"select\n1","parameters":["a\"b",null],"verdict":"allow","#,
            r#""policy":"p","rule":"r","revision":"0123456789abcdef","link":1"#,
        )
    );
    assert_eq!(hash.len(), 64 + 2);
    let [file] = &files(&dir)[..] else { panic!("one file") };
    assert_eq!(file.file_name().unwrap(), "orders-db-0-19700101T000000Z-0.jsonl");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(file), mode(&dir)), (0o600, 0o700));
}

#[test]
fn a_full_file_is_followed_by_the_next_and_no_old_one_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("pod-19700101T000000Z-1.jsonl"), "from a run before\n").unwrap();
    let recordings = Recordings::within(dir.path(), "pod", UNIX_EPOCH, (500, u64::MAX));
    for sequence in 0..4 {
        append(&recordings, sequence, "select 1").unwrap();
    }
    let names: Vec<_> = files(dir.path()).iter().map(|file| file.file_name().unwrap().to_owned()).collect();
    let expected = ["pod-19700101T000000Z-0.jsonl", "pod-19700101T000000Z-1.jsonl", "pod-19700101T000000Z-2.jsonl"];
    assert_eq!(names, expected);
    let counts: Vec<_> =
        files(dir.path()).iter().map(|file| fs::read_to_string(file).unwrap().lines().count()).collect();
    assert_eq!(counts, [2, 1, 2]);
}

#[test]
fn a_record_beyond_every_bound_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let recordings = Recordings::new(dir.path(), "pod", UNIX_EPOCH);
    let fault = append(&recordings, 0, &"x".repeat(17 * 1024 * 1024)).unwrap_err();
    assert!(fault.to_string().contains("more than"), "{fault}");
    append(&recordings, 1, "select 1").unwrap();
    assert_eq!(kinds(dir.path()), ["gap", "command"]);
}

#[test]
fn a_store_that_is_gone_is_told_and_comes_back_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("records");
    let recordings = Recordings::new(&place, "pod", UNIX_EPOCH);
    append(&recordings, 0, "select 1").unwrap();
    fs::remove_dir_all(&place).unwrap();
    fs::write(&place, "in the way").unwrap();
    let cause = recordings.check().unwrap_err();
    assert!(cause.contains("records cannot be written in"), "{cause}");
    append(&recordings, 1, "select 1").unwrap_err();
    fs::remove_file(&place).unwrap();
    recordings.check().unwrap();
    append(&recordings, 2, "select 1").unwrap();
    assert_eq!(kinds(&place), ["gap", "command"]);
}

/// Runs the test of that name below in user and mount namespaces of its own.
fn in_own_mounts(name: &str) {
    let this = std::env::current_exe().unwrap();
    let arguments = ["--exact", name, "--ignored", "--nocapture"];
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--mount"]).arg(this).args(arguments).env("IN_OWN_MOUNTS", "1");
    let output = unshare.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("1 passed"), "{told}\n{complaint}");
}

#[test]
fn a_full_disk_refuses_by_name_and_recovers() {
    in_own_mounts("full_disk");
}

#[test]
#[ignore = "run by a_full_disk_refuses_by_name_and_recovers in a mount namespace"]
fn full_disk() {
    assert!(std::env::var_os("IN_OWN_MOUNTS").is_some(), "mounts only in a namespace of its own");
    let dir = tempfile::tempdir().unwrap();
    let tmpfs = Some("tmpfs");
    nix::mount::mount(tmpfs, dir.path(), tmpfs, nix::mount::MsFlags::empty(), Some("size=128k")).unwrap();
    let recordings = Recordings::new(dir.path(), "pod", UNIX_EPOCH);
    recordings.check().unwrap();
    append(&recordings, 0, "select 0").unwrap();
    fs::write(dir.path().join("hog"), vec![0; 100 * 1024]).unwrap();
    let mut sequence = 1;
    let fault = loop {
        assert!(sequence < 1000, "the disk has 128 KiB");
        match append(&recordings, sequence, "select pg_sleep(1)") {
            Ok(()) => sequence += 1,
            Err(fault) => break fault,
        }
    };
    assert!(fault.to_string().contains("disk full"), "{fault}");
    let written = sequence;
    append(&recordings, sequence, "select 1").unwrap_err();
    let cause = recordings.check().unwrap_err();
    assert!(cause.contains("disk full"), "{cause}");

    fs::remove_file(dir.path().join("hog")).unwrap();
    recordings.check().unwrap();
    append(&recordings, 10_000, "select 2").unwrap();
    let lines = lines(dir.path());
    let whole: Vec<_> = lines.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()).collect();
    let torn = lines.iter().filter(|line| !line.is_empty()).count() - whole.len();
    assert!(torn <= 1, "{torn} torn lines");
    // What did not is counted where it is missing, in the same chain.
    let (gaps, whole): (Vec<_>, Vec<_>) = whole.into_iter().partition(|record| record["event"] == "gap");
    let lost: Vec<_> = gaps.iter().map(|gap| (&gap["lost"], &gap["since"], &gap["link"])).collect();
    assert_eq!(lost, [(&2.into(), &"2023-11-14T22:13:20.000001Z".into(), &(written + 1).into())]);
    // Every record that counted is there, and only those.
    let numbers: Vec<_> = whole.iter().map(|record| record["sequence"].as_u64().unwrap()).collect();
    let expected: Vec<_> = (0..written).chain([10_000]).collect();
    assert_eq!(numbers, expected);
    assert!(torn == 1, "the last page was cut within a line, so that this test saw one: {}", lines.len());
}
