//! What `sallyport` says of a statement, beside what a real proxy does with it before a real server; and what it tells of
//! the recordings of those sessions. The corpora of the other tests are the statements; the records are the judge.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[allow(unreachable_pub, reason = "the operator's own file")]
#[path = "../../../operator/src/derive/builtin.rs"]
mod builtin;
mod wire;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::SystemTime;

use sallyport_cli::{Circumstances, Word, explain};
use sallyport_conformance::{Guarded, policy};
use sallyport_policy::{Bundle, Effect, Member, PolicyEntry, Roster, World};
use serde_json::Value;
use wire::{Wire, bind, execute, parse, sync};

const ALLOWED: &str = include_str!("corpus/allowed.sql");
const REFUSED: &str = include_str!("corpus/refused.sql");

fn corpus() -> Vec<&'static str> {
    let lines = ALLOWED.lines().chain(REFUSED.lines()).filter(|line| !line.is_empty() && !line.starts_with("--"));
    lines.map(|line| line.strip_suffix(" -- refused").unwrap_or(line)).collect()
}

fn policies() -> Vec<PolicyEntry> {
    let mut policies = policy::readme();
    policies[0].rules.extend(builtin::rules());
    let mut no_drops = policy::policy("no-drops", vec![policy::rule("no-drops", Effect::Deny, &["Drop", "Truncate"])]);
    no_drops.rules[1].message = Some("never".into());
    policies.push(no_drops);
    policies
}

fn world(bundle: Bundle) -> World {
    let mut roster = Roster::default();
    roster.insert(Member { namespace: "ci".into(), name: "bot".into(), ..Member::default() });
    World { bundle: Arc::new(bundle), roster: Arc::new(roster), generation: 1 }
}

