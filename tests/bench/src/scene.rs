//! What the latencies are measured on: a real API server, the operator, a PostgreSQL, and proxies as processes.
//!
//! Owns their start and end, and the three objects they live by. Touches loopback and a directory of its own. Nothing
//! here measures.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, ServiceAccount};
use kube::api::{DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt, discovery::ApiResource};
use sallyport_conformance::clients::rust::connect_to;
use sallyport_conformance::{operator_binary, proxy_binary};
use sallyport_harness::{ControlPlane, Leaf, LeafFiles, Port, Postgres, PostgresOptions, free_port};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// What does not happen by then never will.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// What agents ask.
pub(crate) const STATEMENT: &str = "select count(*) from orders";

/// A cluster's worth of processes around one target.
pub(crate) struct Scene {
    pub(crate) client: Client,
    pub(crate) operator: Running,
    plane: ControlPlane,
    server: Postgres,
    dir: TempDir,
    ca: String,
}

/// A proxy of the fleet.
pub(crate) struct Proxy {
    pub(crate) process: Running,
    name: String,
    port: Port,
    _admin: Port,
}

/// A process that ends with this value.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Kills it, if it still runs.
    pub(crate) fn end(&mut self) {
        let _gone = self.0.kill().and_then(|()| self.0.wait());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

impl Scene {
    /// Starts all but the proxies. The server takes that many connections.
    pub(crate) async fn start(connections: usize) -> Result<Self> {
        let settings = vec![format!("max_connections = {connections}")];
        let server = Postgres::start(PostgresOptions { settings, ..PostgresOptions::default() }).await?;
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
                .args(["--admin", "127.0.0.1:0"]),
            &dir,
            "operator",
        )?;
        let mut scene = Self { client, operator, plane, server, dir, ca: String::new() };
        scene.objects().await?;
        scene.fleet_files().await?;
        Ok(scene)
    }

    /// One more replica of the fleet.
    pub(crate) fn proxy(&self, name: &str) -> Result<Proxy> {
        let at = |name: &str| self.dir.path().join(name);
        let own = at(name);
        for folder in ["records", "state"] {
            std::fs::create_dir_all(own.join(folder))?;
        }
        let (port, admin) = (free_port()?, free_port()?);
        let process = start(
            Command::new(proxy_binary()?)
                .arg("serve")
                .arg("--kubeconfig")
                .arg(self.plane.kubeconfig())
                .args(["--target-namespace", "bench-shop", "--target-name", "orders-db", "--pod-name", name])
                .arg("--tls-dir")
                .arg(at("tls"))
                .arg("--credentials-dir")
                .arg(at("credentials"))
                .arg("--upstream-ca")
                .arg(self.server.ca_file())
                .arg("--records-dir")
                .arg(own.join("records"))
                .arg("--state-dir")
                .arg(own.join("state"))
                .args(["--listen", &format!("127.0.0.1:{}", port.number())])
                .args(["--admin", &format!("127.0.0.1:{}", admin.number())]),
            &self.dir,
            name,
        )?;
        Ok(Proxy { process, name: name.to_owned(), port, _admin: admin })
    }

    /// A session through that replica, as soon as it gives one.
    pub(crate) async fn session(
        &self,
        proxy: &Proxy,
        agent: &LeafFiles,
    ) -> Result<(tokio_postgres::Client, JoinHandle<String>)> {
        let mut why = String::new();
        let connect = async || match connect_to("orders-db.bench-shop", proxy.port.number(), &self.ca, agent).await {
            Ok(session) => Some(session),
            Err(error) => {
                why = format!("{error:#}");
                None
            }
        };
        let session = wait(connect).await;
        session.with_context(|| {
            let log = std::fs::read_to_string(self.dir.path().join(format!("{}.log", proxy.name))).unwrap_or_default();
            let tail = log.lines().rev().take(3).collect::<Vec<_>>().join("\n");
            format!("{} gives no session: {why}\n{tail}", proxy.name)
        })
    }

    /// The agent's certificate as files, once there is one other than `but`; with its text.
    pub(crate) async fn agent(&self, but: Option<&str>) -> Result<(LeafFiles, String)> {
        self.files("bench-ci", "bot-mtls", "agent", but).await
    }

    /// The same of another agent, whose Secret is called as by default.
    pub(crate) async fn agent_of(&self, name: &str) -> Result<(LeafFiles, String)> {
        self.files("bench-ci", &format!("{name}-mtls"), name, None).await
    }

    /// Makes agents that may do what the agent may.
    pub(crate) async fn crowd(&self, names: &[String]) -> Result<()> {
        let identities = self.api("AgentIdentity", "agentidentities", "bench-ci");
        for name in names {
            let identity = json!({
                "apiVersion": "sallyport.dev/v1alpha1", "kind": "AgentIdentity",
                "metadata": {"name": name}, "spec": {"groups": ["crowd"]},
            });
            identities.create(&PostParams::default(), &serde_json::from_value(identity)?).await?;
        }
        Ok(())
    }

    /// Makes the pods that replicas of these names would run in. Nothing runs them.
    pub(crate) async fn pods(&self, names: &[String]) -> Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), "bench-shop");
        wait(async || accounts.get_opt("default").await.ok().flatten()).await.context("no service account")?;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), "bench-shop");
        let made = stream::iter(names).map(|name| {
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "labels": {
                    "sallyport.dev/target": "orders-db", "app.kubernetes.io/managed-by": "sallyport",
                }},
                "spec": {"automountServiceAccountToken": false, "containers": [{"name": "proxy", "image": "none"}]},
            });
            let api = &api;
            async move { anyhow::Ok(api.create(&PostParams::default(), &serde_json::from_value(pod)?).await?) }
        });
        made.buffer_unordered(8).try_for_each(|_| async { Ok(()) }).await
    }

    /// Waits until so many replicas say which bundle they run.
    pub(crate) async fn answered(&self, replicas: usize) -> Result<()> {
        let targets = self.api("ProtectedTarget", "protectedtargets", "bench-shop");
        // Each entry is a write to the same object: all of them take longer than one thing may.
        let until = Instant::now() + 4 * PATIENCE;
        loop {
            let target = targets.get("orders-db").await?;
            let told = target.data.pointer("/status/replicas").and_then(|all| all.as_array()).map_or(0, Vec::len);
            if told >= replicas {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < until, "{told} of {replicas} replicas have answered");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Ends the operator, as if its node had died.
    pub(crate) fn stop_operator(&mut self) {
        self.operator.end();
    }

    /// The objects of one kind of ours.
    pub(crate) fn api(&self, kind: &str, plural: &str, namespace: &str) -> Api<DynamicObject> {
        api(&self.client, kind, plural, namespace)
    }

    /// Lets the agent read the table, or another only.
    pub(crate) async fn patch_policy(&self, allow: bool) -> Result<()> {
        let policies = self.api("AccessPolicy", "accesspolicies", "bench-shop");
        let table = if allow { "public.orders" } else { "public.other" };
        let policy = json!({
            "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": "read"},
            "spec": {
                "targetRefs": [{"name": "orders-db"}],
                "subjects": [
                    {"agent": {"namespace": "bench-ci", "name": "bot"}}, {"group": {"namespace": "bench-ci", "name": "crowd"}},
                ],
                "rules": [
                    {"name": "read", "action": "Allow", "postgres": {"statements": ["Select"], "tables": [table]}}
                ],
            },
        });
        policies.patch("read", &PatchParams::apply("bench").force(), &Patch::Apply(&policy)).await?;
        Ok(())
    }

    async fn objects(&self) -> Result<()> {
        let (server, create) = (&self.server, PostParams::default());
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), "bench-shop");
        for (name, data) in [
            ("orders-ca", json!({"ca.crt": server.ca_pem()})),
            ("orders-db", json!({"username": server.superuser(), "password": server.superuser_password()})),
        ] {
            let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
            secrets.create(&create, &serde_json::from_value(secret)?).await?;
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
        let identities = self.api("AgentIdentity", "agentidentities", "bench-ci");
        identities.create(&create, &serde_json::from_value(identity)?).await?;
        let targets = self.api("ProtectedTarget", "protectedtargets", "bench-shop");
        targets.create(&create, &serde_json::from_value(target)?).await?;
        self.patch_policy(true).await
    }

    /// What every replica mounts.
    async fn fleet_files(&mut self) -> Result<()> {
        self.files("bench-shop", "orders-db-server", "tls", None).await?;
        self.ca = std::fs::read_to_string(self.dir.path().join("tls/ca.crt"))?;
        let credential = self.dir.path().join("credentials/default");
        std::fs::create_dir_all(&credential)?;
        std::fs::write(credential.join("username"), self.server.superuser())?;
        std::fs::write(credential.join("password"), self.server.superuser_password())?;
        let bundles: Api<ConfigMap> = Api::namespaced(self.client.clone(), "bench-shop");
        wait(async || bundles.get_opt("orders-db-bundle").await.ok().flatten()).await.context("no bundle")?;
        Ok(())
    }

    /// A certificate that the operator made, once it has, as files under their Kubernetes names.
    async fn files(&self, namespace: &str, name: &str, folder: &str, but: Option<&str>) -> Result<(LeafFiles, String)> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let text = |secret: &Secret, key: &str| -> Result<String> {
            let data = secret.data.as_ref().and_then(|data| data.get(key));
            Ok(String::from_utf8(data.with_context(|| format!("{} has no {key}", secret.name_any()))?.0.clone())?)
        };
        let another = |secret: &Secret| text(secret, "tls.crt").is_ok_and(|found| but != Some(found.as_str()));
        let secret = wait(async || secrets.get_opt(name).await.ok().flatten().filter(another)).await;
        let secret = secret.with_context(|| {
            let log = std::fs::read_to_string(self.dir.path().join("operator.log")).unwrap_or_default();
            format!("no new Secret {namespace}/{name}; the operator's log:\n{log}")
        })?;
        let home = self.dir.path().join(folder);
        std::fs::create_dir_all(&home)?;
        let leaf = Leaf { cert_pem: text(&secret, "tls.crt")?, key_pem: text(&secret, "tls.key")? };
        std::fs::write(home.join("ca.crt"), text(&secret, "ca.crt")?)?;
        Ok((leaf.write(&home, "tls")?, leaf.cert_pem))
    }
}

/// The objects of one kind of ours.
pub(crate) fn api(client: &Client, kind: &str, plural: &str, namespace: &str) -> Api<DynamicObject> {
    let gvk = GroupVersionKind::gvk("sallyport.dev", "v1alpha1", kind);
    Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk_with_plural(&gvk, plural))
}

/// The nearest rank: of 100 times the p99 is the 99th and the worst the last.
pub(crate) fn rank(sorted: &[Duration], share: usize) -> Duration {
    sorted.get((sorted.len() * share).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
}

pub(crate) fn start(command: &mut Command, dir: &TempDir, name: &str) -> Result<Running> {
    let log = std::fs::File::create(dir.path().join(format!("{name}.log")))?;
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
    wrapped.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let child = wrapped.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
    Ok(Running(child))
}

pub(crate) async fn wait<T>(mut what: impl AsyncFnMut() -> Option<T>) -> Option<T> {
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
