//! The authority is replaced beneath an agent's pod that dials for each statement, with the files that its kubelet brings.
//!
//! Owns the loop that runs in that pod. Touches the trust domain of the cluster, which all stories share. What is
//! asserted is what the agent sees, and openssl.

use std::time::Instant;

use sallyport_crds::AgentIdentity;
use sallyport_e2e::{Scene, certificate, eventually};
use serde_json::{Value, json};

use super::{ALONE, READ};

/// Dials for each statement until told to stop. Key and certificate are two files, so they are read as one who knows
/// that does: what was read counts if the certificate is still the same afterwards.
const LOOP: &str = r#"
mkdir -p /tmp/id; umask 077; served=0
while [ ! -e /tmp/stop ]; do
    crt=$(cat /identity/tls.crt); key=$(cat /identity/tls.key); ca=$(cat /identity/ca.crt)
    [ "$crt" = "$(cat /identity/tls.crt)" ] || continue
    echo "$crt" >/tmp/id/tls.crt; echo "$key" >/tmp/id/tls.key; echo "$ca" >/tmp/id/ca.crt
    answer=$(PSQL 2>&1)
    if [ "$answer" = 100 ]; then served=$((served + 1)); echo $served >/tmp/served; else echo "$answer" >>/tmp/wrong; fi
done
"#;

fn domain(scene: &Scene) -> Value {
    scene.get("default", "trustdomain/cluster.local").unwrap()
}

fn ask_for(scene: &Scene, rotation: &Value) {
    let trust_domain = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "TrustDomain", "metadata": { "name": "cluster.local" },
        "spec": { "trustDomain": "cluster.local", "rotation": rotation },
    });
    scene.stage.apply(&trust_domain.to_string()).unwrap();
}

async fn until(scene: &Scene, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || async { Ok(Some(domain(scene)).filter(&is)) }).await.unwrap()
}

/// How many connections the loop has had, and what was wrong.
fn served(scene: &Scene) -> (usize, String) {
    let count = scene.in_pod("cat /tmp/served").unwrap().parse().unwrap_or_default();
    (count, scene.in_pod("[ ! -e /tmp/wrong ] || cat /tmp/wrong").unwrap())
}

async fn more(scene: &Scene, connections: usize) {
    let wanted = served(scene).0 + connections;
    eventually("more connections", || async { Ok((served(scene).0 >= wanted).then_some(())) }).await.unwrap();
}

/// Whether that file of the agent's pod is vouched for by these roots, as openssl has it.
fn vouched(scene: &Scene, roots: &str) -> bool {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("roots.crt"), roots).unwrap();
    std::fs::write(dir.path().join("tls.crt"), scene.in_pod("cat /identity/tls.crt").unwrap()).unwrap();
    let verify = ["verify", "-purpose", "sslclient", "-CAfile", "roots.crt", "tls.crt"];
    std::process::Command::new("openssl").args(verify).current_dir(dir.path()).output().unwrap().status.success()
}

/// The certificate of the authority that signs.
fn signer(scene: &Scene) -> String {
    let secret = scene.get("sallyport-system", "secret/sallyport-ca").unwrap();
    let bytes: k8s_openapi::ByteString = serde_json::from_value(secret["data"]["tls.crt"].clone()).unwrap();
    String::from_utf8(bytes.0).unwrap()
}

