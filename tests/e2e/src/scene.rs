//! One story's world: a namespace with a guarded database, and a namespace with the agent that may use it.
//! It makes these two namespaces, a database of its own on the stage's server, and what a person would apply.
//! Both namespaces enforce the restricted Pod Security standard; both go when the scene ends.

use std::fmt::Debug;
use std::sync::Arc;

use anyhow::{Context, Result};
use base64::Engine as _;
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use sallyport_crds::{AccessPolicy, AgentIdentity, ProtectedTarget};
use sallyport_harness::{TempNamespace, temp_namespace};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::psql::{Agent, PLAIN, Session, certificate};
use crate::stage::{DATABASE, Stage, stage, text};
use crate::wait::{eventually, holds, watched};

/// The rules of the README: reading, and bounded writes to orders.
pub const POLICY: &str = r#"[
  {"name": "read", "action": "Allow", "postgres": {"statements": ["Select"], "tables": ["public.orders", "public.customers"]}},
  {"name": "write-orders", "action": "Allow", "postgres": {"statements": ["Insert", "Update", "Delete"], "tables": ["public.orders"]}},
  {"name": "no-unbounded-writes", "action": "Deny", "message": "a write needs a WHERE clause",
   "postgres": {"statements": ["Update", "Delete"], "where": "Absent"}}
]"#;

/// A database with sample data, and the one role that may log in to it.
#[derive(Clone)]
pub struct Workload {
    pub database: String,
    pub role: String,
    pub password: String,
}

impl Debug for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workload").field("role", &self.role).finish_non_exhaustive()
    }
}

/// The namespaces of one story and what is in them.
pub struct Scene {
    pub stage: &'static Stage,
    pub client: Client,
    /// Where the target and its policy are.
    pub shop: String,
    /// Where the agent is.
    pub ci: String,
    pub workload: Workload,
    _namespaces: [TempNamespace; 2],
}

impl Debug for Scene {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scene").field("shop", &self.shop).field("ci", &self.ci).finish_non_exhaustive()
    }
}

