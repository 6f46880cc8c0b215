//! The end of the proxy, orderly or not: what ran is on record, what runs may finish, nobody is left guessing.
//! It kills its own proxy process and reads the records with the proxy's own reader.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod wire;

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sallyport_conformance::{Guarded, policy, proxy_binary};
use sallyport_policy::{Durability, Recording, RecordingLevel};
use wire::{Wire, query, serves};

async fn running(guarded: &Guarded, text: &str) {
    let sql = format!("select count(*) from pg_stat_activity where query = $_${text}$_$ and state = 'active'");
    let until = Instant::now() + wire::PATIENCE;
    while guarded.server.exec_sql(&sql).await.unwrap() != [[Some("1".to_owned())]] {
        assert!(Instant::now() < until, "{text} never ran");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What the proxy's own reader makes of the records.
fn read_back(guarded: &Guarded) -> (bool, String) {
    let mut reader = Command::new(proxy_binary().unwrap());
    let output =
        reader.args(["records", "--json", "--records-dir"]).arg(guarded.dir().join("records")).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn a_command_under_way_at_a_crash_is_on_record_and_no_torn_record_hides_another() {
    let mut guarded = Guarded::start(policy::allow_all()).await.unwrap();
    let mut session = Wire::open(&guarded).await;
    session.query("select 'before'").await;
    session.send(&query("select pg_sleep(20)")).await;
    running(&guarded, "select pg_sleep(20)").await;
    guarded.kill_proxy().unwrap();
    let intent = guarded.records().unwrap().into_iter().find(|record| record["text"] == "select pg_sleep(20)").unwrap();
    assert_eq!((&intent["event"], &intent["verdict"]), (&"command".into(), &"allow".into()));
    let ended = |records: &[serde_json::Value]| {
        records.iter().any(|record| record["event"] == "outcome" && record["command"] == intent["command"])
    };
    assert!(!ended(&guarded.records().unwrap()), "how it ended nobody knows");
    assert!(session.until_closed().await.closed);
    // A crash in the middle of a write, by hand: half a line at the end of the file.
    let file = std::fs::read_dir(guarded.dir().join("records")).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{whole}{}", &whole[..whole.find('\n').unwrap() / 2])).unwrap();
    guarded.start_proxy().await.unwrap();
    serves(&guarded).await;
    let (_, read) = read_back(&guarded);
    for text in ["select 'before'", "select pg_sleep(20)", "select 'served'"] {
        assert!(read.contains(text), "{text} is missing: {read}");
    }
    for line in read.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
}

#[tokio::test]
async fn under_load_every_statement_the_server_ran_is_on_record_at_a_crash() {
    killed_under_load(Durability::Written).await;
}

/// What waits for the disk at the crash has not reached the server; what has reached it is on record.
#[tokio::test]
async fn under_load_with_records_that_are_synced_it_is_the_same() {
    killed_under_load(Durability::Synced).await;
}

async fn killed_under_load(durability: Durability) {
    let mut guarded = Guarded::start(policy::allow_all()).await.unwrap();
    let recording = Recording { durability, ..Recording::at(RecordingLevel::Commands) };
    guarded.record(recording, policy::allow_all()).await.unwrap();
    wire::log_all(&guarded).await;
    let mut load = tokio::task::JoinSet::new();
    for worker in 0..8 {
        let mut session = Wire::open(&guarded).await;
        load.spawn(async move {
            for n in 0.. {
                if session.query(&format!("select 'load {worker} {n}'")).await.closed {
                    return;
                }
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    guarded.kill_proxy().unwrap();
    while load.join_next().await.is_some() {}
    let (_, read) = read_back(&guarded);
    let log = guarded.server.log();
    let ran: Vec<_> =
        log.lines().filter_map(|line| line.split_once("statement: select 'load ")).map(|(_, id)| id).collect();
    assert!(ran.len() > 100, "{} statements", ran.len());
    let recorded: std::collections::HashSet<_> = read
        .lines()
        .filter_map(|line| line.split_once("select 'load "))
        .filter_map(|(_, id)| id.split_once('"'))
        .map(|(id, _)| id)
        .collect();
    let missing: Vec<_> = ran.iter().filter(|id| !recorded.contains(**id)).collect();
    assert!(missing.is_empty(), "ran and not on record: {missing:?}");
}

#[tokio::test]
async fn a_request_to_end_lets_what_runs_finish_and_tells_who_waits() {
    let mut guarded = Guarded::start(policy::allow_all()).await.unwrap();
    let (mut busy, mut idle) = (Wire::open(&guarded).await, Wire::open(&guarded).await);
    let mut open = Wire::open(&guarded).await;
    assert_eq!(open.query("begin").await.kinds(), "CZ");
    assert_eq!(open.query("insert into orders (id, note) values (7000, 'half done')").await.kinds(), "CZ");
    busy.send(&query("select 'slept', pg_sleep(2)")).await;
    running(&guarded, "select 'slept', pg_sleep(2)").await;
    // A connection that has not said a word does not hold the end up.
    let _silent = tokio::net::TcpStream::connect(("127.0.0.1", guarded.port())).await.unwrap();
    let started = Instant::now();
    let pid = Pid::from_raw(guarded.proxy_pid().unwrap().try_into().unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    for waits in [&mut idle, &mut open] {
        let told = waits.until_closed().await;
        assert!(told.errors()[0].starts_with("57P01"), "{:?}", told.errors());
    }
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    let said = busy.until_closed().await;
    assert_eq!(said.kinds(), "TDCZE", "its result, and then the end");
    assert!(said.rows()[0].starts_with("slept") && said.errors()[0].starts_with("57P01"), "{:?}", said.errors());
    drop((busy, idle, open));
    let status = guarded.terminate_proxy().unwrap();
    assert_eq!(status.code(), Some(0), "{}", guarded.log());
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    let half = guarded.server.exec_sql("select count(*) from orders where id = 7000").await.unwrap();
    assert_eq!(half, [[Some("0".to_owned())]], "what was not committed is not");
    let records = guarded.records().unwrap();
    let slept = records.iter().find(|record| record["text"] == "select 'slept', pg_sleep(2)").unwrap();
    let outcome = records.iter().find(|record| {
        record["event"] == "outcome" && record["session"] == slept["session"] && record["command"] == slept["command"]
    });
    assert_eq!(outcome.unwrap()["outcome"], "completed");
    assert_eq!(
        records.iter().filter(|record| record["event"] == "close").count(),
        3,
        "every session's end is on record"
    );
}

#[tokio::test]
async fn the_target_killed_under_a_command_leaves_its_end_unknown_and_the_proxy_alive() {
    let mut guarded = Guarded::start(policy::allow_all()).await.unwrap();
    let mut session = Wire::open(&guarded).await;
    session.send(&query("select pg_sleep(20)")).await;
    running(&guarded, "select pg_sleep(20)").await;
    guarded.server.kill().await.unwrap();
    let said = session.until_closed().await;
    assert!(said.closed && !said.errors().is_empty());
    drop(session);
    wire::logged(&guarded, "session closed").await;
    guarded.server.resume().await.unwrap();
    serves(&guarded).await;
    let records = guarded.records().unwrap();
    let slept = records.iter().find(|record| record["text"] == "select pg_sleep(20)").unwrap();
    let outcome = records.iter().find(|record| record["event"] == "outcome" && record["session"] == slept["session"]);
    assert!(outcome.is_some_and(|outcome| outcome["outcome"] == "unknown"), "{records:#?}");
}
