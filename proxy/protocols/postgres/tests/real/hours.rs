//! Until when sessions go on, in real time: a certificate of a few seconds, idleness, and revocation that cuts.

use std::time::{Duration, Instant};

use sallyport_policy::{Member, OnRevocation, SessionTerms};

use crate::raw::{Raw, bind, execute, flush, parse, query, sync};
use crate::stage::Stage;

fn suspended() -> Member {
    Member { namespace: "ci".into(), name: "bot".into(), suspended: true, ..Member::default() }
}

fn close_reasons(stage: &Stage) -> Vec<String> {
    stage.records.of("close").iter().map(|event| event["reason"].as_str().unwrap().to_owned()).collect()
}

/// Waits until so many sleeps run at the server.
async fn sleeping(stage: &Stage, wanted: &str) {
    let since = Instant::now();
    let asked = "select count(*) from pg_stat_activity where state = 'active' and query like '%pg_sleep%' and pid <> pg_backend_pid()";
    while stage.truth(asked).await != wanted {
        assert!(since.elapsed() < Duration::from_secs(20), "there are not {wanted}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_certificate_that_expires_ends_its_sessions_with_their_transactions() {
    let mut stage = Stage::new().await;
    stage.live(10);
    let mut idle = Raw(stage.tls().await).log_in().await;
    let mut block = Raw(stage.tls().await).log_in().await;
    block.send(&[query("begin"), query("insert into orders values (90, 'before')")]).await;
    assert_eq!(block.until_ready(2).await, "C ZT C ZT");
    let mut pipeline = Raw(stage.tls().await).log_in().await;
    pipeline.send(&[parse("", "insert into orders values (92, 'x')"), bind("", ""), execute("", 0), flush()]).await;
    for wanted in [b'1', b'2', b'C'] {
        assert_eq!(pipeline.message().await.unwrap().0, wanted);
    }
    // The idle one tells when the time has come.
    assert_eq!(idle.until_ready(1).await, "E57P01 end");
    block.send(&[query("insert into orders values (91, 'after')")]).await;
    assert_eq!(block.until_ready(1).await, "C ZT");
    // Behind the COMMIT nothing runs any more, be it in the same packet.
    block.send(&[query("commit"), query("insert into orders values (93, 'late')")]).await;
    assert_eq!(block.until_ready(2).await, "C ZI E57P01 end");
    pipeline.send(&[sync(), parse("", "insert into orders values (94, 'late')"), sync()]).await;
    assert_eq!(pipeline.until_ready(2).await, "ZI E57P01 end");
    assert_eq!(stage.truth("select id from orders where id >= 90 order by id").await, "90,91,92");
    assert!(
        close_reasons(&stage).iter().all(|why| why.contains("certificate has expired")),
        "{:?}",
        stage.records.of("close")
    );
    assert!(stage.try_connect("postgres").await.is_err(), "TLS refuses an expired certificate");
    stage.live(3600);
    stage.connect().await.simple_query("select 1").await.unwrap();
}

#[tokio::test]
async fn an_idle_session_is_ended_and_told_why() {
    let stage = Stage::new().await;
    stage.demand(SessionTerms { idle_seconds: Some(3), ..SessionTerms::default() });
    let mut raw = Raw(stage.tls().await).log_in().await;
    raw.send(&[query("begin; insert into orders values (95, 'x')")]).await;
    assert_eq!(raw.until_ready(1).await, "C C ZT");
    assert_eq!(raw.until_ready(1).await, "E57P01 end");
    assert_eq!(stage.truth("select count(*) from orders where id = 95").await, "0");
    // A command that takes longer than that is not idleness.
    stage.connect().await.simple_query("select pg_sleep(4)").await.unwrap();
}

#[tokio::test]
async fn revocation_cuts_a_running_command_where_the_policy_says_so() {
    let stage = Stage::new().await;
    stage.demand(SessionTerms { on_revocation: OnRevocation::Cancel, ..SessionTerms::default() });
    let mut simple = Raw(stage.tls().await).log_in().await;
    simple.send(&[query("insert into orders values (96, 'x'); select pg_sleep(600)")]).await;
    let mut extended = Raw(stage.tls().await).log_in().await;
    extended.send(&[parse("", "select pg_sleep(600)"), bind("", ""), execute("", 0), sync()]).await;
    sleeping(&stage, "2").await;
    let since = Instant::now();
    stage.member(suspended());
    assert!(simple.until_ready(2).await.ends_with("E57014 ZI E28000 end"));
    assert_eq!(extended.until_ready(2).await, "1 2 E57014 ZI E28000 end");
    let took = since.elapsed();
    println!("from the change to the end of both: {took:?}");
    assert!(took < Duration::from_secs(15), "{took:?}");
    sleeping(&stage, "0").await;
    assert_eq!(stage.truth("select count(*) from orders where id = 96").await, "0");
    let outcomes = stage.records.outcomes(2).await;
    assert!(outcomes.iter().all(|outcome| outcome["code"] == "57014"), "{outcomes:?}");
}

#[tokio::test]
async fn revocation_lets_a_running_command_finish_where_no_policy_says_otherwise() {
    let stage = Stage::new().await;
    let mut raw = Raw(stage.tls().await).log_in().await;
    raw.send(&[query("select pg_sleep(1)")]).await;
    sleeping(&stage, "1").await;
    stage.member(suspended());
    assert_eq!(raw.until_ready(2).await, "T D C ZI E28000 end");
}