#[tokio::test]
async fn what_is_explained_is_what_the_proxy_does() {
    let guarded = Guarded::start(policies()).await.unwrap();
    let bundle = guarded.set_policies(policies()).unwrap();
    guarded.await_revision(&bundle).await.unwrap();
    let world = world(bundle);
    for sql in corpus() {
        Wire::open(&guarded).await.query(sql).await;
        // The extended protocol takes one statement; where it is refused already as it is prepared, that is recorded.
        Wire::open(&guarded).await.ask(&[parse("", sql), bind("", ""), execute(""), sync()]).await;
    }
    let records = guarded.records().unwrap();
    let commands: Vec<_> = records.iter().filter(|record| record["event"] == "command").collect();
    assert!(commands.len() > corpus().len(), "{} of {}", commands.len(), corpus().len());
    let mut counts = BTreeMap::new();
    let mut wrong = Vec::new();
    for record in commands {
        let text = record["text"].as_str().unwrap();
        let explained = explain(&world, ("ci", "bot"), "default", &Circumstances::at(SystemTime::now()), text).unwrap();
        let ruled = serde_json::to_value(&explained.ruled).unwrap();
        if ["verdict", "policy", "rule", "reason"].iter().any(|field| ruled.get(field) != record.get(field)) {
            wrong.push(format!("{text}\n    recorded {record}\n    explained {ruled}"));
        }
        // The whole is as its parts: refused where one of them is.
        let parts: Vec<_> = explained.statements.iter().flat_map(|statement| &statement.operations).collect();
        let all = parts.iter().all(|part| part.ruled.verdict == Word::Allow);
        if !explained.statements.is_empty() && all != (explained.ruled.verdict == Word::Allow) {
            wrong.push(format!("{text}\n    is not what its parts are: {explained:?}"));
        }
        *counts.entry(record["verdict"].as_str().unwrap()).or_insert(0) += 1;
    }
    println!("{counts:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(counts["allow"] > 50 && counts["deny"] > 100, "{counts:?}");
}

/// Runs `sallyport` on the recordings of `guarded`.
fn sallyport(guarded: &Guarded, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(sallyport_conformance::cli_binary().unwrap());
    command.args(arguments).current_dir(guarded.dir());
    let output = command.output().unwrap();
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn what_a_session_wrote_is_listed_replayed_checked_and_previewed() {
    let mut guarded = Guarded::start(policies()).await.unwrap();
    let mut session = Wire::open(&guarded).await;
    for sql in [
        "prepare p as delete from orders where id = 1",
        "begin",
        "execute p",
        "rollback",
        "delete from orders",
        "select '\u{1b}[2J' from orders limit 2",
        "select 1/0 from orders",
    ] {
        session.query(sql).await;
    }
    // Prepared by a message, run twice: each run is a command.
    session.ask(&[parse("s", "select note from orders where id < 5"), bind("", "s"), execute(""), sync()]).await;
    session.ask(&[bind("", "s"), execute(""), sync()]).await;
    drop(session);
    guarded.terminate_proxy().unwrap();

    let (status, told) = sallyport(&guarded, &["sessions", "--records-dir", "records", "-o", "json"]);
    assert_eq!(status, 0, "{told}");
    let sessions: Vec<Value> = serde_json::from_str(&told).unwrap();
    let one = &sessions[0];
    assert_eq!((sessions.len(), &one["commands"], &one["refused"]), (1, &Value::from(9), &Value::from(1)), "{told}");
    assert_eq!((&one["failed"], &one["credential"]), (&Value::from(1), &Value::from("default")), "{told}");
    assert!(one["client"].as_str().unwrap().starts_with("127.0.0.1:") && one["end"].is_string(), "{told}");

    let id = &one["session"].as_str().unwrap()[..8];
    let (status, replayed) = sallyport(&guarded, &["replay", id, "--records-dir", "records"]);
    for part in [
        "#3 allow by read-orders/write-orders\n              execute p\n",
        "#5 deny by read-orders/no-unbounded-writes\n              delete from orders\n",
        "select '\\u{1b}[2J' from orders limit 2",
        "#7 failed 22012",
        "#9 completed, 4 rows",
        "the session ends: ",
    ] {
        assert!(status == 0 && replayed.contains(part), "{part}: {replayed}");
    }
    assert!(!replayed.contains('\u{1b}'));

    let (status, told) = sallyport(&guarded, &["verify", "--records-dir", "records"]);
    assert!(status == 0 && told.contains("sound: "), "{told}");

    let draft = "
apiVersion: sallyport.dev/v1alpha1
kind: AccessPolicy
metadata: {name: keep}
spec:
  targetRefs: [{name: orders-db}]
  subjects: [{agent: {namespace: ci, name: bot}}]
  rules:
  - {name: keep, action: Deny, postgres: {statements: [Delete]}}
";
    std::fs::write(guarded.dir().join("draft.yaml"), draft).unwrap();
    let files = ["--bundle", "bundle.json", "--roster", "roster.json", "--records-dir", "records", "-o", "json"];
    let (status, told) = sallyport(&guarded, &[&["preview", "-f", "draft.yaml"][..], &files].concat());
    assert_eq!(status, 1, "{told}");
    let preview: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&preview["commands"], &preview["recordedOtherwise"]), (&Value::from(9), &Value::from(0)), "{told}");
    let texts: Vec<_> = preview["changes"].as_array().unwrap().iter().map(|change| &change["text"]).collect();
    assert_eq!(texts, ["execute p", "prepare p as delete from orders where id = 1"], "{told}");
    assert!(preview["changes"].as_array().unwrap().iter().all(|change| change["would"]["policy"] == "keep"), "{told}");

    // One byte of the recording.
    let file = std::fs::read_dir(guarded.dir().join("records")).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("delete from orders\"", "select from orders\"", 1)).unwrap();
    let (status, told) = sallyport(&guarded, &["verify", "--records-dir", "records"]);
    assert!(status == 1 && told.contains("was changed"), "{told}");
}
