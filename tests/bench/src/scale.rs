//! Ten thousand identities: how long until all are Ready, beside the writes that alone take, and what a restart and
//! a renewal cost. It runs a real API server and the operator as processes on loopback, and prints ratios.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{AsyncReadExt, StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use sallyport_conformance::operator_binary;
use sallyport_harness::{ControlPlane, free_port};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::scene::{Running, api, start};
use crate::throughput::{rss, ticks};

/// As many as the operator's own.
const AT_ONCE: usize = 8;
const PATIENCE: Duration = Duration::from_secs(900);
const SYSTEM: &str = "sallyport-system";
const RAW: &str = "bench-raw";
const HERD: &str = "bench-herd";
const WATCHED: &str = "bench-watched";
const WATCHERS: usize = 100;
const RENEWALS: usize = 500;

/// Runs it for that many identities.
pub(crate) async fn table(many: usize) -> Result<()> {
    let plane = ControlPlane::start().await?;
    plane.apply_crds().await?;
    let client = plane.client().await?;
    for name in [SYSTEM, RAW, HERD, WATCHED] {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        Api::<Namespace>::all(client.clone())
            .create(&PostParams::default(), &serde_json::from_value(namespace)?)
            .await?;
    }

    // Raw: a Secret and a status each, by a client that does nothing else.
    identities(&client, RAW, many).await?;
    let server = api_server(&plane)?;
    let (began, before) = (Instant::now(), ticks(server)?);
    stream::iter(0..many).map(Ok).try_for_each_concurrent(AT_ONCE, |n| raw(&client, n)).await?;
    let (alone, alone_cpu) = (began.elapsed(), ticks(server)? - before);
    clear(&client).await?;

    // The operator: started beside as many identities, until all are Ready.
    identities(&client, HERD, many).await?;
    let dir = TempDir::with_prefix("sallyport-bench-")?;
    let asked = requests(&client).await?;
    let (began, before) = (Instant::now(), ticks(server)?);
    let operator = Operator::start(&plane, &dir)?;
    operator.until(|page| sum(page, "certificates_issued_total") >= many as f64).await?;
    operator.until(|page| sum(page, "writes_total{kind=\"AgentIdentity/status\"}") >= many as f64).await?;
    let (ready, ready_cpu) = (began.elapsed(), ticks(server)? - before);
    let answered = requests(&client).await?;
    let list = api(&client, "AgentIdentity", "agentidentities", HERD).list(&ListParams::default()).await?;
    let all = list.items.iter().filter(|identity| is_ready(identity)).count();
    ensure!(all == many, "{all} of {many} are Ready");
    drop(list);
    let (rss_then, cpu) = (rss(operator.process.id())?, ticks(operator.process.id())?);

    println!("{many} identities on one API server, writes {AT_ONCE} at a time");
    // On a machine that does other things the second ratio says more.
    println!("| | seconds | ratio | processor time of the API server | ratio |");
    println!("|---|---|---|---|---|");
    println!(
        "| {many} Secrets and statuses written by a bare client | {:.1} | 1 | {:.1} | 1 |",
        alone.as_secs_f64(),
        alone_cpu as f64 / 100.0
    );
    println!(
        "| operator started until all identities are Ready | {:.1} | {:.2} | {:.1} | {:.2} |",
        ready.as_secs_f64(),
        ready.as_secs_f64() / alone.as_secs_f64(),
        ready_cpu as f64 / 100.0,
        ready_cpu as f64 / alone_cpu as f64
    );
    println!();
    println!(
        "the operator asked for {:.2} writes and {:.2} single reads of a Secret each",
        (answered.writes - asked.writes) / many as f64,
        (answered.gets - asked.gets) / many as f64
    );
    println!("operator then: {} MiB resident, {:.1} s of processor time", rss_then / 1024, cpu as f64 / 100.0);

    // A restart beside all of them.
    drop(operator);
    let before = requests(&client).await?;
    let began = Instant::now();
    let operator = Operator::start(&plane, &dir)?;
    operator.until(|page| sum(page, "reconciles_total{kind=\"AgentIdentity\"") >= many as f64).await?;
    let took = began.elapsed();
    // What it would write, it writes within moments of looking.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let after = requests(&client).await?;
    let rss_again = rss(operator.process.id())?;
    println!(
        "a restart beside them: all looked at after {:.1} s, {} writes, {} single reads and {} lists of Secrets, {} MiB",
        took.as_secs_f64(),
        after.writes - before.writes,
        after.gets - before.gets,
        after.lists - before.lists,
        rss_again / 1024
    );
    println!();
    drop(operator);
    renewals(&client, &plane).await
}