#[tokio::test]
async fn an_authority_is_replaced_beneath_an_agents_pod_and_no_connection_fails() {
    let _alone = ALONE.lock().await;
    let scene = Scene::open("authority", 2).await.unwrap();
    let (old, before) = (scene.agent().unwrap(), signer(&scene));
    let mut session = old.session().unwrap();
    assert_eq!(session.ask(READ).unwrap(), "100");
    // Renewed about a minute after it was issued: a certificate of the new authority comes in its own time.
    let short = json!({ "spec": { "certificate": { "duration": "5m", "renewBefore": "4m" } } });
    scene.patch(&scene.ci, "agentidentity/bot", &short).unwrap();
    let is_short = |bot: Option<&Value>| {
        let status = bot.map(|bot| bot["status"].clone()).unwrap_or_default();
        let at = |field: &str| status[field].as_str()?.parse::<k8s_openapi::jiff::Timestamp>().ok();
        let life = at("notBefore").zip(at("notAfter")).map(|(from, to)| to.duration_since(from).as_secs());
        life.is_some_and(|life| life <= 300)
    };
    scene.until::<AgentIdentity>(&scene.ci, "bot", "a short life", is_short).await.unwrap();
    scene.start_pod().unwrap();
    let statement = format!("psql -X -q -A -t '{} {}' -c '{READ}'", scene.door().unwrap(), certificate("/tmp/id"));
    let looped = LOOP.replace("PSQL", &statement).replace('\'', r"'\''");
    scene.in_pod(&format!("bash -c '{looped}' </dev/null >/dev/null 2>&1 &")).unwrap();
    more(&scene, 3).await;

    let began = Instant::now();
    let now = k8s_openapi::jiff::Timestamp::now();
    ask_for(&scene, &json!({ "propagationTime": "10s", "requestedAt": now.to_string() }));
    let rotated = until(&scene, "the new authority signs", |domain| domain["status"]["phase"] == "Retiring").await;
    println!("the new authority signs {:?} after it was asked for", began.elapsed());
    let after = signer(&scene);
    assert_ne!(before, after);
    assert_eq!(session.ask(READ).unwrap(), "100", "an open session has noticed nothing");
    eventually("the agent's certificate of the new authority", || async { Ok(vouched(&scene, &after).then_some(())) })
        .await
        .unwrap();
    println!("the agent has its certificate {:?} after", began.elapsed());
    more(&scene, 5).await;
    // Every replica meets agents with a certificate of the new one, as one sees who trusts nothing else.
    let only = format!(
        "printf '%s' '{after}' >/tmp/only.crt; for file in tls.crt tls.key; do cat /identity/$file >/tmp/$file; done"
    );
    scene.in_pod(&format!("umask 077; {only}")).unwrap();
    for replica in scene.replicas().unwrap() {
        let pod = scene.get(&scene.shop, &format!("pod/{replica}")).unwrap();
        let address = pod["status"]["podIP"].as_str().unwrap();
        let there = format!(
            "psql -X -q -A -t '{} hostaddr={address} user=default sslmode=verify-full sslcert=/tmp/tls.crt sslkey=/tmp/tls.key sslrootcert=/tmp/only.crt' -c '{READ}'",
            scene.door().unwrap()
        );
        eventually("its certificate of the new authority", || async {
            Ok((scene.in_pod(&there)? == "100").then_some(()))
        })
        .await
        .unwrap();
    }

    // Nobody needs the old root any more, and it is not waited for.
    let made = rotated["status"]["active"]["notBefore"].as_str().unwrap();
    ask_for(&scene, &json!({ "propagationTime": "10s", "requestedAt": now.to_string(), "compromisedBefore": made }));
    let stable = until(&scene, "the end of the old root", |domain| domain["status"]["phase"] == "Stable").await;
    assert_eq!(stable["status"]["active"], rotated["status"]["active"], "the new one goes on");
    eventually("one root in the agent's pod", || async {
        let roots = scene.in_pod("cat /identity/ca.crt")?;
        Ok((roots.matches("BEGIN CERTIFICATE").count() == 1).then_some(()))
    })
    .await
    .unwrap();
    let trust = &stable["status"]["trust"];
    eventually("one root at every replica", || async {
        let target = scene.get(&scene.shop, "protectedtarget/orders-db")?;
        let replicas = target["status"]["replicas"].as_array().cloned().unwrap_or_default();
        Ok((replicas.len() == 2 && replicas.iter().all(|replica| replica["trust"] == *trust)).then_some(()))
    })
    .await
    .unwrap();
    more(&scene, 5).await;
    scene.in_pod(": >/tmp/stop").unwrap();
    let (connections, wrong) = served(&scene);
    println!("{connections} connections in {:?}", began.elapsed());
    assert!(wrong.is_empty(), "of {connections} connections: {wrong}");

    // What the old authority vouched for is worth nothing, and is told so.
    let cut = session.ask(READ).unwrap();
    assert!(cut.contains("the authority of this certificate is not trusted any more: connect again"), "{cut}");
    std::fs::write(old.files().join("ca.crt"), &after).unwrap();
    let refused = old.psql(READ).unwrap();
    assert!(refused.contains("SSL error: ") && refused.contains("alert"), "{refused}");
}