impl Scene {
    /// The database, its credential and nothing of Sallyport yet.
    pub async fn set(name: &str) -> Result<Self> {
        let stage = stage().await?;
        let client = stage.cluster.client().await?;
        let shop = temp_namespace(&client, &format!("{name}-shop")).await?;
        let ci = temp_namespace(&client, &format!("{name}-ci")).await?;
        let namespaces = [shop.name(), ci.name()];
        stage.kubectl(&[
            "label",
            "namespace",
            namespaces[0],
            namespaces[1],
            "pod-security.kubernetes.io/enforce=restricted",
        ])?;
        let workload = workload(stage, shop.name()).await?;
        stage.cluster.expose_host_service(shop.name(), "db", 5432, stage.postgres.port()).await?;
        let [shop_name, ci_name] = namespaces.map(str::to_owned);
        let scene = Self { stage, client, shop: shop_name, ci: ci_name, workload, _namespaces: [shop, ci] };
        scene.apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "namespace": scene.shop, "name": "orders-ca" },
            "stringData": { "ca.crt": stage.postgres.ca_pem() },
        }))?;
        scene.credential(&scene.workload.password)?;
        Ok(scene)
    }

    /// The scene with all three objects applied and in force, before `replicas` proxies.
    pub async fn open(name: &str, replicas: u32) -> Result<Self> {
        let scene = Self::set(name).await?;
        scene.identity(&scene.ci, &["migrations"])?;
        scene.target(replicas)?;
        scene.policy(POLICY)?;
        scene.in_force().await?;
        Ok(scene)
    }

    /// Writes the target's credential.
    pub fn credential(&self, password: &str) -> Result<()> {
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "namespace": self.shop, "name": "orders-db" },
            "stringData": { "username": self.workload.role, "password": password },
        }))
    }

    /// Applies the identity `bot` in a namespace.
    pub fn identity(&self, namespace: &str, groups: &[&str]) -> Result<()> {
        self.apply(&json!({
            "apiVersion": "sallyport.dev/v1alpha1", "kind": "AgentIdentity",
            "metadata": { "namespace": namespace, "name": "bot" }, "spec": { "groups": groups, "suspend": false },
        }))
    }

    /// Applies the target `orders-db`.
    pub fn target(&self, replicas: u32) -> Result<()> {
        self.target_that_records(replicas, &json!({}))
    }

    /// The same with these demands on its records.
    pub fn target_that_records(&self, replicas: u32, recording: &Value) -> Result<()> {
        self.apply(&json!({
            "apiVersion": "sallyport.dev/v1alpha1", "kind": "ProtectedTarget",
            "metadata": { "namespace": self.shop, "name": "orders-db" },
            "spec": {
                "postgres": { "host": format!("db.{}.svc", self.shop), "port": 5432 },
                "tls": { "mode": "VerifyFull", "serverName": DATABASE, "caBundleRef": { "kind": "Secret", "name": "orders-ca" } },
                "credentials": [{ "name": "default", "secretRef": { "name": "orders-db" } }],
                "proxy": { "replicas": replicas },
                "recording": recording,
            },
        }))
    }

    /// Applies the policy `orders` with these rules, for the group `migrations` of the agent's namespace.
    pub fn policy(&self, rules: &str) -> Result<()> {
        self.apply(&json!({
            "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessPolicy",
            "metadata": { "namespace": self.shop, "name": "orders" },
            "spec": {
                "targetRefs": [{ "name": "orders-db" }],
                "subjects": [{ "group": { "namespace": self.ci, "name": "migrations" } }],
                "rules": serde_json::from_str::<Value>(rules)?,
            },
        }))
    }

    /// Waits until the identity is issued, the fleet is ready and every replica runs the policy as it is now.
    pub async fn in_force(&self) -> Result<()> {
        let ready = |object: Option<&Value>| holds(object, "Ready");
        self.until::<AgentIdentity>(&self.ci, "bot", "Ready", ready).await?;
        self.until::<ProtectedTarget>(&self.shop, "orders-db", "Ready", ready).await?;
        self.programmed().await?;
        self.reachable().await
    }

    /// Waits until the node's rules know the fleet's Service: a moment after its first replica is ready.
    async fn reachable(&self) -> Result<()> {
        let (host, port) = self.endpoint()?;
        eventually("a connection by the Service's name", || async {
            let script = format!("exec 3<>/dev/tcp/{host}/{port}");
            let output = self.stage.cluster.command("bash")?.args(["-c", &script]).output()?;
            Ok(output.status.success().then_some(()))
        })
        .await
    }

    /// Waits until every replica runs the policy as it is now.
    pub async fn programmed(&self) -> Result<()> {
        let programmed = |object: Option<&Value>| holds(object, "Programmed");
        self.until::<AccessPolicy>(&self.shop, "orders", "Programmed", programmed).await
    }

    /// Watches an object until it is as told.
    pub async fn until<K>(
        &self,
        namespace: &str,
        name: &str,
        what: &str,
        is: impl Fn(Option<&Value>) -> bool,
    ) -> Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + Send + Serialize + DeserializeOwned + 'static,
        K::DynamicType: Default,
    {
        watched(Api::<K>::namespaced(self.client.clone(), namespace), name, what, is).await
    }

    /// The agent with the certificate that its Secret holds now.
    pub fn agent(&self) -> Result<Arc<Agent>> {
        self.agent_of(&self.ci)
    }

    /// The agent `bot` of another namespace, at this scene's door.
    pub fn agent_of(&self, namespace: &str) -> Result<Arc<Agent>> {
        let secret = self.get(namespace, "secret/bot-mtls")?;
        let mut files = Vec::new();
        for name in ["tls.crt", "tls.key", "ca.crt"] {
            let data = secret.get("data").and_then(|data| data.get(name)).and_then(Value::as_str);
            let data = data.with_context(|| format!("the Secret has no {name}"))?;
            files.push((name, base64::engine::general_purpose::STANDARD.decode(data)?));
        }
        Ok(Arc::new(Agent::new(self.stage.cluster, self.door()?, &files)?))
    }

    /// Host, port and database as libpq spells them, from what the target's status tells.
    pub fn door(&self) -> Result<String> {
        let (host, port) = self.endpoint()?;
        Ok(format!("host={host} port={port} dbname={}", self.workload.database))
    }

    fn endpoint(&self) -> Result<(String, u16)> {
        let target = self.get(&self.shop, "protectedtarget/orders-db")?;
        let endpoint = target.pointer("/status/endpoint").and_then(Value::as_str).unwrap_or_default();
        let (host, port) = endpoint.rsplit_once(':').context("the target's status has no endpoint")?;
        Ok((host.to_owned(), port.parse()?))
    }

    /// Starts the agent's pod, with the identity's Secret mounted and nothing else.
    pub fn start_pod(&self) -> Result<()> {
        self.start_pod_with("agent", "bot-mtls")
    }

    /// Starts a pod that is called and labelled `app`, with another Secret mounted where the agent's has its own.
    pub fn start_pod_with(&self, app: &str, secret: &str) -> Result<()> {
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": self.ci, "name": app, "labels": { "app": app } },
            "spec": {
                "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
                "securityContext": { "runAsNonRoot": true, "fsGroup": 65532, "seccompProfile": { "type": "RuntimeDefault" } },
                "containers": [{
                    "name": "agent", "image": "sallyport/tools:dev", "imagePullPolicy": "IfNotPresent", "command": ["sleep", "10000"],
                    "env": [{ "name": "HOME", "value": "/tmp" }],
                    "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "readOnlyRootFilesystem": true },
                    "volumeMounts": [{ "name": "identity", "mountPath": "/identity", "readOnly": true }, { "name": "tmp", "mountPath": "/tmp" }],
                }],
                "volumes": [
                    { "name": "identity", "secret": { "secretName": secret, "defaultMode": 0o440 } },
                    { "name": "tmp", "emptyDir": { "medium": "Memory" } },
                ],
            },
        }))?;
        let pod = format!("pod/{app}");
        self.kubectl(&["wait", "-n", &self.ci, &pod, "--for=condition=Ready", "--timeout=60s"]).map(drop)
    }

    /// A command in the agent's pod: what it printed, errors included.
    pub fn in_pod(&self, script: &str) -> Result<String> {
        self.in_pod_of("agent", script)
    }

    /// The same in another pod beside it.
    pub fn in_pod_of(&self, app: &str, script: &str) -> Result<String> {
        let output =
            self.stage.try_kubectl(&["exec", "-n", &self.ci, app, "--", "bash", "-c", &format!("{script} 2>&1")])?;
        Ok(text(&output).trim().to_owned())
    }

    /// psql in the agent's pod, with the files of this directory: one connection, one statement.
    pub fn psql_in_pod(&self, dir: &str, statement: &str) -> Result<String> {
        self.psql_in_pod_of("agent", dir, statement)
    }

    /// The same in another pod beside it.
    pub fn psql_in_pod_of(&self, app: &str, dir: &str, statement: &str) -> Result<String> {
        let options = PLAIN.join(" ");
        self.in_pod_of(app, &format!("psql {options} '{} {}' -c {statement:?}", self.door()?, certificate(dir)))
    }

    /// psql in the agent's pod, kept open.
    pub fn session_in_pod(&self) -> Result<Session> {
        // The third descriptor keeps the stream of errors open: when it ends, the kubelet ends the input as well.
        let script = format!("exec psql {} '{} {}' 3>&2 2>&1", PLAIN.join(" "), self.door()?, certificate("/identity"));
        let mut kubectl = self.stage.kubectl_command();
        kubectl.args(["exec", "-i", "-n", &self.ci, "agent", "--", "bash", "-c", &script]);
        Session::start(kubectl)
    }

    /// The names of the fleet's pods that are not going away.
    pub fn replicas(&self) -> Result<Vec<String>> {
        let pods: Value = serde_json::from_str(&self.kubectl(&[
            "get",
            "pods",
            "-n",
            &self.shop,
            "-l",
            "sallyport.dev/target=orders-db",
            "-o",
            "json",
        ])?)?;
        let pods = pods.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        let lives = |pod: &&Value| pod.pointer("/metadata/deletionTimestamp").is_none();
        let name = |pod: &Value| pod.pointer("/metadata/name").and_then(Value::as_str).map(str::to_owned);
        Ok(pods.iter().filter(lives).filter_map(name).collect())
    }

    /// How many sessions the database has for this story's role.
    pub async fn upstream_sessions(&self) -> Result<u32> {
        let sql = format!("select count(*) from pg_stat_activity where usename = '{}'", self.workload.role);
        let rows = self.stage.postgres.exec_sql(&sql).await?;
        let count = rows.into_iter().flatten().flatten().next().context("no count")?;
        Ok(count.parse()?)
    }

    /// An object as it is now.
    pub fn get(&self, namespace: &str, what: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(&["get", "-n", namespace, what, "-o", "json"])?)?)
    }

    /// kubectl with every right.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.stage.kubectl(arguments)
    }

    /// A merge patch, as a person would write it.
    pub fn patch(&self, namespace: &str, what: &str, patch: &Value) -> Result<()> {
        let patch = patch.to_string();
        self.kubectl(&["patch", "-n", namespace, what, "--type=merge", "-p", &patch]).map(drop)
    }

    /// Applies any object, as a person with every right would.
    pub fn apply(&self, object: &Value) -> Result<()> {
        self.stage.apply(&object.to_string())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for arguments in [
                vec!["get", "pods,sallyport", "-n", &self.shop, "-o", "wide"],
                vec!["get", "pods,sallyport", "-n", &self.ci, "-o", "wide"],
                vec!["get", "events", "-n", &self.shop],
                vec!["logs", "-n", &self.shop, "-l", "sallyport.dev/target=orders-db", "--tail=30", "--prefix"],
                vec!["logs", "-n", "sallyport-system", "deployment/sallyport-operator", "--tail=30"],
            ] {
                let told = self.stage.try_kubectl(&arguments).map_or_else(|error| format!("{error:#}"), |o| text(&o));
                eprintln!("$ kubectl {}\n{told}", arguments.join(" "));
            }
        }
        // The namespaces' own way needs a runtime that goes on; this one is about to end.
        let _ = self.stage.try_kubectl(&[
            "delete",
            "namespace",
            &self.shop,
            &self.ci,
            "--wait=false",
            "--ignore-not-found",
        ]);
    }
}

async fn workload(stage: &Stage, name: &str) -> Result<Workload> {
    let name = name.replace('-', "_");
    let password = format!("secret-of-{name}-{:016x}", std::process::id());
    let server = &stage.postgres;
    server.exec_sql(&format!("create role {name} login password '{password}'")).await?;
    server.exec_sql(&format!("create database {name} owner {name}")).await?;
    let sample = format!(
        "set role {name};
         create table customers (id serial primary key, name text not null, email text unique);
         create table orders (id serial primary key, customer int references customers, amount numeric(10,2));
         insert into customers (name, email) select 'customer ' || n, 'c' || n || '@example.org' from generate_series(1, 20) n;
         insert into orders (customer, amount) select 1 + n % 20, n * 1.5 from generate_series(1, 100) n;"
    );
    server.exec_sql_in(&name, &sample).await?;
    Ok(Workload { database: name.clone(), role: name, password })
}
