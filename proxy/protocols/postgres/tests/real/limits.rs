//! Limits on sessions, commands and answers, and what the server's state is when one was reached.

use std::time::Duration;

use futures::TryStreamExt;
use sallyport_policy::SessionTerms;
use tokio_postgres::Client;

use crate::raw::{Raw, bind, execute, flush, parse, query, sync};
use crate::stage::Stage;

fn rows(most: u64) -> SessionTerms {
    SessionTerms { rows_per_command: Some(most), ..SessionTerms::default() }
}

async fn limited(sessions: SessionTerms) -> (Stage, Client) {
    let stage = Stage::new().await;
    stage.demand(sessions);
    let client = stage.connect().await;
    (stage, client)
}

fn told(error: &tokio_postgres::Error) -> (String, String) {
    let told = error.as_db_error().unwrap_or_else(|| panic!("{error}"));
    (told.code().code().to_owned(), told.message().to_owned())
}

/// Waits until nothing of the agent's runs at the server.
async fn at_rest(stage: &Stage) {
    let asked = "select count(*) from pg_stat_activity where state = 'active' and application_name = 'real test'";
    for _ in 0..1000 {
        if stage.truth(asked).await == "0" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it still runs");
}

#[tokio::test]
async fn one_session_more_than_allowed_is_told_as_the_server_tells_it() {
    let stage = Stage::new().await;
    stage.demand(SessionTerms { concurrent_sessions: Some(2), ..SessionTerms::default() });
    let (first, _second) = (stage.connect().await, stage.connect().await);
    let refused = stage.try_connect("postgres").await.err().unwrap();
    assert_eq!(told(&refused).0, "53300");
    assert!(told(&refused).1.contains("as policy bots lets it (2)"), "{refused:?}");
    drop(first);
    for _ in 0..1000 {
        if stage.try_connect("postgres").await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the place does not come back");
}

#[tokio::test]
async fn commands_beyond_the_pace_are_refused_and_a_commit_is_not() {
    let (stage, client) = limited(SessionTerms { commands_per_minute: Some(3), ..SessionTerms::default() }).await;
    client.batch_execute("begin").await.unwrap();
    client.batch_execute("insert into orders values (200, 'kept')").await.unwrap();
    client.execute("insert into orders values (201, 'kept')", &[]).await.unwrap();
    client.batch_execute("commit").await.unwrap();
    let refused = client.batch_execute("insert into orders values (202, 'lost')").await.unwrap_err();
    assert_eq!(told(&refused).0, "53400");
    assert!(told(&refused).1.contains("(3 a minute): try again in"), "{refused:?}");
    let refused = client.query("select 1", &[]).await.err().unwrap();
    assert_eq!(told(&refused).0, "53400");
    assert_eq!(stage.truth("select count(*) from orders where id >= 200").await, "2");
}

#[tokio::test]
async fn an_answer_of_exactly_the_limit_passes_and_a_longer_one_ends_at_it() {
    let (stage, client) = limited(rows(1000)).await;
    assert_eq!(client.query("select generate_series(1, 1000)", &[]).await.unwrap().len(), 1000);
    // Short enough that the server is done before it can be cancelled, and too long for that.
    for many in [1001, 1100, 200_000_000] {
        let stream = client.query_raw::<_, &str, _>(&format!("select generate_series(1, {many})"), []).await.unwrap();
        futures::pin_mut!(stream);
        let mut seen = 0;
        let error = loop {
            match stream.try_next().await {
                Ok(Some(_)) => seen += 1,
                Ok(None) => panic!("it ended well"),
                Err(error) => break error,
            }
        };
        assert_eq!((seen, told(&error).0.as_str()), (1000, "54000"), "{many}");
        assert!(told(&error).1.contains("more than the 1000 rows that policy bots allows"), "{error:?}");
        // The session goes on, and nothing hits the next command.
        assert_eq!(client.query_one("select 41 + 1", &[]).await.unwrap().get::<_, i32>(0), 42);
        assert_eq!(
            told(&client.simple_query(&format!("select generate_series(1, {many})")).await.unwrap_err()).0,
            "54000"
        );
        client.simple_query("select 1").await.unwrap();
    }
    at_rest(&stage).await;
    let outcomes = stage.records.of("outcome");
    let cut: Vec<_> = outcomes.iter().filter(|outcome| outcome["limit"] == "rowsPerCommand").collect();
    assert_eq!(cut.len(), 6, "{outcomes:?}");
    assert!(cut.iter().all(|outcome| outcome["policy"] == "bots"));
    assert!(
        cut.iter().filter(|outcome| outcome["code"] == "57014").count() >= 2,
        "the long ones were cancelled: {cut:?}"
    );
}

#[tokio::test]
async fn bytes_count_whatever_the_rows() {
    let (_stage, client) = limited(SessionTerms { bytes_per_command: Some(100_000), ..SessionTerms::default() }).await;
    client.query("select repeat('x', 90000)", &[]).await.unwrap();
    let one = client.query("select repeat('x', 110000)", &[]).await.unwrap_err();
    assert!(told(&one).1.contains("more than the 100000 bytes of rows"), "{one:?}");
    let many = client.query("select repeat('x', 1000) from generate_series(1, 100000)", &[]).await.unwrap_err();
    assert_eq!(told(&many).0, "54000");
    client.query_one("select 1", &[]).await.unwrap();
}

#[tokio::test]
async fn in_a_transaction_it_fails_with_all_that_was_done_in_it() {
    for many in [1001, 100_000_000] {
        for extended in [false, true] {
            let (stage, mut client) = limited(rows(1000)).await;
            let transaction = client.transaction().await.unwrap();
            transaction.batch_execute("insert into orders values (210, 'lost')").await.unwrap();
            let text = format!("select generate_series(1, {many})");
            let error = match extended {
                true => transaction.query(&text, &[]).await.err().unwrap(),
                false => transaction.simple_query(&text).await.err().unwrap(),
            };
            assert_eq!(told(&error).0, "54000");
            let next = transaction.simple_query("select 1").await.unwrap_err();
            assert_eq!(told(&next).0, "25P02", "the server itself says that the transaction has failed");
            transaction.rollback().await.unwrap();
            assert_eq!(stage.truth("select count(*) from orders where id = 210").await, "0");
            client.query_one("select 1", &[]).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_became_of_a_write_is_told_as_it_is() {
    let (stage, client) = limited(rows(10)).await;
    let (mut undone, mut stands) = (0, 0);
    let writes = "create function put(int) returns int language sql as
        'insert into orders values ($1, ''x'') returning id'";
    stage.server.exec_sql(writes).await.unwrap();
    // Of the first the server has done all before it sends a row. The second is stopped: it sends while it still works.
    for (from, text) in [
        (300, "insert into orders select g, 'x' from generate_series(300, 320) g returning id"),
        (400, "select put(g), pg_sleep(0.2), repeat('x', 10000) from generate_series(400, 420) g"),
    ] {
        for extended in [false, true] {
            client.batch_execute(&format!("delete from orders where id >= {from}")).await.unwrap();
            let error = match extended {
                true => client.query(text, &[]).await.err().unwrap(),
                false => client.simple_query(text).await.err().unwrap(),
            };
            let (code, message) = told(&error);
            assert_eq!(code, "54000");
            let count = stage.truth(&format!("select count(*) from orders where id >= {from}")).await;
            if message.ends_with("what it changed stands") {
                stands += 1;
                assert_eq!(count, "21", "{message}");
            } else {
                undone += 1;
                assert!(message.ends_with("was stopped and has failed"), "{message}");
                assert_eq!(count, "0", "{message}");
            }
        }
    }
    println!("undone {undone}, stands {stands}");
    assert!(undone >= 2, "the slow ones are stopped");
}

#[tokio::test]
async fn a_cursor_of_the_protocol_is_one_answer_and_a_pipeline_stays_in_step() {
    let stage = Stage::new().await;
    stage.demand(rows(100));
    let mut raw = Raw(stage.tls().await).log_in().await;
    raw.send(&[
        query("begin"),
        parse("s", "select generate_series(1, 1000)"),
        bind("p", "s"),
        execute("p", 60),
        flush(),
    ])
    .await;
    assert_eq!(raw.until_ready(1).await, "C ZT");
    for wanted in [b'1', b'2'].into_iter().chain([b'D'; 60]).chain([b's']) {
        assert_eq!(raw.message().await.unwrap().0, wanted);
    }
    raw.send(&[execute("p", 60), flush()]).await;
    for _ in 0..40 {
        assert_eq!(raw.message().await.unwrap().0, b'D');
    }
    assert_eq!(raw.message().await.unwrap().0, b'E', "before any Sync");
    raw.send(&[execute("p", 60), sync(), query("rollback")]).await;
    assert_eq!(raw.until_ready(2).await, "ZE C ZI");
    // Many at once, the first of them too long: each gets its answer, and the last is whole.
    let long = [parse("", "select generate_series(1, 5000)"), bind("", ""), execute("", 0), sync()];
    raw.send(&[long.concat(), query("select 1"), query("select 2")]).await;
    let seen = raw.until_ready(3).await;
    assert!(seen.starts_with(&format!("1 2 {}E54000 ZI ", "D ".repeat(100))), "{seen}");
    raw.send(&[query("select 3")]).await;
    assert_eq!(raw.until_ready(1).await, "T D C ZI");
}

#[tokio::test]
async fn a_copy_to_the_client_is_cut_like_any_answer() {
    let (stage, client) = limited(rows(100)).await;
    for (many, whole) in [(100, true), (101, false), (50_000_000, false)] {
        for format in ["text", "csv", "binary"] {
            let text = format!("copy (select generate_series(1, {many})) to stdout (format {format})");
            let stream = client.copy_out(&text).await.unwrap();
            let all: Result<Vec<_>, _> = stream.try_collect().await;
            match all {
                Ok(_) => assert!(whole, "{text}"),
                Err(error) => assert!(!whole && told(&error).0 == "54000", "{text}: {error:?}"),
            }
            client.query_one("select 1", &[]).await.unwrap();
        }
    }
    at_rest(&stage).await;
}

#[tokio::test]
async fn no_cancel_ever_hits_the_command_behind_the_one_it_was_meant_for() {
    // Whatever the order in which cancels and endings come, no command but the long ones may fail.
    let (_stage, client) = limited(rows(50)).await;
    for round in 0..100 {
        let many = 51 + round * 31 % 3000;
        let error = client.simple_query(&format!("select generate_series(1, {many})")).await.unwrap_err();
        assert_eq!(told(&error).0, "54000");
        let rows = client.query("select generate_series(1, 50)", &[]).await.unwrap();
        assert_eq!(rows.len(), 50, "{round}");
    }
}
