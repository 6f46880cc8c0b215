//! Commands, refusals among them, and what the server's state is afterwards.

use futures::{SinkExt, TryStreamExt, future};
use sallyport_policy::{Effect, Member};
use serde_json::json;
use tokio_postgres::error::SqlState;

use crate::raw::{Raw, bind, execute, flush, message, parse, query, sync};
use crate::stage::{Stage, all_but_secrets, rule};

fn code(error: &tokio_postgres::Error) -> String {
    error.code().map(|code| code.code().to_owned()).unwrap_or_default()
}

#[tokio::test]
async fn statements_run_and_are_recorded_with_their_parameters_and_outcomes() {
    let stage = Stage::new().await;
    let client = stage.connect().await;
    let statement = client.prepare("insert into orders values ($1, $2)").await.unwrap();
    client.execute(&statement, &[&7i32, &Some("seven")]).await.unwrap();
    client.execute(&statement, &[&8i32, &None::<&str>]).await.unwrap();
    assert_eq!(stage.truth("select count(*) from orders where id > 6").await, "2");
    let commands = stage.records.of("command");

    assert_eq!(
        commands[0]["parameters"],
        json!([
            {"binaryBytes": 4, "literal": "'7'::int4"},
            {"binaryBytes": 5, "literal": "'seven'::text"}
        ])
    );
    assert_eq!(commands[1]["parameters"][1], json!(null));
    let outcomes = stage.records.outcomes(commands.len()).await;
    assert!(outcomes.iter().all(|outcome| outcome["outcome"] == "completed" && outcome["rows"] == 1), "{outcomes:?}");
    let error = client.simple_query("select 1/0").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::DIVISION_BY_ZERO));
    let outcomes = stage.records.outcomes(commands.len() + 1).await;
    assert_eq!(outcomes.len(), commands.len() + 1);
    assert_eq!(outcomes.last().unwrap()["code"], "22012");
}

#[tokio::test]
async fn a_refused_command_never_reaches_the_server_and_the_session_goes_on() {
    let stage = Stage::new().await;
    stage.server.exec_sql("alter system set log_statement = 'all'").await.unwrap();
    stage.server.exec_sql("select pg_reload_conf()").await.unwrap();
    let client = stage.connect().await;
    let error = client.simple_query("select 'needle', * from secrets").await.unwrap_err();
    assert_eq!(code(&error), "42501");
    let told = error.as_db_error().unwrap();
    assert_eq!(told.message(), "refused by policy bots, rule no-secrets: not yours");
    assert_eq!(code(&client.prepare("select 'needle' from secrets").await.err().unwrap()), "42501");
    assert_eq!(code(&client.simple_query("select 1; select 'needle' from secrets").await.err().unwrap()), "42501");
    assert_eq!(client.query_one("select 41 + 1", &[]).await.unwrap().get::<_, i32>(0), 42);
    let log = stage.server.log();
    assert!(log.contains("select 41 + 1") && !log.contains("needle"), "{log}");
    assert_eq!(stage.records.texts("deny").len(), 3);
}

#[tokio::test]
async fn a_refusal_in_a_transaction_aborts_it_on_both_sides() {
    let stage = Stage::new().await;
    for extended in [false, true] {
        let mut client = stage.connect().await;
        let transaction = client.transaction().await.unwrap();
        transaction.simple_query("insert into orders values (50, 'lost')").await.unwrap();
        let error = if extended {
            transaction.query("select * from secrets", &[]).await.err().unwrap()
        } else {
            transaction.simple_query("select * from secrets").await.err().unwrap()
        };
        assert_eq!(code(&error), "42501");
        assert_eq!(code(&transaction.simple_query("select 1").await.unwrap_err()), "25P02");
        // COMMIT of an aborted transaction is a rollback.
        transaction.commit().await.unwrap();
        assert_eq!(stage.truth("select count(*) from orders where id = 50").await, "0");
        client.simple_query("select 1").await.unwrap();
    }
}

