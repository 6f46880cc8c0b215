//! Two operators: one leads, the other stands by with warm caches.
//!
//! Runs operators, as processes and in this one, against a real API server. Invariant of all stories: every identity
//! gets its certificate once, whatever happens to whom in the middle; a watch counts every write of a Secret.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::client::Body;
use kube::{Client, ResourceExt};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};
use support::{IDENTITY, OURS, Stage, condition, config, is, until};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

const USER: &str = "system:serviceaccount:sallyport-system:sallyport-operator";
const GROUPS: &[&str] = &["system:serviceaccounts", "system:authenticated"];
const LEASE: (&str, &str, &str, &str) = ("coordination.k8s.io/v1", "Lease", "sallyport-system", "sallyport-operator");
/// What the next leader may take from the death of the one before.
const TAKEOVER: Duration = Duration::from_secs(20);

/// An operator as a process of its own.
struct Process(Child);

impl Process {
    fn start(stage: &Stage, pod: &str) -> Self {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_sallyport-operator")])
            .args(["--namespace", "sallyport-system", "--proxy-image", "none", "--pod-name", pod])
            .args(["--admin", "127.0.0.1:0", "--log", "warn"])
            .env("KUBECONFIG", stage.plane.user_kubeconfig(USER, GROUPS).unwrap());
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill(nix::unistd::Pid::from_raw(self.0.id().try_into().unwrap()), signal).unwrap();
    }

