//! etcd, kube-apiserver and kube-controller-manager: enough to admit, store, watch and collect objects.
//! It needs no root, listens on loopback (or inside a cluster's namespaces) and writes into its run directory.
//! The API server can go away and come back on the same port with the same data, as it does in life.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::Client;
use nix::sys::signal::Signal;
use tokio::sync::{Mutex, OnceCell};

use crate::kubeconfig;
use crate::pki::{Leaf, LeafOptions, Pki};
use crate::ports::{Port, free_port};
use crate::process::{Ground, Process, wait_until};
use crate::run_dir::RunDir;
use crate::toolchain::Toolchain;

mod crds;

/// How long a component may take until it answers. Two seconds is usual; a machine that compiles beside it is slower.
const READY: Duration = Duration::from_secs(90);
/// The range of service addresses; nothing outside the cluster ever sees one.
pub(crate) const SERVICE_RANGE: &str = "10.96.0.0/16";

/// A running control plane, or the one that `$KUBECONFIG` names.
#[derive(Debug)]
pub struct ControlPlane {
    kubeconfig: PathBuf,
    users: AtomicU32,
    scratch: Scratch,
    own: Option<Own>,
}

/// Where derived kubeconfigs go: the run directory, or a temporary one for a cluster that is not ours.
#[derive(Debug)]
enum Scratch {
    Run(Arc<RunDir>),
    Temporary(tempfile::TempDir),
}

/// What we started. The order of the fields is the order of the end: controllers, API server, etcd, then the directory.
#[derive(Debug)]
struct Own {
    controllers: Option<Process>,
    api_server: Mutex<Option<Process>>,
    _etcd: Process,
    site: Site,
    pki: Pki,
    tools: Toolchain,
    ports: Ports,
}

/// Where a control plane is put up.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) ground: Ground,
    pub(crate) run: Arc<RunDir>,
    /// The address by which nodes and pods reach the API server, if there are any.
    pub(crate) node_address: Option<&'static str>,
    /// Features of Kubernetes that are switched off.
    pub(crate) without: Vec<String>,
}

#[derive(Debug)]
struct Ports {
    api: Port,
    etcd: Port,
    peers: Port,
    controllers: Port,
}

/// The control plane that all tests of this process share; the first caller starts it, the process's end stops it.
pub async fn shared() -> Result<&'static ControlPlane> {
    static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
    SHARED.get_or_try_init(ControlPlane::start).await
}

impl ControlPlane {
    /// In this order: the cluster of `$KUBECONFIG` if `SALLYPORT_USE_CLUSTER=1`, the binaries in `$KUBEBUILDER_ASSETS`, what was built
    /// before, a build.
    pub async fn start() -> Result<Self> {
        if let Some(kubeconfig) = external_kubeconfig()? {
            return Self::at(kubeconfig);
        }
        Self::start_without(&[]).await
    }

    /// One of our own with these features of Kubernetes switched off, as an earlier version has them.
    pub async fn start_without(features: &[&str]) -> Result<Self> {
        let run = Arc::new(RunDir::create("control-plane", None)?);
        let without = features.iter().map(|feature| (*feature).to_owned()).collect();
        Self::start_at(Site { ground: Ground::Machine, run, node_address: None, without }).await
    }

    /// One that somebody else keeps up.
    pub(crate) fn at(kubeconfig: PathBuf) -> Result<Self> {
        let scratch = Scratch::Temporary(tempfile::tempdir()?);
        Ok(Self { kubeconfig, users: AtomicU32::new(0), scratch, own: None })
    }