#[tokio::test]
async fn pipelined_commands_are_answered_in_their_order_with_the_refusal_among_them() {
    let stage = Stage::new().await;
    let client = stage.connect().await;
    let (one, refused, two) = future::join3(
        client.simple_query("select 1"),
        client.simple_query("select * from secrets"),
        client.simple_query("select 2"),
    )
    .await;
    assert!(one.is_ok() && two.is_ok());
    assert_eq!(code(&refused.unwrap_err()), "42501");
    let many = (0..500).map(|_| client.query_one("select count(*) from orders", &[]));
    assert!(future::try_join_all(many).await.is_ok());
}

#[tokio::test]
async fn a_refusal_within_one_pipeline_takes_the_work_before_it_back() {
    let stage = Stage::new().await;
    for flushed in [false, true] {
        let mut raw = Raw(stage.tls().await).log_in().await;
        let mut messages = vec![parse("", "insert into orders values (60, 'lost')"), bind("", ""), execute("", 0)];
        if flushed {
            messages.push(flush());
            raw.send(&messages).await;
            for wanted in [b'1', b'2', b'C'] {
                assert_eq!(raw.message().await.unwrap().0, wanted);
            }
            messages.clear();
        }
        messages.extend([parse("", "select * from secrets"), bind("", ""), execute("", 0), sync()]);
        raw.send(&messages).await;
        let told = raw.until_ready(1).await;
        assert_eq!(told, if flushed { "E42501 ZI" } else { "1 2 C E42501 ZI" });
        assert_eq!(stage.truth("select count(*) from orders where id = 60").await, "0");
        // The unnamed statement of before survived the refusal.
        raw.send(&[bind("", ""), execute("", 0), sync()]).await;
        assert_eq!(raw.until_ready(1).await, "2 C ZI");
        stage.truth("delete from orders where id = 60").await;
    }
}

#[tokio::test]
async fn row_limits_errors_and_skipped_commands_are_as_the_server_has_them() {
    let stage = Stage::new().await;
    let mut raw = Raw(stage.tls().await).log_in().await;
    raw.send(&[
        parse("s", "select generate_series(1, 5)"),
        bind("p", "s"),
        execute("p", 2),
        execute("p", 2),
        execute("p", 0),
        parse("s", "select 1"),
        bind("p", "s"),
        execute("p", 0),
        sync(),
        bind("", "s"),
        execute("", 1),
        sync(),
    ])
    .await;
    assert_eq!(raw.until_ready(2).await, "1 2 D D s D D s D C E42P05 ZI 2 D s ZI");
    let ends: Vec<_> = stage
        .records
        .of("outcome")
        .iter()
        .map(|o| (o["code"].as_str().map(str::to_owned), o["rows"].as_u64()))
        .collect();
    let skipped = Some("skipped".to_owned());
    assert_eq!(ends, [(None, Some(2)), (None, Some(2)), (None, Some(1)), (skipped, None), (None, Some(1))]);
}

#[tokio::test]
async fn copy_flows_both_ways_and_its_errors_leave_the_session_in_step() {
    let stage = Stage::new().await;
    let client = stage.connect().await;
    let sink = client.copy_in::<_, bytes::Bytes>("copy orders from stdin").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    let note = "x".repeat(1000);
    for id in 1000..21_000 {
        sink.send(format!("{id}\t{note}\n").into()).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), 20_000);
    let out = client.copy_out("copy orders to stdout").await.unwrap();
    let bytes: usize = out.map_ok(|piece| piece.len()).try_fold(0, |sum, n| future::ok(sum + n)).await.unwrap();
    assert!(bytes > 20_000 * 1000);
    let sink = client.copy_in::<_, bytes::Bytes>("copy orders from stdin").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    sink.send("no number\tx\n".into()).await.unwrap();
    assert_eq!(code(&sink.finish().await.unwrap_err()), "22P02");
    let refused = client.copy_in::<_, bytes::Bytes>("copy secrets from stdin").await.err().unwrap();
    assert_eq!(code(&refused), "42501");
    assert_eq!(client.query("select id from orders where id >= 1000", &[]).await.unwrap().len(), 20_000);
    // The simple protocol, with data sent before the server has asked for it.
    let mut raw = Raw(stage.tls().await).log_in().await;
    let data = message(b'd', &[b"30000\tearly\n"]);
    raw.send(&[query("copy orders from stdin"), data, message(b'c', &[]), query("select 1")]).await;
    assert_eq!(raw.until_ready(2).await, "G C ZI T D C ZI");
    raw.send(&[query("copy orders from stdin")]).await;
    assert_eq!(raw.message().await.unwrap().0, b'G');
    raw.send(&[message(b'f', &[b"changed my mind\0"])]).await;
    assert_eq!(raw.until_ready(1).await, "E57014 ZI");
}