    async fn ended(&mut self) -> ExitStatus {
        until("its end", async || self.0.try_wait().unwrap()).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// Every write of a Secret in a namespace, in the order the API server made them.
struct Ledger {
    written: Arc<Mutex<Vec<Secret>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Ledger {
    async fn open(client: &Client, namespace: &str) -> Self {
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let list = api.list(&ListParams::default()).await.unwrap();
        let from = list.metadata.resource_version.unwrap();
        let mut events = api.watch(&WatchParams::default().timeout(290), &from).await.unwrap().boxed();
        let written = Arc::new(Mutex::new(list.items));
        let book = Arc::clone(&written);
        let task = tokio::spawn(async move {
            while let Some(event) = events.try_next().await.unwrap() {
                match event {
                    WatchEvent::Added(secret) | WatchEvent::Modified(secret) => book.lock().unwrap().push(secret),
                    WatchEvent::Bookmark(_) => {}
                    other => panic!("the ledger has a gap: {other:?}"),
                }
            }
            panic!("the ledger was closed too early");
        });
        Self { written, task }
    }

    fn len(&self) -> usize {
        assert!(!self.task.is_finished(), "the ledger is not kept any more");
        self.written.lock().unwrap().len()
    }

    /// Serial numbers by name, of Secrets each of which was written once.
    fn each_once(&self) -> BTreeMap<String, String> {
        assert!(!self.task.is_finished(), "the ledger is not kept any more");
        let mut serials = BTreeMap::new();
        for secret in self.written.lock().unwrap().iter() {
            let before = serials.insert(secret.name_any(), serial(secret));
            assert_eq!(before, None, "{} was written twice", secret.name_any());
        }
        assert_eq!(serials.values().collect::<BTreeSet<_>>().len(), serials.len(), "a serial number twice");
        serials
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The serial number of the certificate in a Secret.
fn serial(secret: &Secret) -> String {
    let ByteString(pem) = &secret.data.as_ref().unwrap()["tls.crt"];
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).unwrap();
    let certificate = pem.parse_x509().unwrap();
    certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes identities as somebody in a hurry does.
async fn make(api: Api<DynamicObject>, names: Vec<String>) {
    let made = names.into_iter().map(|name| {
        let api = api.clone();
        let identity = json!({"apiVersion": OURS, "kind": "AgentIdentity", "metadata": {"name": name}, "spec": {}});
        async move { api.create(&PostParams::default(), &serde_json::from_value(identity).unwrap()).await.unwrap() }
    });
    stream::iter(made).buffer_unordered(16).for_each(|_| async {}).await;
}

/// Waits until every identity is Ready; their serial numbers by the names of their Secrets.
async fn all_ready(api: &Api<DynamicObject>, count: usize) -> BTreeMap<String, String> {
    until("all of them Ready", async || {
        let list = api.list(&ListParams::default()).await.unwrap();
        let told: BTreeMap<_, _> = list
            .items
            .iter()
            .map(|object| serde_json::to_value(object).unwrap())
            .filter(|object| is(condition(object, "Ready"), "True", "Ready"))
            .map(|o| {
                let text = |field: &str| o["status"][field].as_str().unwrap().to_owned();
                (text("secretName"), text("serial"))
            })
            .collect();
        (told.len() == count).then_some(told)
    })
    .await
}

fn holder(lease: &Value) -> String {
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

/// Waits until an operator of that pod leads.
async fn leads(stage: &Stage, pod: &str) {
    let prefix = format!("{pod}_");
    stage.until(LEASE.0, LEASE.1, LEASE.2, LEASE.3, |lease| holder(lease).starts_with(&prefix)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_killed_or_frozen_while_it_issues_is_followed_and_nobody_is_issued_twice() {
    let stage = Stage::new().await;
    let identities = stage.api(OURS, "AgentIdentity", "ci").await;
    let names = |from: usize, to: usize| (from..to).map(|n| format!("bot-{n:03}")).collect::<Vec<_>>();
    let mut first = Process::start(&stage, "one");
    leads(&stage, "one").await;
    let mut second = Process::start(&stage, "two");
    let ledger = Ledger::open(&stage.client, "ci").await;

    // Killed: nothing is released, nothing is finished.
    let making = tokio::spawn(make(identities.clone(), names(0, 200)));
    until("the Secrets written", async || (ledger.len() >= 40).then_some(())).await;
    first.signal(Signal::SIGKILL);
    let killed = Instant::now();
    first.ended().await;
    let written = ledger.len();
    assert!(written < 200, "it was killed too late to show anything: {written} of 200");
    leads(&stage, "two").await;
    let taken_over = killed.elapsed();
    let told = all_ready(&identities, 200).await;
    println!(
        "killed after {written} of 200: the next led after {taken_over:.1?}, all Ready after {:.1?}",
        killed.elapsed()
    );
    assert!(taken_over <= TAKEOVER, "{taken_over:?}");
    making.await.unwrap();
    assert_eq!(ledger.each_once(), told, "what is told is what was issued, once each");

    // Frozen, as by a machine that stands still: it goes on where it stood, and another leads by then.
    let third = Process::start(&stage, "three");
    let making = tokio::spawn(make(identities.clone(), names(200, 400)));
    until("the Secrets written", async || (ledger.len() >= 240).then_some(())).await;
    second.signal(Signal::SIGSTOP);
    let frozen = Instant::now();
    leads(&stage, "three").await;
    let taken_over = frozen.elapsed();
    println!("frozen after {} of 400: the next led after {taken_over:.1?}", ledger.len());
    assert!(taken_over <= TAKEOVER, "{taken_over:?}");
    second.signal(Signal::SIGCONT);
    let status = second.ended().await;
    assert!(!status.success(), "who lost the lease ends with an error: {status}");
    let told = all_ready(&identities, 400).await;
    making.await.unwrap();
    assert_eq!(ledger.each_once(), told, "what is told is what was issued, once each");
    drop(third);
}

/// An operator of this process.
fn operator(client: Client, lease_holder: Option<&str>, stop: &CancellationToken) -> Running {
    tokio::spawn(sallyport_operator::run(config(lease_holder), client, stop.clone()))
}

type Running = tokio::task::JoinHandle<anyhow::Result<()>>;

async fn client(stage: &Stage) -> Client {
    stage.plane.user_client(USER, GROUPS).await.unwrap()
}

fn is_issue(request: &http::Request<Body>) -> bool {
    request.method() == http::Method::POST && request.uri().path().ends_with("/namespaces/ci/secrets")
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_the_secret_and_the_status_the_next_one_tells_of_that_certificate() {
    let stage = Stage::new().await;
    let ledger = Ledger::open(&stage.client, "ci").await;
    let (inner, dead) = (client(&stage).await, Arc::new(AtomicBool::new(false)));
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (inner, dead, issues) = (inner.clone(), Arc::clone(&dead), is_issue(&request));
        async move {
            if dead.load(Ordering::SeqCst) {
                return Err(tower::BoxError::from("the test cut the line"));
            }
            let answer = inner.send(request).await.map_err(tower::BoxError::from);
            dead.fetch_or(issues, Ordering::SeqCst);
            answer
        }
    });
    let broken = operator(Client::new(service, "sallyport-system"), None, &CancellationToken::new());
    stage.apply(IDENTITY).await;
    until("the Secrets written", async || (ledger.len() == 1).then_some(())).await;
    broken.abort();
    let identity = stage.get(OURS, "AgentIdentity", "ci", "migration-bot").await.unwrap();
    assert!(identity["status"]["serial"].is_null(), "the status was written, this shows nothing");
    let next = stage.operator().await;
    let told = all_ready(&stage.api(OURS, "AgentIdentity", "ci").await, 1).await;
    next.at_rest().await;
    assert_eq!(ledger.each_once(), told);
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_lost_does_not_issue_twice() {
    let stage = Stage::new().await;
    let ledger = Ledger::open(&stage.client, "ci").await;
    let (inner, lost) = (client(&stage).await, Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&lost);
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (inner, lost, issues) = (inner.clone(), Arc::clone(&counted), is_issue(&request));
        async move {
            let answer = inner.send(request).await.map_err(tower::BoxError::from)?;
            // Woken before its watch told of the Secret, it may try again: that is refused, and issues nothing.
            if issues && answer.status().is_success() && lost.fetch_add(1, Ordering::SeqCst) == 0 {
                return Err(tower::BoxError::from("the test lost the answer"));
            }
            Ok(answer)
        }
    });
    let stop = CancellationToken::new();
    let running = operator(Client::new(service, "sallyport-system"), None, &stop);
    stage.apply(IDENTITY).await;
    let told = all_ready(&stage.api(OURS, "AgentIdentity", "ci").await, 1).await;
    assert_eq!(lost.load(Ordering::SeqCst), 1, "it wrote the Secret once and found it afterwards");
    assert_eq!(ledger.each_once(), told);
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_loses_the_lease_ends_and_writes_nothing_after() {
    let stage = Stage::new().await;
    let (inner, writes) = (client(&stage).await, Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&writes);
    // Slow, so that it is in the middle of its work when it loses the lease.
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (inner, counted) = (inner.clone(), Arc::clone(&counted));
        async move {
            if request.method() != http::Method::GET && !request.uri().path().contains("/leases") {
                sleep(Duration::from_millis(200)).await;
                counted.fetch_add(1, Ordering::SeqCst);
            }
            inner.send(request).await.map_err(tower::BoxError::from)
        }
    });
    let stop = CancellationToken::new();
    let running = operator(Client::new(service, "sallyport-system"), Some("one"), &stop);
    stage.until(LEASE.0, LEASE.1, LEASE.2, LEASE.3, |lease| holder(lease) == "one").await;
    let identities = stage.api(OURS, "AgentIdentity", "ci").await;
    make(identities.clone(), (0..300).map(|n| format!("bot-{n:03}")).collect()).await;
    until("twenty writes", async || (writes.load(Ordering::SeqCst) > 20).then_some(())).await;
    let lease = stage.api(LEASE.0, LEASE.1, LEASE.2).await;
    let taken = json!({"spec": {"holderIdentity": "another"}});
    lease.patch(LEASE.3, &PatchParams::default(), &Patch::Merge(&taken)).await.unwrap();
    let ended = timeout(Duration::from_secs(20), running).await.expect("it must end").unwrap();
    assert!(ended.unwrap_err().to_string().contains("lease"));
    let at_the_end = writes.load(Ordering::SeqCst);
    let ready =
        |object: &DynamicObject| is(condition(&serde_json::to_value(object).unwrap(), "Ready"), "True", "Ready");
    let list = identities.list(&ListParams::default()).await.unwrap();
    assert!(!list.items.iter().all(ready), "there was nothing left to write, this shows nothing");
    // Five times what any write that was under way would have taken.
    sleep(Duration::from_secs(1)).await;
    assert_eq!(writes.load(Ordering::SeqCst), at_the_end, "written after the lease was lost");
}