/// What a renewal's status write costs beside nobody, and beside watchers like the proxies.
async fn renewals(client: &Client, plane: &ControlPlane) -> Result<()> {
    identities(client, WATCHED, 100).await?;
    let server = api_server(plane)?;
    let write = async |base: usize| -> Result<(f64, f64)> {
        let (began, before) = (Instant::now(), ticks(server)?);
        let all = stream::iter(base..base + RENEWALS).map(Ok);
        all.try_for_each_concurrent(AT_ONCE, |n| status(client, WATCHED, n % 100, n)).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let cpu = (ticks(server)? - before) as f64 * 10.0 / RENEWALS as f64;
        Ok((cpu, began.elapsed().as_secs_f64()))
    };
    write(0).await?;
    let (without, _) = write(RENEWALS).await?;
    let bytes = Arc::new(AtomicU64::new(0));
    let mut watchers = tokio::task::JoinSet::<Result<()>>::new();
    let newest = api(client, "AgentIdentity", "agentidentities", WATCHED).list(&ListParams::default()).await?;
    let version = newest.metadata.resource_version.context("no version")?;
    for _ in 0..WATCHERS {
        let path = format!(
            "/apis/sallyport.dev/v1alpha1/namespaces/{WATCHED}/agentidentities?watch=true&resourceVersion={version}"
        );
        // A connection of its own each, as a process has.
        let (client, bytes) = (plane.client().await?, Arc::clone(&bytes));
        watchers.spawn(async move {
            let request = http::Request::get(path).body(Vec::new())?;
            let stream = client.request_stream(request).await?;
            futures::pin_mut!(stream);
            let mut buffer = vec![0; 1 << 16];
            loop {
                let read = stream.read(&mut buffer).await?;
                ensure!(read > 0, "a watch ended");
                bytes.fetch_add(read as u64, Ordering::Relaxed);
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    bytes.store(0, Ordering::Relaxed);
    let (with, _) = write(2 * RENEWALS).await?;
    let each = bytes.load(Ordering::Relaxed) as f64 / (WATCHERS * RENEWALS) as f64;
    ensure!(!watchers.is_empty() && each > 0.0, "nobody watched");
    let event = json!({"type": "MODIFIED", "object": api(client, "AgentIdentity", "agentidentities", WATCHED).get("agent-00000").await?});
    let text = serde_json::to_vec(&event)?;
    let began = Instant::now();
    for _ in 0..1000 {
        let read: Value = serde_json::from_slice(&text)?;
        ensure!(read.is_object(), "no object");
    }
    let decode = began.elapsed().as_micros() as f64 / 1000.0;
    println!("a renewal's status write: {without:.2} ms of the API server's processor time beside no watcher,");
    println!(
        "{with:.2} ms beside {WATCHERS}: {:.0} µs and {each:.0} bytes a watcher; {decode:.0} µs to parse (unoptimised)",
        (with - without) * 1000.0 / WATCHERS as f64
    );
    println!();
    Ok(())
}

struct Operator {
    process: Running,
    admin: u16,
}

impl Operator {
    fn start(plane: &ControlPlane, dir: &TempDir) -> Result<Self> {
        let admin = free_port()?.number();
        let mut command = Command::new(operator_binary()?);
        command
            .env("KUBECONFIG", plane.kubeconfig())
            .args(["--namespace", SYSTEM, "--proxy-image", "none", "--leader-elect", "false"])
            .args(["--admin", &format!("127.0.0.1:{admin}")]);
        Ok(Self { process: start(&mut command, dir, "operator")?, admin })
    }

    async fn page(&self) -> Option<String> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.admin)).await.ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await.ok()?;
        Some(page)
    }

    async fn until(&self, holds: impl Fn(&str) -> bool) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let page = self.page().await.unwrap_or_default();
            if holds(&page) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "the operator did not come to it:\n{page}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// The sum of a metric's samples whose line holds `what`.
fn sum(page: &str, what: &str) -> f64 {
    let lines = page.lines().filter(|line| !line.starts_with('#') && line.contains(what));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[derive(Debug, Clone, Copy)]
struct Requests {
    writes: f64,
    gets: f64,
    lists: f64,
}

/// What the API server has answered so far.
async fn requests(client: &Client) -> Result<Requests> {
    let page = client.request_text(http::Request::get("/metrics").body(Vec::new())?).await?;
    let of = |verbs: &[&str], resources: &[&str]| -> f64 {
        let lines = page.lines().filter(|line| {
            line.starts_with("apiserver_request_total{")
                && verbs.iter().any(|verb| line.contains(&format!("verb=\"{verb}\"")))
                && resources.iter().any(|resource| line.contains(&format!("resource=\"{resource}\"")))
        });
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    Ok(Requests {
        writes: of(&["POST", "PUT", "PATCH", "APPLY", "DELETE"], &["secrets", "agentidentities", "events"]),
        gets: of(&["GET"], &["secrets"]),
        lists: of(&["LIST"], &["secrets"]),
    })
}

fn is_ready(identity: &DynamicObject) -> bool {
    let conditions = identity.data.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn name(n: usize) -> String {
    format!("agent-{n:05}")
}

async fn identities(client: &Client, namespace: &str, many: usize) -> Result<()> {
    let api = api(client, "AgentIdentity", "agentidentities", namespace);
    let create = async |n| {
        let identity = json!({
            "apiVersion": "sallyport.dev/v1alpha1", "kind": "AgentIdentity",
            "metadata": {"name": name(n)}, "spec": {"groups": ["herd"]},
        });
        api.create(&PostParams::default(), &serde_json::from_value(identity)?).await?;
        anyhow::Ok(())
    };
    stream::iter(0..many).map(Ok).try_for_each_concurrent(2 * AT_ONCE, create).await
}

/// What the operator writes for one identity, in size and kind.
async fn raw(client: &Client, n: usize) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), RAW);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {
            "name": format!("{}-mtls", name(n)),
            "labels": {"app.kubernetes.io/managed-by": "sallyport"},
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Namespace", "name": RAW, "uid": format!("{n:036}"), "controller": true,
            }],
        },
        "stringData": {"tls.crt": "c".repeat(850), "tls.key": "k".repeat(241), "ca.crt": "a".repeat(650)},
    });
    secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
    status(client, RAW, n, n).await
}

