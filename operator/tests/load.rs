//! The authority is replaced under load: clients that dial anew the whole time see nothing of it.
//!
//! A real API server, the operator and two proxies in this process, a real PostgreSQL and pgbench. Nothing runs
//! pods here: what a kubelet does with Secrets, a loop of the test does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::jiff::Timestamp;
use sallyport_harness::{Postgres, PostgresOptions};
use sallyport_proxy::{Arguments, Config};
use serde_json::{Value, json};
use support::{OURS, Stage, condition, is};

const DOMAIN: &str = "cluster.local";
const BOT: &str = "
apiVersion: sallyport.dev/v1alpha1
kind: AgentIdentity
metadata: {name: bot, namespace: ci}
spec: {groups: [load], certificate: {duration: 5m, renewBefore: 4m}}
";
const POLICY: &str = "
apiVersion: sallyport.dev/v1alpha1
kind: AccessPolicy
metadata: {name: load, namespace: prod}
spec:
  targetRefs: [{name: orders-db}]
  subjects: [{group: {namespace: ci, name: load}}]
  rules: [{name: read, action: Allow, postgres: {statements: [Select], tables: [public.orders]}}]
";

fn trust_domain(rotation: &Value) -> String {
    json!({
        "apiVersion": OURS, "kind": "TrustDomain", "metadata": {"name": DOMAIN},
        "spec": {"trustDomain": DOMAIN, "rotation": rotation},
    })
    .to_string()
}

/// Writes a Secret as a kubelet does: a new directory, and one link that is exchanged. Old versions stay, for a
/// client that has just looked the link up.
fn project(secret: &Value, into: &Path) {
    let version = secret["metadata"]["resourceVersion"].as_str().unwrap();
    let directory = into.join(format!("..{version}"));
    if directory.exists() {
        return;
    }
    std::fs::create_dir_all(&directory).unwrap();
    for (key, value) in secret["data"].as_object().unwrap() {
        let bytes: ByteString = serde_json::from_value(value.clone()).unwrap();
        let path = directory.join(key);
        std::fs::write(&path, bytes.0).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let link = into.join(key);
        if !link.exists() {
            symlink(Path::new("..data").join(key), &link).unwrap();
        }
    }
    let link = into.join("..data_tmp");
    symlink(format!("..{version}"), &link).unwrap();
    std::fs::rename(link, into.join("..data")).unwrap();
}

/// Bursts of pgbench that dials for every transaction, each with the files as they are at its start.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    failed: Arc<Mutex<Vec<String>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(pgbench: PathBuf, script: PathBuf, files: PathBuf, ports: &[u16]) -> Self {
        let (stop, done, failed) = (Arc::default(), Arc::default(), Arc::default());
        let threads = ports.iter().map(|port| {
            let (stop, done, failed): (Arc<AtomicBool>, Arc<AtomicUsize>, Arc<Mutex<Vec<String>>>) =
                (Arc::clone(&stop), Arc::clone(&done), Arc::clone(&failed));
            let (pgbench, script, files, port) = (pgbench.clone(), script.clone(), files.clone(), *port);
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let at = files.join("..data").canonicalize().unwrap();
                    let at = at.display();
                    let target = format!(
                        "host=orders-db.prod.svc hostaddr=127.0.0.1 port={port} user=default dbname=postgres sslmode=verify-full sslcert={at}/tls.crt sslkey={at}/tls.key sslrootcert={at}/ca.crt"
                    );
                    let output = Command::new(&pgbench)
                        .args(["-n", "-C", "-c", "2", "-T", "2", "-f"])
                        .arg(&script)
                        .arg(&target)
                        .env_clear()
                        .output()
                        .unwrap();
                    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
                    let count = told.lines().find_map(|line| line.strip_prefix("number of transactions actually processed: "));
                    let count = count.and_then(|count| count.split(['/', ' ']).next()?.parse::<usize>().ok());
                    let clean = output.status.success() && !told.contains("error") && !told.contains("aborted");
                    match count.filter(|_| clean) {
                        Some(count) => drop(done.fetch_add(count, Ordering::SeqCst)),
                        None => failed.lock().unwrap().push(told),
                    }
                }
            })
        });
        let threads = threads.collect();
        Self { stop, done, failed, threads }
    }

    /// Waits for as many more transactions, each a connection of its own.
    async fn more(&self, count: usize) {
        let wanted = self.done.load(Ordering::SeqCst) + count;
        while self.done.load(Ordering::SeqCst) < wanted && self.failed.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn end(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        let failed = self.failed.lock().unwrap();
        let done = self.done.load(Ordering::SeqCst);
        assert!(
            failed.is_empty(),
            "{} bursts of {done} connections and more failed: {}",
            failed.len(),
            failed.join("\n")
        );
        done
    }
}