#[tokio::test]
async fn a_statement_prepared_before_is_judged_by_the_policy_of_now() {
    let stage = Stage::new().await;
    let client = stage.connect().await;
    let statement = client.prepare("select note from orders").await.unwrap();
    client.query(&statement, &[]).await.unwrap();
    let mut rules = all_but_secrets();
    rules[1].matcher.objects = Some(vec![sallyport_policy::ObjectMatcher {
        kind: sallyport_policy::ObjectKind::Table,
        names: vec![sallyport_policy::NamePattern::parse("public.orders").unwrap()],
    }]);
    stage.rules(rules);
    assert_eq!(code(&client.query(&statement, &[]).await.unwrap_err()), "42501");
    stage.rules(all_but_secrets());
    client.query(&statement, &[]).await.unwrap();
}

#[tokio::test]
async fn a_suspended_agent_is_told_so_and_its_session_ends() {
    let stage = Stage::new().await;
    let mut raw = Raw(stage.tls().await).log_in().await;
    stage.member(Member { namespace: "ci".into(), name: "bot".into(), suspended: true, ..Member::default() });
    assert_eq!(raw.until_ready(1).await, "E28000 end");
    let error = stage.try_connect("postgres").await.err().unwrap();
    assert_eq!(code(&error), "28000");
}

#[tokio::test]
async fn what_cannot_be_recorded_does_not_run() {
    let stage = Stage::new().await;
    let client = stage.connect().await;
    *stage.records.full.lock().unwrap() = true;
    assert_eq!(code(&client.simple_query("insert into orders values (70, 'x')").await.unwrap_err()), "53100");
    assert_eq!(code(&stage.try_connect("postgres").await.err().unwrap()), "53100");
    *stage.records.full.lock().unwrap() = false;
    assert_eq!(stage.truth("select count(*) from orders where id = 70").await, "0");
    client.simple_query("select 1").await.unwrap();
}

#[tokio::test]
async fn large_values_and_large_results_pass_unchanged() {
    let stage = Stage::new().await;
    let client = stage.connect().await;
    let value = "ü".repeat(2_000_000);
    let back = client.query_one("select $1::text", &[&value]).await.unwrap();
    assert_eq!(back.get::<_, &str>(0), value);
    let rows = client.query("select g, repeat('y', 100) from generate_series(1, 100000) g", &[]).await.unwrap();
    assert_eq!(rows.len(), 100_000);
    assert!(rows.iter().enumerate().all(|(n, row)| row.get::<_, i32>(0) == i32::try_from(n).unwrap() + 1));
}

