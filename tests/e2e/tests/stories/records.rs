//! What is kept of a story: who did what, and no secret anywhere.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sallyport_e2e::Scene;
use serde_json::Value;

#[tokio::test]
async fn the_records_tell_who_did_what_and_nothing_tells_a_secret() {
    let scene = Scene::open("records", 2).await.unwrap();
    let agent = scene.agent().unwrap();
    assert_eq!(agent.psql("select count(*) from orders where amount > 12").unwrap(), "92");
    assert!(agent.psql("delete from orders").unwrap().contains("no-unbounded-writes"));
    assert!(agent.psql("select 1/0 from orders").unwrap().contains("division by zero"));

    let (mut shown, mut records) = (String::new(), String::new());
    for replica in scene.replicas().unwrap() {
        let exec = ["exec", "-n", &scene.shop, &replica, "--", "/sallyport-proxy", "records"];
        shown += &scene.kubectl(&exec).unwrap();
        records += &scene.kubectl(&[&exec[..], &["--json"]].concat()).unwrap();
    }
    let line = |text: &str| shown.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("{text}: {shown}"));
    let select = line("select count(*) from orders where amount > 12");
    let spiffe = format!("spiffe://cluster.local/ns/{}/agent/bot", scene.ci);
    for part in [spiffe.as_str(), "allow", "orders/read", "1 rows"] {
        assert!(select.contains(part), "{part}: {select}");
    }
    let delete = line("delete from orders");
    assert!(delete.contains("deny") && delete.contains("orders/no-unbounded-writes"), "{delete}");
    assert!(line("select 1/0 from orders").contains("22012"), "{shown}");
    let parsed: Vec<Value> = records.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let target = format!("{}/orders-db", scene.shop);
    assert!(parsed.iter().all(|record| record["agent"] == spiffe.as_str() && record["target"] == target.as_str()));

    let mut told = shown + &records;
    for arguments in [
        vec!["logs", "-n", &scene.shop, "-l", "sallyport.dev/target=orders-db", "--tail=-1"],
        vec!["logs", "-n", "sallyport-system", "deployment/sallyport-operator", "--tail=-1"],
        vec!["get", "events", "-A", "-o", "yaml"],
        vec!["get", "sallyport,configmaps,deployments,pods", "-A", "-o", "yaml"],
    ] {
        let part = scene.kubectl(&arguments).unwrap();
        assert!(part.len() > 200, "{arguments:?} tells nothing: {part}");
        told += &part;
    }
    let mut secrets = vec![scene.workload.password.clone(), STANDARD.encode(&scene.workload.password)];
    for (namespace, name) in
        [(scene.ci.as_str(), "bot-mtls"), (&scene.shop, "orders-db-server"), ("sallyport-system", "sallyport-ca")]
    {
        let secret = scene.get(namespace, &format!("secret/{name}")).unwrap();
        let data = secret["data"]["tls.key"].as_str().unwrap_or_else(|| panic!("{name} has no tls.key"));
        let pem = String::from_utf8(STANDARD.decode(data).unwrap()).unwrap();
        assert!(pem.contains("PRIVATE KEY"));
        secrets.extend([data.to_owned(), pem.lines().nth(1).unwrap().to_owned()]);
    }
    for secret in secrets {
        assert!(!told.contains(&secret), "told somewhere: {secret}");
    }
    assert!(told.contains(&spiffe), "the search itself works");
}
