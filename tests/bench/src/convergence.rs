//! From the write of a policy to the first refused statement of an open session, over many edits.
//! It runs a real API server, the operator and a proxy as processes on loopback. It prints percentiles, and the
//! memory of both at rest.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::api::{DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt, discovery::ApiResource};
use sallyport_conformance::clients::rust::connect_to;
use sallyport_conformance::{operator_binary, proxy_binary};
use sallyport_harness::{ControlPlane, Leaf, Postgres, PostgresOptions, free_port};
use serde_json::json;
use tempfile::TempDir;

use crate::throughput::rss;

const EDITS: usize = 100;
const PATIENCE: Duration = Duration::from_secs(30);
const STATEMENT: &str = "select count(*) from orders";

/// Runs the edits and prints what they took.
pub(crate) async fn table() -> Result<()> {
    let server = Postgres::start(PostgresOptions::default()).await?;
    server.exec_sql("create table orders (id int)").await?;
    let plane = ControlPlane::start().await?;
    plane.apply_crds().await?;
    let client = plane.client().await?;
    let dir = TempDir::with_prefix("sallyport-bench-")?;
    namespaces(&client).await?;
    let operator = start(
        Command::new(operator_binary()?)
            .env("KUBECONFIG", plane.kubeconfig())
            .args(["--namespace", "sallyport-system", "--proxy-image", "none", "--leader-elect", "false"])
            .args(["--admin", &format!("127.0.0.1:{}", free_port()?.number())]),
        &dir,
        "operator",
    )?;
    objects(&client, &server).await?;
    let agent = files(&client, "bench-ci", "bot-mtls", &dir, "agent").await?;
    let own = files(&client, "bench-shop", "orders-db-server", &dir, "tls").await?;
    let bundle: Api<ConfigMap> = Api::namespaced(client.clone(), "bench-shop");
    wait(async || bundle.get_opt("orders-db-bundle").await.ok().flatten()).await.context("no bundle")?;
    let at = |name: &str| dir.path().join(name);
    for folder in ["credentials/default", "records", "state"] {
        std::fs::create_dir_all(at(folder))?;
    }
    std::fs::write(at("credentials/default/username"), server.superuser())?;
    std::fs::write(at("credentials/default/password"), server.superuser_password())?;
    let port = free_port()?;
    let proxy = start(
        Command::new(proxy_binary()?)
            .arg("serve")
            .arg("--kubeconfig")
            .arg(plane.kubeconfig())
            .args(["--target-namespace", "bench-shop", "--target-name", "orders-db", "--pod-name", "bench"])
            .arg("--tls-dir")
            .arg(at("tls"))
            .arg("--credentials-dir")
            .arg(at("credentials"))
            .arg("--upstream-ca")
            .arg(server.ca_file())
            .arg("--records-dir")
            .arg(at("records"))
            .arg("--state-dir")
            .arg(at("state"))
            .args(["--listen", &format!("127.0.0.1:{}", port.number())])
            .args(["--admin", &format!("127.0.0.1:{}", free_port()?.number())]),
        &dir,
        "proxy",
    )?;
    let session =
        wait(async || connect_to("orders-db.bench-shop", port.number(), &own.ca, &agent.files).await.ok()).await;
    let (session, _ended) = session.with_context(|| {
        let log = std::fs::read_to_string(at("proxy.log")).unwrap_or_default();
        log.lines().rev().take(3).collect::<Vec<_>>().join("\n")
    })?;
    let idle = (rss(proxy.0.id())?, rss(operator.0.id())?);

    let (mut refused_after, mut allowed_after) = (Vec::new(), Vec::new());
    for edit in 0..EDITS * 2 {
        let allow = edit % 2 == 1;
        let began = Instant::now();
        patch_policy(&client, allow).await?;
        while session.simple_query(STATEMENT).await.is_ok() != allow {
            ensure!(began.elapsed() < PATIENCE, "edit {edit} never came through");
        }
        if allow { allowed_after.push(began.elapsed()) } else { refused_after.push(began.elapsed()) }
    }
    println!(
        "from the write of a policy to the first statement judged by it, {EDITS} edits each way, one open session"
    );
    println!("| edit | p50 | p99 | worst |");
    println!("|---|---|---|---|");
    for (name, mut times) in [("allow to refuse", refused_after), ("refuse to allow", allowed_after)] {
        times.sort();
        // The nearest rank: of 100 times the p99 is the 99th and the worst the last.
        let at = |share: usize| times.get((times.len() * share).div_ceil(100) - 1).copied().unwrap_or_default();
        println!("| {name} | {:.1?} | {:.1?} | {:.1?} |", at(50), at(99), at(100));
    }
    println!();
    println!("resident memory at rest: proxy {} KiB, operator {} KiB (one target, one identity)", idle.0, idle.1);
    println!();
    Ok(())
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill().and_then(|()| self.0.wait());
    }
}

