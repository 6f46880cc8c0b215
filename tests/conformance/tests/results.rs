//! What agents are shown, on record: a real proxy, a real PostgreSQL, and every byte of the recording searched.
//! It reads the records with the proxy's own programs, as an auditor would, and fills a room that is small.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod wire;

use std::collections::BTreeSet;
use std::process::Command;

use sallyport_conformance::{Guarded, cli_binary, policy, proxy_binary};
use sallyport_policy::{
    ColumnPattern, Detector, Durability, Mask, MaskMethod, OnFailure, PolicyEntry, Recording, RecordingLevel,
};
use serde_json::{Value, json};
use wire::{Wire, execute, message, parse, query, sync};

const CARD: &str = "4111-1111-1111-1111";

fn full() -> Recording {
    Recording::at(RecordingLevel::Full)
}

/// Everything is allowed; addresses are masked by their column, card numbers wherever they stand.
fn masked() -> Vec<PolicyEntry> {
    let column = ColumnPattern::parse("public.customers.email").unwrap();
    let mask = |columns, detect| Mask { columns, detect, method: MaskMethod::Redact, strict: false };
    let masks = vec![mask(vec![column], vec![]), mask(vec![], vec![Detector::CreditCard])];
    policy::allow_all().into_iter().map(|entry| PolicyEntry { masks: masks.clone(), ..entry }).collect()
}

fn results(guarded: &Guarded) -> Vec<Value> {
    records(guarded).into_iter().filter(|record| record["event"] == "result").collect()
}