#[tokio::test]
async fn sql_prepare_and_cursors_are_judged_by_what_they_stand_for() {
    let stage = Stage::new().await;
    let rules = vec![
        crate::stage::rule("session", sallyport_policy::Effect::Allow, &["Session", "Transaction"], &[]),
        crate::stage::rule("read", sallyport_policy::Effect::Allow, &["Select"], &["public.orders"]),
    ];
    stage.rules(rules);
    let client = stage.connect().await;
    client.batch_execute("begin; declare c cursor for select id from orders").await.unwrap();
    client.batch_execute("fetch 1 from c").await.unwrap();
    assert_eq!(client.query("fetch 10 from c", &[]).await.unwrap().len(), 0);
    client.batch_execute("commit").await.unwrap();
    client.batch_execute("prepare s as select id from orders").await.unwrap();
    client.batch_execute("execute s").await.unwrap();
    assert_eq!(code(&client.batch_execute("fetch 1 from c").await.unwrap_err()), "42501");
    assert_eq!(code(&client.batch_execute("execute t").await.unwrap_err()), "42501");
    // The extended protocol may bind what PREPARE made.
    let mut raw = Raw(stage.tls().await).log_in().await;
    raw.send(&[query("prepare s as select id from orders")]).await;
    assert_eq!(raw.until_ready(1).await, "C ZI");
    raw.send(&[bind("", "s"), execute("", 0), sync()]).await;
    assert_eq!(raw.until_ready(1).await, "2 D C ZI");
}

#[tokio::test]
async fn suspending_an_agent_ends_its_copy_and_nothing_of_it_stays() {
    let stage = Stage::new().await;
    let mut raw = Raw(stage.tls().await).log_in().await;
    raw.send(&[query("copy orders from stdin"), message(b'd', &[b"80\thalf\n"])]).await;
    assert_eq!(raw.message().await.unwrap().0, b'G');
    stage.member(Member { namespace: "ci".into(), name: "bot".into(), suspended: true, ..Member::default() });
    assert_eq!(raw.until_ready(2).await, "E57014 ZI E28000 end");
    assert_eq!(stage.truth("select count(*) from orders where id = 80").await, "0");
}

#[tokio::test]
async fn what_a_server_has_built_in_is_harmless_there_and_anybodys_elsewhere() {
    let stage = Stage::new().await;
    let newer = stage.truth("show server_version_num").await.parse::<u32>().unwrap() >= 180_000;
    stage.rules(vec![rule("read", Effect::Allow, &["Select"], &["public.orders"])]);
    let client = stage.connect().await;
    for text in [
        "select uuidv7(), id from orders",
        "select casefold(note) from orders",
        "select array_sort(array[id]) from orders",
    ] {
        let told = client.simple_query(text).await.err().map(|error| code(&error)).unwrap_or_default();
        assert_eq!(told, if newer { "" } else { "42501" }, "{text}");
    }
    // What went, somebody may have made anew.
    stage.truth("create function public.pg_timezone_abbrevs() returns int return 1").await;
    let told = client.simple_query("select pg_timezone_abbrevs() from orders").await.err().map(|error| code(&error));
    assert_eq!(told.as_deref(), newer.then_some("42501"));
    // Nothing else that came is taken for harmless.
    for text in ["select pg_get_loaded_modules() from orders", "select pg_clear_relation_stats('a', 'b') from orders"] {
        assert_eq!(client.simple_query(text).await.err().map(|error| code(&error)).as_deref(), Some("42501"), "{text}");
    }
}

#[tokio::test]
async fn a_text_that_is_too_long_is_refused_like_any_other_and_the_session_goes_on() {
    let stage = Stage::new().await;
    let client = stage.connect().await;
    let long = format!("select '{}'", "x".repeat(9 << 20));
    for _ in 0..2 {
        assert_eq!(code(&client.simple_query(&long).await.unwrap_err()), "54000");
        assert_eq!(code(&client.prepare(&long).await.err().unwrap()), "54000");
        assert_eq!(client.query_one("select 41 + 1", &[]).await.unwrap().get::<_, i32>(0), 42);
    }
    client.simple_query("begin; insert into orders values (70, 'x')").await.unwrap();
    assert_eq!(code(&client.simple_query(&long).await.unwrap_err()), "54000");
    assert_eq!(code(&client.simple_query("select 1").await.unwrap_err()), "25P02");
    client.simple_query("commit").await.unwrap();
    assert_eq!(stage.truth("select count(*) from orders where id = 70").await, "0");
    let refused = stage.records.texts("deny");
    assert_eq!(refused.len(), 5);
    assert!(refused.iter().all(|text| text.len() < 200), "{refused:?}");
}
