//! A real control plane with an operator in it, for stories.
//!
//! Owns the start and stop of both. Touches the harness's API server. Invariant: a story has a control
//! plane of its own, and its operator has the rights that `config/rbac` gives and no others.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::client::Body;
use kube::core::{DynamicObject, GroupVersionKind};
use kube::{Client, ResourceExt, discovery};
use sallyport_harness::ControlPlane;
use sallyport_operator::{Config, run};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Stories take turns, two at a time: each has a control plane of its own, waits half of the time, and the machine has few cores.
static TURN: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(2);
const SYSTEM: &str = "sallyport-system";
/// A condition that is not true by then never will be.
const LIMIT: Duration = Duration::from_secs(60);

pub struct Stage {
    pub plane: ControlPlane,
    pub client: Client,
    _turn: tokio::sync::SemaphorePermit<'static>,
}

/// An operator of this process.
pub struct Operator {
    task: JoinHandle<anyhow::Result<()>>,
    stop: CancellationToken,
    pub writes: Arc<AtomicUsize>,
    pub log: Arc<std::sync::Mutex<Vec<String>>>,
    /// Paths it has read or watched.
    pub reads: Arc<std::sync::Mutex<std::collections::BTreeSet<String>>>,
}

impl Stage {
    pub async fn new() -> Self {
        Self::on(ControlPlane::start).await
    }

    /// One on a cluster with these features of Kubernetes switched off.
    pub async fn without(features: &[&str]) -> Self {
        Self::on(|| ControlPlane::start_without(features)).await
    }