fn records(guarded: &Guarded) -> Vec<Value> {
    // By the proxy's own reader: closed files are compressed meanwhile.
    let mut reader = Command::new(proxy_binary().unwrap());
    let records =
        reader.args(["records", "--json", "--records-dir"]).arg(guarded.dir().join("records")).output().unwrap();
    let records = String::from_utf8(records.stdout).unwrap();
    records.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What the proxy's own checker and the command line make of the records.
fn told(guarded: &Guarded, session: &str) -> (bool, String) {
    let records = guarded.dir().join("records");
    let verify =
        Command::new(proxy_binary().unwrap()).arg("verify").arg("--records-dir").arg(&records).output().unwrap();
    let replay = Command::new(cli_binary().unwrap()).args(["replay", session, "--records-dir"]).arg(&records).output();
    let replay = replay.unwrap();
    assert!(replay.status.success(), "{}", String::from_utf8_lossy(&replay.stderr));
    (verify.status.success(), String::from_utf8(replay.stdout).unwrap())
}

/// Everything that lies in the records directory.
fn everything(guarded: &Guarded) -> String {
    let files = std::fs::read_dir(guarded.dir().join("records")).unwrap();
    files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect()
}

#[tokio::test]
async fn a_masked_value_is_on_record_as_the_agent_saw_it_and_nowhere_in_the_clear() {
    let guarded = Guarded::start(masked()).await.unwrap();
    guarded.server.exec_sql(&format!("update orders set note = 'card {CARD}' where id = 7")).await.unwrap();
    guarded.record(full(), masked()).await.unwrap();
    let mut session = Wire::open(&guarded).await;
    let said = session.query("select id, name, email from customers where id = 3").await;
    assert!(said.everything().contains("customer 3") && said.everything().contains("****"), "{said:?}");
    // In the extended protocol and in binary, without a Describe of the client's.
    let bind = message(b'B', &[b"\0\0", &[0; 4], &[0, 1, 0, 1]]);
    let said =
        session.ask(&[parse("", "select id, note from orders where id in (7, 8)"), bind, execute(""), sync()]).await;
    assert_eq!(said.kinds(), "12DDCZ", "{:?}", said.errors());
    session.send(&query("copy (select note from orders where id in (7, 9)) to stdout")).await;
    let said = session.until_ready().await;
    assert!(said.everything().contains("order 9") && !said.everything().contains(CARD), "{said:?}");
    drop(session);
    wire::logged(&guarded, "session closed").await;

    let results = results(&guarded);
    let [of_query, of_portal, of_copy] = &results[..] else { panic!("{results:#?}") };
    assert_eq!((&of_query["command"], &of_query["part"]), (&json!(1), &json!(1)));
    let names: Vec<_> = of_query["columns"].as_array().unwrap().iter().map(|column| &column["name"]).collect();
    assert_eq!(names, ["id", "name", "email"]);
    assert_eq!(of_query["shown"], json!([["3", "customer 3", "****"]]));
    let (seven, eight) = (json!({"base64": "AAAABw=="}), json!({"base64": "AAAACA=="}));
    assert_eq!(of_portal["columns"][0], json!({"name": "id", "type": 23, "binary": true}));
    assert_eq!(of_portal["shown"][0][0], seven);
    assert_eq!(of_portal["shown"][1], json!([eight, {"base64": "b3JkZXIgOA=="}]));
    assert_eq!(of_copy["lines"][1], "order 9\n");
    let all = everything(&guarded);
    for clear in ["c3@example.org", CARD, "NDExMS0xMTExLTExMTEtMTExMQ"] {
        assert!(!all.contains(clear), "{clear} is on record");
    }
    assert!(all.contains("customer 3"), "the search itself works");
    let (sound, replay) = told(&guarded, of_query["session"].as_str().unwrap());
    assert!(sound && replay.contains("\"3\" | \"customer 3\" | \"****\""), "{replay}");
}

#[tokio::test]
async fn without_it_no_result_is_on_record_and_a_change_counts_from_the_next_command_on() {
    let guarded = Guarded::start(policy::allow_all()).await.unwrap();
    let mut session = Wire::open(&guarded).await;
    session.query("select 'before'").await;
    for durability in [Durability::Written, Durability::Synced] {
        guarded.record(Recording { durability, ..full() }, policy::allow_all()).await.unwrap();
        assert_eq!(session.query("select 'full'").await.rows(), ["full"]);
    }
    guarded.record(Recording::at(RecordingLevel::Commands), policy::allow_all()).await.unwrap();
    session.query("select 'behind'").await;
    let shown: Vec<_> = results(&guarded).iter().map(|result| result["shown"].clone()).collect();
    assert_eq!(shown, [json!([["full"]]), json!([["full"]])]);
    let records = guarded.records().unwrap();
    let events: Vec<_> = records.iter().skip_while(|record| record["text"] != "select 'full'").take(3).collect();
    let events: Vec<_> = events.iter().map(|record| record["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["command", "result", "outcome"]);
}

/// Of a result that is larger than the room for records the agent sees no row that is not on record.
#[tokio::test]
async fn where_there_is_no_room_no_row_is_seen_that_is_not_on_record() {
    for on_failure in [OnFailure::Refuse, OnFailure::Continue] {
        let mut guarded = Guarded::start(policy::allow_all()).await.unwrap();
        guarded.kill_proxy().unwrap();
        guarded.start_proxy_with(&["--records-room", "1100000"]).await.unwrap();
        guarded.record(Recording { on_failure, ..full() }, policy::allow_all()).await.unwrap();
        let mut session = Wire::open(&guarded).await;
        let said = session.query("select n::text || repeat('x', 990) from generate_series(1, 4000) n").await;
        let seen: BTreeSet<_> = said.rows().into_iter().collect();
        let recorded: BTreeSet<_> = results(&guarded)
            .iter()
            .flat_map(|result| result["shown"].as_array().unwrap().clone())
            .map(|row| row[0].as_str().unwrap().to_owned())
            .collect();
        assert!(recorded.len() > 100 && recorded.len() < 2000, "{}", recorded.len());
        if on_failure == OnFailure::Continue {
            assert_eq!(seen.len(), 4000, "{:?}", said.errors());
            continue;
        }
        assert!(seen.len() > 100 && seen.is_subset(&recorded), "{} seen, {} on record", seen.len(), recorded.len());
        assert!(said.closed && said.errors()[0].starts_with("53100"), "{:?}", said.errors());
    }
}

/// What an agent writes by COPY is on record as well, and what cannot be is not written.
#[tokio::test]
async fn the_data_of_a_copy_is_on_record_or_has_no_effect() {
    let mut guarded = Guarded::start(policy::allow_all()).await.unwrap();
    guarded.kill_proxy().unwrap();
    guarded.start_proxy_with(&["--records-room", "1100000"]).await.unwrap();
    guarded.record(full(), policy::allow_all()).await.unwrap();
    let mut session = Wire::open(&guarded).await;
    let lines: Vec<_> = (0..4000).map(|n| format!("{}\t{}ä\n", 10_000 + n, "x".repeat(990))).collect();
    let mut copy = async |lines: &[String]| {
        session.send(&query("copy orders (id, note) from stdin")).await;
        let said = session.until('G').await;
        assert!(!said.closed, "{:?}", said.errors());
        for line in lines {
            session.send(&message(b'd', &[line.as_bytes()])).await;
        }
        session.send(&message(b'c', &[])).await;
        session.until_ready().await
    };
    assert_eq!(copy(&lines[..10]).await.kinds(), "CZ");
    let said = copy(&lines[10..]).await;
    assert!(said.closed && said.errors()[0].starts_with("53100"), "{:?}", said.errors());
    let count = guarded.server.exec_sql("select count(*) from orders where id >= 10000").await.unwrap();
    assert_eq!(count, [[Some("10".to_owned())]]);
    let sent: String = records(&guarded)
        .iter()
        .filter(|record| record["event"] == "data" && record["command"] == 1)
        .flat_map(|record| record["sent"].as_array().unwrap().clone())
        .map(|piece| piece.as_str().unwrap_or("?").to_owned())
        .collect();
    assert_eq!(sent, lines[..10].concat());
}

#[tokio::test]
async fn a_value_of_many_megabytes_is_on_record_by_its_beginning_and_its_hash() {
    let guarded = Guarded::start(policy::allow_all()).await.unwrap();
    guarded.record(full(), policy::allow_all()).await.unwrap();
    let mut session = Wire::open(&guarded).await;
    let said = session.query("select repeat('long ', 2000000) as long, 'behind' as short").await;
    assert_eq!(said.kinds(), "TDCZ");
    let hash = guarded.server.exec_sql("select encode(sha256(repeat('long ', 2000000)::bytea), 'hex')").await.unwrap();
    let result = &results(&guarded)[0];
    let (long, short) = (&result["shown"][0][0], &result["shown"][0][1]);
    assert_eq!((long["bytes"].as_u64(), long["sha256"].as_str()), (Some(10_000_000), hash[0][0].as_deref()));
    assert!(long["cut"].as_str().unwrap().starts_with("long long") && short == "behind");
    // Beyond what is looked at whole there is no row.
    let said = session.query("select repeat('x', 70000000)").await;
    assert!(said.closed && !said.kinds().contains('D'), "{}", said.kinds());
    wire::serves(&guarded).await;
}
