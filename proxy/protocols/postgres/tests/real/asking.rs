//! A rule that asks, on a proxy that has nobody to ask: refused in every form, with the cause, and in step.

use sallyport_policy::{AskTerms, Effect, Matcher, NotBy, Rule};

use crate::raw::{Raw, bind, execute, parse, query, sync};
use crate::stage::Stage;

const TERMS: AskTerms =
    AskTerms { approvals: 1, timeout_seconds: 600, validity_seconds: 3600, not_by: NotBy::ServiceAccounts };

/// A stage whose policy asks about every DELETE.
async fn stage() -> Stage {
    let stage = Stage::new().await;
    let mut bundle = (*stage.service.feed.current().unwrap().bundle).clone();
    bundle.policies[0].rules.push(Rule {
        name: "deletes".into(),
        effect: Effect::Ask(TERMS),
        message: None,
        matcher: Matcher { verbs: Some(vec!["Delete".into()]), ..Matcher::default() },
        when: None,
    });
    stage.service.feed.publish_bundle(bundle.sealed());
    stage
}

#[tokio::test]
async fn where_nobody_can_be_asked_it_is_refused_and_the_session_goes_on() {
    let stage = stage().await;
    let before = stage.truth("select count(*) from orders").await;
    let client = stage.connect().await;
    let told = |error: tokio_postgres::Error| {
        let error = error.as_db_error().unwrap();
        format!("{} {}", error.code().code(), error.message())
    };
    let refused = told(client.simple_query("delete from orders where id = 1").await.unwrap_err());
    let expected = "42501 needs an approval by policy bots, rule deletes: this proxy runs without a cluster and cannot ask anybody";
    assert_eq!(refused, expected);
    // What cannot be shown whole is not asked about at all.
    let long = format!("delete from orders where id = 1 /* {} */", "x".repeat(33_000));
    assert!(told(client.simple_query(&long).await.unwrap_err()).contains("too long to be shown whole"));
    let binary = client.execute("delete from orders where id = $1", &[&1_i32]).await.unwrap_err();
    assert_eq!(told(binary), expected);
    let long = client.execute("delete from orders where note = $1", &[&"x".repeat(4097)]).await.unwrap_err();
    assert!(told(long).contains("too long to be shown whole"));
    client.simple_query("select 1").await.unwrap();
    assert_eq!(stage.truth("select count(*) from orders").await, before);
    let denied: Vec<_> = stage.records.of("command").into_iter().filter(|event| event["verdict"] == "deny").collect();
    assert_eq!(denied.len(), 4);
    assert!(denied.iter().all(|event| event["rule"] == "deletes"));
}

#[tokio::test]
async fn a_refused_question_leaves_both_sides_in_the_same_state() {
    let stage = stage().await;
    let before = stage.truth("select count(*) from orders").await;
    let mut raw = Raw(stage.tls().await).log_in().await;
    raw.send(&[query("begin"), query("delete from orders where id = 1"), query("select 1"), query("rollback")]).await;
    assert_eq!(raw.until_ready(4).await, "C ZT E42501 ZE E25P02 ZE C ZI");
    // Of the extended protocol the Execute is refused; what is prepared and bound is with the server by then.
    raw.send(&[parse("", "delete from orders where id = 1"), bind("", ""), execute("", 0), sync(), query("select 1")])
        .await;
    assert_eq!(raw.until_ready(2).await, "1 2 E42501 ZI T D C ZI");
    assert_eq!(stage.truth("select count(*) from orders").await, before);
}
