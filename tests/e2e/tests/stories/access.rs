//! Three objects make a door: who may pass, what they may do, and what a change of mind does to those inside.

use sallyport_crds::AccessPolicy;
use sallyport_e2e::{POLICY, Scene, condition, holds};
use serde_json::Value;

const STRANGER: &str = "cd /tmp && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 \
    -subj /CN=stranger -addext subjectAltName=URI:spiffe://cluster.local/ns/$NAMESPACE/agent/bot \
    -keyout tls.key -out tls.crt && chmod 600 tls.key && cp /identity/ca.crt ca.crt && echo made";

#[tokio::test]
async fn an_agents_pod_reads_is_refused_by_name_and_a_stranger_is_refused_in_the_handshake() {
    let scene = Scene::open("access", 2).await.unwrap();
    scene.start_pod().unwrap();
    let rows = scene.psql_in_pod("/identity", "select id, customer, amount from orders order by id limit 2").unwrap();
    assert_eq!(rows, "1|2|1.50\n2|3|3.00");

    let refused = scene.psql_in_pod("/identity", "delete from orders").unwrap();
    let wanted = "refused by policy orders, rule no-unbounded-writes: a write needs a WHERE clause";
    assert!(refused.contains(wanted), "{refused}");
    assert_eq!(scene.psql_in_pod("/identity", "select count(*) from orders").unwrap(), "100");
    assert!(!scene.stage.postgres.log().contains("delete from orders"), "a byte of it reached the server");

    let made = scene.in_pod(&STRANGER.replace("$NAMESPACE", &scene.ci)).unwrap();
    assert!(made.lines().any(|line| line == "made"), "{made}");
    let stranger = scene.psql_in_pod("/tmp", "select count(*) from orders").unwrap();
    assert!(stranger.contains("SSL error: ") && stranger.contains("alert"), "{stranger}");
}

#[tokio::test]
async fn an_edited_policy_acts_on_the_very_next_statement_of_an_open_session() {
    let scene = Scene::open("edit", 2).await.unwrap();
    scene.start_pod().unwrap();
    let mut session = scene.session_in_pod().unwrap();
    assert_eq!(session.ask("select count(*) from customers").unwrap(), "20");

    let orders_alone =
        r#"[{"name": "read", "action": "Allow", "postgres": {"statements": ["Select"], "tables": ["public.orders"]}}]"#;
    scene.policy(orders_alone).unwrap();
    scene.programmed().await.unwrap();
    let refused = session.ask("select count(*) from customers").unwrap();
    assert!(refused.contains("no rule allows Select on public.customers"), "{refused}");
    assert_eq!(session.ask("select count(*) from orders").unwrap(), "100", "the session goes on");
}

#[tokio::test]
async fn a_policy_for_a_target_that_is_not_there_says_so_and_comes_into_force_with_it() {
    let scene = Scene::set("early").await.unwrap();
    scene.identity(&scene.ci, &["migrations"]).unwrap();
    scene.policy(POLICY).unwrap();
    let says_so = |policy: Option<&Value>| {
        policy.and_then(|policy| condition(policy, "ResolvedRefs")).is_some_and(|(status, reason, message)| {
            status == "False" && reason == "TargetNotFound" && message.contains("ProtectedTarget orders-db")
        })
    };
    scene.until::<AccessPolicy>(&scene.shop, "orders", "ResolvedRefs=False", says_so).await.unwrap();

    scene.target(1).unwrap();
    scene.in_force().await.unwrap();
    let policy = scene.get(&scene.shop, "accesspolicy/orders").unwrap();
    assert!(holds(Some(&policy), "ResolvedRefs"), "{policy:#}");
    assert_eq!(scene.agent().unwrap().psql("select count(*) from orders").unwrap(), "100");
}