    pub(crate) async fn start_at(site: Site) -> Result<Self> {
        let tools = Toolchain::locate().await?;
        let pki = Pki::new("kubernetes")?;
        let ports = Ports { api: free_port()?, etcd: free_port()?, peers: free_port()?, controllers: free_port()? };
        let run = Arc::clone(&site.run);
        let admin = user("sallyport-admin", Some("system:masters"), &pki)?;
        let kubeconfig = run.join("admin.kubeconfig");
        kubeconfig::write(&kubeconfig, &format!("https://127.0.0.1:{}", ports.api.number()), &pki, &admin)?;
        write_keys(&run, &pki, site.node_address)?;

        let etcd = start_etcd(&site, &tools, &ports)?;
        let api_server = Mutex::new(Some(start_api_server(&site, &tools, &ports)?));
        let own = Own { controllers: None, api_server, _etcd: etcd, site, pki, tools, ports };
        let mut plane = Self { kubeconfig, users: AtomicU32::new(0), scratch: Scratch::Run(run), own: Some(own) };
        plane.await_ready().await?;
        if let Some(own) = plane.own.as_mut() {
            own.controllers = own.start_controllers()?;
        }
        Ok(plane)
    }

    /// A kubeconfig with every right.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A new client with every right. It belongs to the runtime it is made in: make one a test.
    pub async fn client(&self) -> Result<Client> {
        Ok(Client::try_from(kubeconfig::load(&self.kubeconfig).await?)?)
    }

    /// A kubeconfig by which every call is judged as this user's, who has only the rights that RBAC gives to it.
    pub fn user_kubeconfig(&self, user: &str, groups: &[&str]) -> Result<PathBuf> {
        let number = self.users.fetch_add(1, Ordering::Relaxed);
        let dir = match &self.scratch {
            Scratch::Run(run) => run.path(),
            Scratch::Temporary(dir) => dir.path(),
        };
        let path = dir.join(format!("user-{number}.kubeconfig"));
        kubeconfig::impersonating(&self.kubeconfig, user, groups, &path)?;
        Ok(path)
    }

    /// A new client with the rights of this user.
    pub async fn user_client(&self, user: &str, groups: &[&str]) -> Result<Client> {
        Ok(Client::try_from(kubeconfig::load(&self.user_kubeconfig(user, groups)?).await?)?)
    }

    /// Applies every definition in `config/crd` and waits until the API server serves them.
    pub async fn apply_crds(&self) -> Result<()> {
        crds::apply(&self.client().await?, &crds::folder()).await
    }

    /// `kubectl` with every right, ready for its arguments.
    pub fn kubectl(&self) -> std::process::Command {
        let built = || Toolchain::built_kubectl().unwrap_or_else(|| PathBuf::from("kubectl"));
        let program = self.own.as_ref().map_or_else(built, |own| own.tools.kubectl.clone());
        let mut kubectl = std::process::Command::new(program);
        kubectl.env("KUBECONFIG", &self.kubeconfig);
        kubectl
    }

    /// Ends the API server; etcd keeps the data. Clients see refused connections.
    pub async fn stop_api_server(&self) -> Result<()> {
        let own = self.own("stop the API server of")?;
        if let Some(server) = own.api_server.lock().await.take() {
            server.stop(Signal::SIGKILL).await?;
        }
        Ok(())
    }

    /// Ends the controllers for good: nothing is collected any more, and no service account is made.
    pub async fn stop_controllers(&mut self) -> Result<()> {
        let own =
            self.own.as_mut().context("cannot stop the controllers of a control plane that is somebody else's")?;
        match own.controllers.take() {
            Some(controllers) => controllers.stop(Signal::SIGKILL).await,
            None => Ok(()),
        }
    }

    /// Starts the API server again, on the same port, and waits until it is ready.
    pub async fn start_api_server(&self) -> Result<()> {
        let own = self.own("start the API server of")?;
        {
            let mut server = own.api_server.lock().await;
            if server.is_none() {
                *server = Some(start_api_server(&own.site, &own.tools, &own.ports)?);
            }
        }
        self.await_ready().await
    }

    async fn await_ready(&self) -> Result<()> {
        let own = self.own("wait for")?;
        // What listens inside a namespace is asked from inside.
        if matches!(own.site.ground, Ground::Inside { .. }) {
            return own.await_ready_inside().await;
        }
        let client = self.client().await?;
        wait_until("the API server", READY, || async {
            if let Some(server) = own.api_server.lock().await.as_mut() {
                server.still_runs()?;
            }
            let ready = tokio::time::timeout(Duration::from_secs(2), client.request_text(get("/readyz")?)).await;
            Ok(matches!(ready, Ok(Ok(_))))
        })
        .await
    }