fn start(command: &mut Command, dir: &TempDir, name: &str) -> Result<Running> {
    let log = std::fs::File::create(dir.path().join(format!("{name}.log")))?;
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
    wrapped.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let child = wrapped.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
    Ok(Running(child))
}

async fn wait<T>(mut what: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Some(found) = what().await {
            return Some(found);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    None
}

async fn namespaces(client: &Client) -> Result<()> {
    let api: Api<Namespace> = Api::all(client.clone());
    for name in ["sallyport-system", "bench-ci", "bench-shop"] {
        let namespace = Namespace {
            metadata: kube::api::ObjectMeta { name: Some(name.into()), ..Default::default() },
            ..Default::default()
        };
        api.create(&PostParams::default(), &namespace).await?;
    }
    Ok(())
}

fn api(client: &Client, kind: &str, plural: &str, namespace: &str) -> Api<DynamicObject> {
    let gvk = GroupVersionKind::gvk("sallyport.dev", "v1alpha1", kind);
    Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk_with_plural(&gvk, plural))
}

async fn objects(client: &Client, server: &Postgres) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "bench-shop");
    for (name, data) in [
        ("orders-ca", json!({"ca.crt": server.ca_pem()})),
        ("orders-db", json!({"username": server.superuser(), "password": server.superuser_password()})),
    ] {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
        secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
    }
    let identity = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AgentIdentity", "metadata": {"name": "bot"}, "spec": {},
    });
    let target = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "ProtectedTarget", "metadata": {"name": "orders-db"},
        "spec": {
            "postgres": {"host": server.host(), "port": server.port()},
            "tls": {"mode": "VerifyFull", "caBundleRef": {"kind": "Secret", "name": "orders-ca", "key": "ca.crt"}},
            "credentials": [{"name": "default", "secretRef": {"name": "orders-db"}}],
        },
    });
    let create = PostParams::default();
    let identities = api(client, "AgentIdentity", "agentidentities", "bench-ci");
    identities.create(&create, &serde_json::from_value(identity)?).await?;
    let targets = api(client, "ProtectedTarget", "protectedtargets", "bench-shop");
    targets.create(&create, &serde_json::from_value(target)?).await?;
    patch_policy(client, true).await
}

async fn patch_policy(client: &Client, allow: bool) -> Result<()> {
    let policies = api(client, "AccessPolicy", "accesspolicies", "bench-shop");
    let table = if allow { "public.orders" } else { "public.other" };
    let policy = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": "read"},
        "spec": {
            "targetRefs": [{"name": "orders-db"}],
            "subjects": [{"agent": {"namespace": "bench-ci", "name": "bot"}}],
            "rules": [{"name": "read", "action": "Allow", "postgres": {"statements": ["Select"], "tables": [table]}}],
        },
    });
    policies.patch("read", &PatchParams::apply("bench").force(), &Patch::Apply(&policy)).await?;
    Ok(())
}

struct Identity {
    files: sallyport_harness::LeafFiles,
    ca: String,
}

/// A certificate that the operator made, once it has, as files under their Kubernetes names.
async fn files(client: &Client, namespace: &str, name: &str, dir: &TempDir, folder: &str) -> Result<Identity> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = wait(async || secrets.get_opt(name).await.ok().flatten()).await;
    let secret = secret.with_context(|| {
        let log = std::fs::read_to_string(dir.path().join("operator.log")).unwrap_or_default();
        format!("no Secret {namespace}/{name}; the operator's log:\n{log}")
    })?;
    let data = secret.data.clone().unwrap_or_default();
    let text = |key: &str| -> Result<String> {
        let bytes = data.get(key).with_context(|| format!("{} has no {key}", secret.name_any()))?;
        Ok(String::from_utf8(bytes.0.clone())?)
    };
    let home = dir.path().join(folder);
    std::fs::create_dir_all(&home)?;
    let leaf = Leaf { cert_pem: text("tls.crt")?, key_pem: text("tls.key")? };
    std::fs::write(home.join("ca.crt"), text("ca.crt")?)?;
    let written = leaf.write(&home, "tls")?;
    Ok(Identity { files: written, ca: text("ca.crt")? })
}