async fn scene() -> (Stage, Postgres) {
    let _installed_before = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let stage = Stage::new().await;
    let server = Postgres::start(PostgresOptions::default()).await.unwrap();
    server.exec_sql("create table orders (id int); insert into orders select generate_series(1, 10)").await.unwrap();
    (stage, server)
}

/// Rotates under load; `to_the_end` waits until the old root is trusted no more.
async fn rotate(to_the_end: bool) {
    let (stage, server) = scene().await;
    let operator = stage.operator().await;
    let (user, password) = (server.superuser(), server.superuser_password());
    stage
        .apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "orders-db-credentials", "namespace": "prod"},
            "stringData": {"username": user, "password": password},
        }).to_string())
        .await;
    stage
        .apply(
            &json!({
                "apiVersion": OURS, "kind": "ProtectedTarget", "metadata": {"name": "orders-db", "namespace": "prod"},
                "spec": {
                    "postgres": {"host": "127.0.0.1", "port": server.port()}, "tls": {"mode": "Disable"},
                    "credentials": [{"name": "default", "secretRef": {"name": "orders-db-credentials"}}],
                },
            })
            .to_string(),
        )
        .await;
    stage.apply_all(&[BOT, POLICY, &trust_domain(&json!({"propagationTime": "10s"}))]).await;
    stage.until(OURS, "AgentIdentity", "ci", "bot", |o| is(condition(o, "Ready"), "True", "Ready")).await;
    stage.until("v1", "Secret", "prod", "orders-db-server", |_| true).await;

    // The replicas: in this process, under the names of the pods that nothing runs.
    let pods = stage.api("v1", "Pod", "prod").await;
    let names = loop {
        let found =
            pods.list(&kube::api::ListParams::default().labels("sallyport.dev/target=orders-db")).await.unwrap();
        let names: Vec<_> = found.items.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
        if names.len() == 2 {
            break names;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let dir = tempfile::tempdir().unwrap();
    let (tls, agent) = (dir.path().join("tls"), dir.path().join("agent"));
    let secrets = [("prod", "orders-db-server", tls.clone()), ("ci", "bot-mtls", agent.clone())];
    for (namespace, name, into) in &secrets {
        project(&stage.get("v1", "Secret", namespace, name).await.unwrap(), into);
    }
    let account = "system:serviceaccount:prod:orders-db-proxy";
    let kubeconfig = stage.plane.user_kubeconfig(account, &["system:serviceaccounts", "system:authenticated"]).unwrap();
    let mut running = Vec::new();
    for name in &names {
        let place = |part: &str| {
            let path = dir.path().join(name).join(part);
            std::fs::create_dir_all(&path).unwrap();
            Some(path.display().to_string())
        };
        let credentials = place("credentials").unwrap();
        let default = Path::new(&credentials).join("default");
        std::fs::create_dir_all(&default).unwrap();
        std::fs::write(default.join("username"), user).unwrap();
        std::fs::write(default.join("password"), password).unwrap();
        let arguments = Arguments {
            target_namespace: Some("prod".to_owned()),
            target_name: Some("orders-db".to_owned()),
            pod_name: Some(name.clone()),
            kubeconfig: Some(kubeconfig.display().to_string()),
            listen: Some("127.0.0.1:0".to_owned()),
            admin: Some("127.0.0.1:0".to_owned()),
            tls_dir: Some(tls.display().to_string()),
            credentials_dir: Some(credentials),
            records_dir: place("records"),
            state_dir: place("state"),
            log: Some("info".to_owned()),
            ..Arguments::default()
        };
        running.push(sallyport_proxy::start(Config::resolve(arguments).unwrap()).await.unwrap());
    }
    stage
        .until(OURS, "ProtectedTarget", "prod", "orders-db", |o| is(condition(o, "Programmed"), "True", "Programmed"))
        .await;

    let script = dir.path().join("read.sql");
    std::fs::write(&script, "select count(*) from public.orders;\n").unwrap();
    let ports: Vec<_> = running.iter().map(|proxy| proxy.listen.port()).collect();
    let load = Load::start(server.program("pgbench"), script, agent, &ports);
    let look = async || {
        for (namespace, name, into) in &secrets {
            project(&stage.get("v1", "Secret", namespace, name).await.unwrap(), into);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        stage.get(OURS, "TrustDomain", "", DOMAIN).await.unwrap()
    };
    let until = async |what: &str, holds: &dyn Fn(&Value) -> bool| {
        let begun = tokio::time::Instant::now();
        loop {
            let domain = look().await;
            if holds(&domain) {
                println!("{what} after {:?}", begun.elapsed());
                return domain;
            }
            assert!(begun.elapsed() < Duration::from_secs(600), "{what} never came: {:#}", domain["status"]);
            assert!(load.failed.lock().unwrap().is_empty(), "{}: {:?}", what, load.failed.lock().unwrap());
        }
    };
    let first = until("the first authority", &|o| o["status"]["phase"] == "Stable").await["status"]["active"].clone();
    load.more(20).await;
    let made: Timestamp = first["notBefore"].as_str().unwrap().parse().unwrap();
    let asked = Timestamp::from_second(made.as_second() + 1).unwrap().to_string();
    stage.apply(&trust_domain(&json!({"propagationTime": "10s", "requestedAt": asked}))).await;
    until("the next root is published", &|o| o["status"]["phase"] == "Propagating").await;
    until("it signs", &|o| o["status"]["phase"] == "Retiring").await;
    let roots = |secret: &Value| {
        let bytes: ByteString = serde_json::from_value(secret["data"]["ca.crt"].clone()).unwrap();
        String::from_utf8(bytes.0).unwrap().matches("BEGIN CERTIFICATE").count()
    };
    let serial = async || stage.get(OURS, "AgentIdentity", "ci", "bot").await.unwrap()["status"]["serial"].clone();
    let old = serial().await;
    // The agent's own certificate, signed by the new one, at its renewal; the fleet's was at once.
    let begun = tokio::time::Instant::now();
    while serial().await == old {
        look().await;
        assert!(begun.elapsed() < Duration::from_secs(150), "the agent's certificate was not renewed");
    }
    look().await;
    load.more(40).await;
    if to_the_end {
        until("the old root is out of trust", &|o| o["status"]["phase"] == "Stable").await;
        for (namespace, name, _) in &secrets {
            stage.until("v1", "Secret", namespace, name, |o| roots(o) == 1).await;
        }
        look().await;
        load.more(40).await;
    }
    let done = load.end();
    println!("connections while the authority was replaced: {done}, none failed");
    assert!(done >= 60);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_fails_while_the_authority_is_replaced() {
    rotate(false).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes seven minutes: an agent's certificate lives for five at least"]
async fn no_connection_fails_until_the_old_root_is_out_of_trust() {
    rotate(true).await;
}