    fn own(&self, verb: &str) -> Result<&Own> {
        self.own.as_ref().with_context(|| format!("cannot {verb} a control plane that this process did not start"))
    }

    /// A client certificate of this control plane, for components of a node.
    pub(crate) fn component(&self, user: &str, group: Option<&str>) -> Result<Leaf> {
        self::user(user, group, &self.own("sign for")?.pki)
    }

    pub(crate) fn pki(&self) -> Result<&Pki> {
        Ok(&self.own("sign for")?.pki)
    }

    pub(crate) fn api_port(&self) -> Result<u16> {
        Ok(self.own("ask for the port of")?.ports.api.number())
    }
}

/// The kubeconfig of the cluster that the caller brought, if `SALLYPORT_USE_CLUSTER=1` says to use it.
pub(crate) fn external_kubeconfig() -> Result<Option<PathBuf>> {
    if std::env::var_os("SALLYPORT_USE_CLUSTER").is_none_or(|v| v != "1") {
        return Ok(None);
    }
    match std::env::var_os("KUBECONFIG") {
        Some(path) if Path::new(&path).is_file() => Ok(Some(path.into())),
        _ => bail!("SALLYPORT_USE_CLUSTER is 1 but KUBECONFIG does not name a file"),
    }
}

fn get(path: &str) -> Result<http::Request<Vec<u8>>> {
    Ok(http::Request::get(path).body(Vec::new())?)
}

fn user(name: &str, group: Option<&str>, pki: &Pki) -> Result<Leaf> {
    let organization = group.map(str::to_owned);
    pki.leaf(&LeafOptions { common_name: Some(name.to_owned()), organization, ..LeafOptions::default() })
}