async fn status(client: &Client, namespace: &str, n: usize, serial: usize) -> Result<()> {
    let condition = |type_: &str, message: String| {
        json!({
            "type": type_, "status": "True", "reason": type_, "message": message, "observedGeneration": 1,
            "lastTransitionTime": "2026-11-23T10:00:00Z",
        })
    };
    let name = name(n);
    let issued = format!("certificate {serial:032x} is in Secret {name}-mtls");
    let status = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AgentIdentity", "metadata": {"name": name},
        "status": {
            "spiffeId": format!("spiffe://cluster.local/ns/{namespace}/agent/{name}"),
            "serial": format!("{serial:032x}"), "secretName": format!("{name}-mtls"),
            "notBefore": "2026-11-23T10:00:00Z", "notAfter": "2026-11-23T11:00:00Z",
            "renewalTime": "2026-11-23T10:35:00Z",
            "conditions": [
                condition("Accepted", "the spec is valid".into()), condition("Issued", issued),
                condition("Ready", "it can be used".into()),
            ],
        },
    });
    let identities = api(client, "AgentIdentity", "agentidentities", namespace);
    identities.patch_status(&name, &PatchParams::apply("sallyport").force(), &Patch::Apply(&status)).await?;
    Ok(())
}

/// Takes the raw objects away again: the operator is to meet its own alone.
async fn clear(client: &Client) -> Result<()> {
    let identities = api(client, "AgentIdentity", "agentidentities", RAW);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), RAW);
    let _ = identities.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    let _ = secrets.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    let until = Instant::now() + PATIENCE;
    let one = ListParams::default().limit(1);
    while !identities.list(&one).await?.items.is_empty() || !secrets.list(&one).await?.items.is_empty() {
        ensure!(Instant::now() < until, "the raw objects stay");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// The process id of this control plane's API server, by what it was started with.
fn api_server(plane: &ControlPlane) -> Result<u32> {
    let home = plane.kubeconfig().parent().and_then(Path::to_str).context("no folder")?;
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        if line.contains("kube-apiserver") && line.contains(home) {
            let id = path.file_name().and_then(|name| name.to_str()).context("no id")?;
            return Ok(id.parse()?);
        }
    }
    anyhow::bail!("no kube-apiserver of {home}")
}
