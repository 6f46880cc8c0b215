//! Three objects make a door: who may pass, what they may do, and what a change of mind does to those inside.

use sallyport_e2e::Scene;

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
    assert!(stranger.contains("unknown ca") || stranger.contains("SSL"), "{stranger}");
    assert!(!stranger.contains("100"), "{stranger}");
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
