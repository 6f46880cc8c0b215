//! What is kept of a story: who did what, and no secret anywhere.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sallyport_crds::ProtectedTarget;
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

/// `kubectl sallyport`, found by its name in the path.
fn kubectl_sallyport(scene: &Scene, arguments: &[&str]) -> (Option<i32>, String, String) {
    let own = std::env::current_exe().unwrap();
    let program = own.ancestors().skip(1).take(3).map(|folder| folder.join("sallyport")).find(|path| path.is_file());
    let program = program.expect("sallyport is not built: run `cargo build -p sallyport-cli`");
    let path = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(program, path.path().join("kubectl-sallyport")).unwrap();
    let mut kubectl = scene.stage.kubectl_command();
    kubectl.env("PATH", format!("{}:{}", path.path().display(), std::env::var("PATH").unwrap()));
    let output = kubectl.arg("sallyport").args(arguments).args(["-n", &scene.shop]).output().unwrap();
    let [out, errors] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code(), out, errors)
}

#[tokio::test]
async fn a_person_asks_what_would_happen_and_what_did_and_whether_that_is_true() {
    let scene = Scene::open("asked", 2).await.unwrap();
    let agent = scene.agent().unwrap();
    for _ in 0..6 {
        assert_eq!(agent.psql("select count(*) from orders where amount > 12").unwrap(), "92");
    }
    assert!(agent.psql("delete from orders").unwrap().contains("no-unbounded-writes"));
    let sallyport = |arguments: &[&str]| kubectl_sallyport(&scene, arguments);
    let bot = format!("{}/bot", scene.ci);
    let (status, told, errors) = sallyport(&["explain", "orders-db", "--agent", &bot, "delete from orders"]);
    assert!(status == Some(1) && told.starts_with("deny by orders/no-unbounded-writes"), "{told}{errors}");
    let (status, told, errors) = sallyport(&["explain", "orders-db", "--agent", &bot, "select 1 from orders"]);
    assert!(status == Some(0) && told.starts_with("allow by orders/read"), "{told}{errors}");

    // Out of the pods, whichever had which session.
    let (status, told, errors) = sallyport(&["sessions", "orders-db", "-o", "json", "--agent", &bot]);
    assert_eq!(status, Some(0), "{told}{errors}");
    let sessions: Vec<Value> = serde_json::from_str(&told).unwrap();
    assert!(sessions.len() >= 7, "{told}{errors}");
    let refused = sessions.iter().find(|session| session["refused"] == 1).unwrap_or_else(|| panic!("{told}"));
    let (status, told, errors) = sallyport(&["replay", refused["session"].as_str().unwrap(), "orders-db"]);
    assert!(
        status == Some(0) && told.contains("deny by orders/no-unbounded-writes\n              delete from orders"),
        "{told}{errors}"
    );

    // What was anchored is there.
    let anchored = |target: Option<&Value>| {
        let replicas = target.and_then(|target| target["status"]["replicas"].as_array());
        replicas.is_some_and(|replicas| replicas.iter().any(|replica| replica["recording"].is_object()))
    };
    scene.until::<ProtectedTarget>(&scene.shop, "orders-db", "an anchor", anchored).await.unwrap();
    let (status, told, errors) = sallyport(&["verify", "orders-db"]);
    assert!(
        status == Some(0) && told.contains(": sound: ") && told.contains("anchored up to record"),
        "{told}{errors}"
    );
}