/// Certificates and keys that the components read from files.
fn write_keys(run: &RunDir, pki: &Pki, node_address: Option<&str>) -> Result<()> {
    std::fs::write(run.join("ca.crt"), pki.ca_pem())?;
    crate::pki::write_private(&run.join("ca.key"), &pki.ca_key_pem())?;
    let mut names =
        vec!["127.0.0.1", "10.96.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
    names.extend(["kubernetes.default.svc.cluster.local"]);
    names.extend(node_address);
    pki.server(&names)?.write(run.path(), "apiserver")?;
    user("kube-apiserver-kubelet", Some("system:masters"), pki)?.write(run.path(), "apiserver-kubelet")?;
    // Any key pair will do: the API server signs service account tokens with it, and reads the public half from the certificate.
    pki.leaf(&LeafOptions::default())?.write(run.path(), "service-accounts")?;
    Ok(())
}

fn start_etcd(site: &Site, tools: &Toolchain, ports: &Ports) -> Result<Process> {
    let mut etcd = site.ground.command(&tools.etcd);
    let clients = format!("http://127.0.0.1:{}", ports.etcd.number());
    let peers = format!("http://127.0.0.1:{}", ports.peers.number());
    etcd.arg("--data-dir").arg(site.run.join("etcd"));
    etcd.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
    etcd.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
    etcd.args(["--initial-cluster", &format!("default={peers}"), "--unsafe-no-fsync", "--log-level", "warn"]);
    Process::start(&site.run, "etcd", etcd)
}

fn start_api_server(site: &Site, tools: &Toolchain, ports: &Ports) -> Result<Process> {
    let run = &site.run;
    let mut server = site.ground.command(&tools.kube_apiserver);
    let mut flag = |name: &str, value: &dyn AsRef<std::ffi::OsStr>| {
        let mut flag = std::ffi::OsString::from(format!("--{name}="));
        flag.push(value);
        server.arg(flag);
    };
    flag("etcd-servers", &format!("http://127.0.0.1:{}", ports.etcd.number()));
    flag("secure-port", &ports.api.number().to_string());
    flag("bind-address", &if site.node_address.is_some() { "0.0.0.0" } else { "127.0.0.1" });
    match site.node_address {
        Some(address) => flag("advertise-address", &address),
        // Nobody reaches this server through its own service; the address must only not be loopback.
        None => {
            flag("advertise-address", &"192.0.2.1");
            flag("endpoint-reconciler-type", &"none");
        }
    }
    flag("tls-cert-file", &run.join("apiserver.crt"));
    flag("tls-private-key-file", &run.join("apiserver.key"));
    flag("cert-dir", &run.path());
    flag("client-ca-file", &run.join("ca.crt"));
    // No front proxy is trusted; without the setting every other component logs that it is missing.
    flag("requestheader-client-ca-file", &run.join("ca.crt"));
    flag("requestheader-allowed-names", &"no-front-proxy");
    flag("kubelet-client-certificate", &run.join("apiserver-kubelet.crt"));
    flag("kubelet-client-key", &run.join("apiserver-kubelet.key"));
    flag("kubelet-certificate-authority", &run.join("ca.crt"));
    flag("kubelet-preferred-address-types", &"InternalIP");
    flag("service-account-issuer", &"https://kubernetes.default.svc.cluster.local");
    flag("service-account-key-file", &run.join("service-accounts.crt"));
    flag("service-account-signing-key-file", &run.join("service-accounts.key"));
    flag("service-cluster-ip-range", &SERVICE_RANGE);
    flag("authorization-mode", &"Node,RBAC");
    flag("enable-admission-plugins", &"NodeRestriction");
    flag("allow-privileged", &"true");
    flag("shutdown-delay-duration", &"0s");
    for feature in &site.without {
        flag("feature-gates", &format!("{feature}=false"));
    }
    if tools.kube_controller_manager.is_none() {
        flag("disable-admission-plugins", &"ServiceAccount");
    }
    Process::start(run, "kube-apiserver", server)
}

impl Own {
    fn start_controllers(&self) -> Result<Option<Process>> {
        let Some(program) = &self.tools.kube_controller_manager else {
            return Ok(None);
        };
        let run = &self.site.run;
        let config = run.join("controllers.kubeconfig");
        let leaf = user("system:kube-controller-manager", None, &self.pki)?;
        kubeconfig::write(&config, &format!("https://127.0.0.1:{}", self.ports.api.number()), &self.pki, &leaf)?;
        let mut manager = self.site.ground.command(program);
        manager.arg("--kubeconfig").arg(&config).arg("--authentication-kubeconfig").arg(&config);
        manager.arg("--authorization-kubeconfig").arg(&config).arg("--root-ca-file").arg(run.join("ca.crt"));
        manager.arg("--service-account-private-key-file").arg(run.join("service-accounts.key"));
        manager
            .arg("--cluster-signing-cert-file")
            .arg(run.join("ca.crt"))
            .arg("--cluster-signing-key-file")
            .arg(run.join("ca.key"));
        manager.args(["--use-service-account-credentials=true", "--leader-elect=false", "--bind-address=127.0.0.1"]);
        manager.arg(format!("--secure-port={}", self.ports.controllers.number())).arg("--cert-dir").arg(run.path());
        manager.args(self.site.without.iter().map(|feature| format!("--feature-gates={feature}=false")));
        Process::start(run, "kube-controller-manager", manager).map(Some)
    }

    /// Asks with the built kubectl from inside the namespaces, where the API server is.
    async fn await_ready_inside(&self) -> Result<()> {
        let run = &self.site.run;
        wait_until("the API server", READY, || async {
            if let Some(server) = self.api_server.lock().await.as_mut() {
                server.still_runs()?;
            }
            let mut kubectl = self.site.ground.command(&self.tools.kubectl);
            kubectl.arg("--kubeconfig").arg(run.join("admin.kubeconfig"));
            kubectl.args(["--request-timeout=2s", "get", "--raw", "/readyz"]);
            Ok(crate::process::run(kubectl).await.is_ok())
        })
        .await
    }
}