    async fn on<F: Future<Output = anyhow::Result<ControlPlane>>>(start: impl FnOnce() -> F) -> Self {
        let turn = TURN.acquire().await.unwrap();
        let plane = start().await.unwrap();
        let client = plane.client().await.unwrap();
        let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/default");
        let applied = plane.kubectl().args(["apply", "-k", config]).output().unwrap();
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
        plane.apply_crds().await.unwrap();
        let stage = Self { plane, client, _turn: turn };
        // The operator of this process stands in for its pods.
        stage.delete("apps/v1", "Deployment", SYSTEM, "sallyport-operator").await;
        for namespace in ["ci", "prod"] {
            stage.apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}")).await;
        }
        stage
    }

    /// An operator with the rights of its service account.
    pub async fn operator(&self) -> Operator {
        self.operator_that_fails_after(i64::MAX).await
    }

    /// One that cannot reach the API server any more after that many writes: as if killed between two of them.
    pub async fn operator_that_fails_after(&self, writes: i64) -> Operator {
        let user = format!("system:serviceaccount:{SYSTEM}:sallyport-operator");
        let inner = self.plane.user_client(&user, &["system:serviceaccounts", "system:authenticated"]).await.unwrap();
        let (count, left) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicI64::new(writes)));
        let log = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (counted, logged) = (Arc::clone(&count), Arc::clone(&log));
        let reads = Arc::<std::sync::Mutex<std::collections::BTreeSet<String>>>::default();
        let noted = Arc::clone(&reads);
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let (inner, counted, left, logged) =
                (inner.clone(), Arc::clone(&counted), Arc::clone(&left), Arc::clone(&logged));
            let noted = Arc::clone(&noted);
            async move {
                let path = request.uri().path().to_owned();
                let is_write =
                    request.method() != http::Method::GET && !path.contains("/events") && !path.contains("/leases");
                if request.method() == http::Method::GET {
                    noted.lock().unwrap().insert(path.clone());
                }
                if is_write {
                    if left.fetch_sub(1, Ordering::SeqCst) <= 0 {
                        return Err(tower::BoxError::from("the test cut the line"));
                    }
                    counted.fetch_add(1, Ordering::SeqCst);
                    logged.lock().unwrap().push(format!("{} {path}", request.method()));
                }
                inner.send(request).await.map_err(tower::BoxError::from)
            }
        });
        let client = Client::new(service, SYSTEM);
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(config(None), client, stop.clone()));
        Operator { task, stop, writes: count, log, reads }
    }

    pub async fn apply(&self, yaml: &str) -> DynamicObject {
        self.try_apply(yaml).await.unwrap()
    }

    pub async fn try_apply(&self, yaml: &str) -> kube::Result<DynamicObject> {
        let value: Value = serde_saphyr::from_str(yaml).unwrap();
        let object: DynamicObject = serde_json::from_value(value.clone()).unwrap();
        let api = self.api_of(&object).await;
        api.patch(&object.name_any(), &PatchParams::apply("a-person").force(), &Patch::Apply(&value)).await
    }

    /// Makes an object as a person does; what kubectl says when it is refused.
    pub fn kubectl_create(&self, yaml: &str) -> Result<(), String> {
        self.kubectl(&["create", "-f", "-"], yaml)
    }

    /// Asks the API server whether it would take an object.
    pub fn would_create(&self, yaml: &str) -> Result<(), String> {
        self.kubectl(&["create", "--dry-run=server", "-f", "-"], yaml)
    }

    /// Asks the API server whether it would take a change of an object.
    pub fn kubectl_apply_would(&self, yaml: &str) -> Result<(), String> {
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"], yaml)
    }

    fn kubectl(&self, arguments: &[&str], yaml: &str) -> Result<(), String> {
        use std::io::Write;
        let mut kubectl = self.plane.kubectl();
        kubectl.args(arguments);
        let pipe = std::process::Stdio::piped;
        let mut running = kubectl.stdin(pipe()).stdout(pipe()).stderr(pipe()).spawn().unwrap();
        running.stdin.take().unwrap().write_all(yaml.as_bytes()).unwrap();
        let output = running.wait_with_output().unwrap();
        if output.status.success() { Ok(()) } else { Err(String::from_utf8(output.stderr).unwrap()) }
    }

    /// Applies every document of a text.
    pub async fn apply_all(&self, documents: &[&str]) {
        for document in documents {
            self.apply(document).await;
        }
    }

    pub async fn get(&self, version: &str, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let api = self.api(version, kind, namespace).await;
        api.get_opt(name).await.unwrap().map(|object| serde_json::to_value(object).unwrap())
    }

    pub async fn delete(&self, version: &str, kind: &str, namespace: &str, name: &str) {
        let api = self.api(version, kind, namespace).await;
        api.delete(name, &DeleteParams::background()).await.unwrap();
    }

    /// Waits until `holds` says so of the object.
    pub async fn until(
        &self,
        version: &str,
        kind: &str,
        namespace: &str,
        name: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> Value {
        let api = self.api(version, kind, namespace).await;
        let start = tokio::time::Instant::now();
        let mut last = None;
        while start.elapsed() < LIMIT {
            last = api.get_opt(name).await.unwrap().map(|object| serde_json::to_value(object).unwrap());
            if let Some(value) = last.as_ref().filter(|value| holds(value)) {
                return value.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{kind} {namespace}/{name} never came to be so: {}", self.told(last.as_ref()));
    }

    /// What a failure needs: what is told of the object, and what the controllers beside us did last.
    fn told(&self, object: Option<&Value>) -> String {
        let status = object.map(|object| format!("{:#}", object["status"])).unwrap_or("it is not there".into());
        let log = self.plane.kubeconfig().with_file_name("kube-controller-manager.log");
        let log = std::fs::read_to_string(log).unwrap_or_default();
        let tail: Vec<_> = log.lines().rev().take(12).collect();
        let tail: Vec<_> = tail.into_iter().rev().map(|line| line.chars().take(300).collect::<String>()).collect();
        format!("{status}\nkube-controller-manager, last:\n{}", tail.join("\n"))
    }

    /// Waits for an event about an object whose note says `holds`, and returns the note.
    pub async fn event(&self, namespace: &str, about: (&str, &str), reason: &str, holds: &str) -> String {
        let api = self.api("events.k8s.io/v1", "Event", namespace).await;
        let note = |event: DynamicObject| {
            let regarding = &event.data["regarding"];
            let it = regarding["kind"] == about.0 && regarding["name"] == about.1 && event.data["reason"] == reason;
            event.data["note"].as_str().filter(|note| it && note.contains(holds)).map(str::to_owned)
        };
        let what = format!("the event {reason} about {about:?} that says {holds:?}");
        until(&what, async || api.list(&ListParams::default()).await.unwrap().items.into_iter().find_map(note)).await
    }

    pub async fn until_gone(&self, version: &str, kind: &str, namespace: &str, name: &str) {
        let start = tokio::time::Instant::now();
        while self.get(version, kind, namespace, name).await.is_some() {
            assert!(start.elapsed() < LIMIT, "{kind} {namespace}/{name} was never deleted");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn api(&self, version: &str, kind: &str, namespace: &str) -> Api<DynamicObject> {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let (resource, capabilities) = discovery::pinned_kind(&self.client, &gvk).await.unwrap();
        match capabilities.scope {
            discovery::Scope::Namespaced => Api::namespaced_with(self.client.clone(), namespace, &resource),
            discovery::Scope::Cluster => Api::all_with(self.client.clone(), &resource),
        }
    }

    async fn api_of(&self, object: &DynamicObject) -> Api<DynamicObject> {
        let types = object.types.clone().unwrap();
        self.api(&types.api_version, &types.kind, &object.namespace().unwrap_or_default()).await
    }
}

impl Operator {
    /// Waits until it has written nothing for a second.
    pub async fn at_rest(&self) -> usize {
        let mut last = usize::MAX;
        loop {
            let now = self.writes.load(Ordering::SeqCst);
            if now == last {
                return now;
            }
            last = now;
            tokio::time::sleep(Duration::from_millis(1000)).await;
        }
    }

    /// Stops it as a signal would.
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Ends it where it stands.
    pub fn kill(self) {
        self.task.abort();
    }
}

/// Waits until there is what `look` looks for. Longer than for one object: it may be about many.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = tokio::time::Instant::now();
    while start.elapsed() < 3 * LIMIT / 2 {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what} never came to be so");
}

pub fn config(lease_holder: Option<&str>) -> Config {
    Config {
        settings: sallyport_operator::derive::Settings {
            trust_domain: "cluster.local".into(),
            cluster_domain: "cluster.local".into(),
            proxy_image: "sallyport-proxy:dev".into(),
            since: k8s_openapi::jiff::Timestamp::MIN,
        },
        ca_secret: "sallyport-ca".into(),
        namespace: SYSTEM.into(),
        lease_holder: lease_holder.map(str::to_owned),
        admin: None,
    }
}

/// `status` and `reason` of a condition.
pub fn condition(object: &Value, type_: &str) -> Option<(String, String)> {
    find(object.pointer("/status/conditions")?, type_)
}

/// The same of a policy on its first target.
pub fn ancestor(policy: &Value, type_: &str) -> Option<(String, String)> {
    find(policy.pointer("/status/ancestors/0/conditions")?, type_)
}

fn find(conditions: &Value, type_: &str) -> Option<(String, String)> {
    let found = conditions.as_array()?.iter().find(|condition| condition["type"] == type_)?;
    Some((found["status"].as_str()?.to_owned(), found["reason"].as_str()?.to_owned()))
}

pub fn is(found: Option<(String, String)>, status: &str, reason: &str) -> bool {
    found == Some((status.to_owned(), reason.to_owned()))
}

pub const IDENTITY: &str = "
apiVersion: sallyport.dev/v1alpha1
kind: AgentIdentity
metadata: {name: migration-bot, namespace: ci}
spec: {groups: [migrations]}
";
pub const TARGET: &str = "
apiVersion: sallyport.dev/v1alpha1
kind: ProtectedTarget
metadata: {name: orders-db, namespace: prod}
spec:
  postgres: {host: postgres.db.svc}
  tls: {mode: VerifyFull, caBundleRef: {kind: Secret, name: orders-ca}}
  credentials: [{name: default, secretRef: {name: orders-db-credentials}}]
";
pub const POLICY: &str = "
apiVersion: sallyport.dev/v1alpha1
kind: AccessPolicy
metadata: {name: migrations, namespace: prod}
spec:
  targetRefs: [{name: orders-db}]
  subjects: [{group: {namespace: ci, name: migrations}}]
  rules:
  - {name: read, action: Allow, postgres: {statements: [Select], tables: [public.orders]}}
  - {name: bounded, action: Deny, message: a write needs a WHERE clause, postgres: {statements: [Update, Delete], where: Absent}}
";
pub const CREDENTIALS: &str = "
apiVersion: v1
kind: Secret
metadata: {name: orders-db-credentials, namespace: prod}
stringData: {username: app, password: hunter2-is-a-secret}
";
pub const CA: &str = "
apiVersion: v1
kind: Secret
metadata: {name: orders-ca, namespace: prod}
stringData: {ca.crt: a-ca-bundle}
";
pub const ALL: [&str; 5] = [CREDENTIALS, CA, IDENTITY, TARGET, POLICY];
pub const OURS: &str = "sallyport.dev/v1alpha1";
