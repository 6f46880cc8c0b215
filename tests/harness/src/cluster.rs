//! A whole Kubernetes on one machine: pods run, services resolve, nothing leaves.
//! It lives in namespaces of its own (see `world`) and is reached from the machine by loopback ports that lead into them.
//! A cluster ends with the process that started it; others may attach to it by name meanwhile.

mod forward;
mod node;
mod services;
pub(crate) mod world;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use kube::Client;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

pub use forward::Forward;

use crate::control_plane::{ControlPlane, Site, external_kubeconfig};
use crate::ports::free_port;
use crate::process::Ground;
use crate::run_dir::{RunDir, owner, run_root, sweep};
use node::Node;
use world::World;

const NODE_NAME: &str = "sallyport-node";
/// The node's address, known inside the cluster's network alone.
const NODE_ADDRESS: &str = "10.99.0.1";
const DNS_ADDRESS: &str = "10.96.0.10";
/// How long `down` waits for the owner to clean up before it kills it.
const DOWN: Duration = Duration::from_secs(30);

/// A running cluster: ours, one that another process keeps up, or the one `$KUBECONFIG` names.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    kind: Kind,
    plane: ControlPlane,
}

#[derive(Debug)]
enum Kind {
    /// The order of the fields is the order of the end: with the world, all that is in it.
    Own {
        world: World,
        _node: Node,
        _forward: Forward,
        run: Arc<RunDir>,
    },
    Attached {
        init: u32,
        dir: PathBuf,
    },
    External,
}

/// What a cluster writes down for those who attach to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    pub name: String,
    /// The process that keeps it up; the cluster ends with it.
    pub owner: u32,
    /// The first process of its namespaces: `nsenter --target <init> --net` enters its network.
    pub init: u32,
    pub kubeconfig: PathBuf,
    pub node_address: String,
}

/// The cluster that all tests of this process share: the one named by `$SALLYPORT_CLUSTER` if it is up, else one that
/// the first caller starts and the process's end stops.
pub async fn shared_cluster() -> Result<&'static Cluster> {
    static SHARED: OnceCell<Cluster> = OnceCell::const_new();
    let name = std::env::var("SALLYPORT_CLUSTER").unwrap_or_else(|_| format!("test-{}", std::process::id()));
    SHARED.get_or_try_init(|| Cluster::up(&name)).await
}

impl Cluster {
    /// The cluster of this name: attached to if it is up (or if `SALLYPORT_USE_CLUSTER=1` names another), else started and owned.
    pub async fn up(name: &str) -> Result<Self> {
        if let Some(kubeconfig) = external_kubeconfig()? {
            let plane = ControlPlane::at(kubeconfig)?;
            return Ok(Self { name: name.to_owned(), kind: Kind::External, plane });
        }
        match Self::attach(name)? {
            Some(cluster) => Ok(cluster),
            None => Self::start(name).await,
        }
    }

    /// The cluster of this name that another process keeps up, if one does.
    pub fn attach(name: &str) -> Result<Option<Self>> {
        let Some(status) = Self::status(name) else {
            return Ok(None);
        };
        let kind = Kind::Attached { init: status.init, dir: directory(name) };
        Ok(Some(Self { name: status.name, kind, plane: ControlPlane::at(status.kubeconfig)? }))
    }

    /// Starts a cluster that ends when this is dropped.
    pub async fn start(name: &str) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("a cluster needs root; a control plane alone does not");
        }
        let began = Instant::now();
        let run = Arc::new(RunDir::create("cluster", Some(name))?);
        let world = World::make(&run).await?;
        let ground = Ground::Inside { init: world.init() };
        tracing::info!(name, "namespaces made, starting the control plane");
        let plane = ControlPlane::start_at(Site {
            ground,
            run: Arc::clone(&run),
            node_address: Some(NODE_ADDRESS),
            without: Vec::new(),
        })
        .await?;
        let port = plane.api_port()?;
        // The same port on both sides: one kubeconfig works on the machine and on the node.
        let forward = Forward::start(world.init(), port, SocketAddr::from(([127, 0, 0, 1], port)), None)?;
        tracing::info!(name, "control plane ready after {:.1?}, starting the node", began.elapsed());
        let node = Node::start(&run, &world, &plane).await?;
        let kubeconfig = plane.kubeconfig().to_owned();
        let status = Status {
            name: name.to_owned(),
            owner: std::process::id(),
            init: world.init(),
            kubeconfig,
            node_address: NODE_ADDRESS.to_owned(),
        };
        // Written last and whole: whoever finds it finds a cluster that is ready.
        fs::write(run.join("cluster.json.new"), serde_json::to_string_pretty(&status)?)?;
        fs::rename(run.join("cluster.json.new"), run.join("cluster.json"))?;
        tracing::info!(name, "cluster ready after {:.1?}", began.elapsed());
        Ok(Self { name: name.to_owned(), kind: Kind::Own { world, _node: node, _forward: forward, run }, plane })
    }

    /// What is known of the cluster of this name; nothing if it is not up.
    pub fn status(name: &str) -> Option<Status> {
        let dir = directory(name);
        let alive = owner(&dir)?.is_alive();
        let status = serde_json::from_str(&fs::read_to_string(dir.join("cluster.json")).ok()?).ok()?;
        alive.then_some(status)
    }

    /// Ends the cluster of this name, whoever owns it, and waits until nothing of it is left. False if there was none.
    pub async fn down(name: &str) -> Result<bool> {
        let dir = directory(name);
        let Some(owner) = owner(&dir) else {
            return Ok(false);
        };
        owner.signal(Signal::SIGTERM);
        let deadline = Instant::now() + DOWN;
        while owner.is_alive() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        owner.signal(Signal::SIGKILL);
        while owner.is_alive() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::task::spawn_blocking(sweep).await??;
        if dir.exists() {
            bail!("{} is still there: look for processes and mounts that hold it", dir.display());
        }
        Ok(true)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// True for a cluster that was brought from outside: then images must be in it already and its network cannot be entered.
    pub fn is_external(&self) -> bool {
        matches!(self.kind, Kind::External)
    }

    /// The control plane: kubeconfig, clients, users, definitions; and, if this process started it, its API server's life.
    pub fn control_plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// A kubeconfig with every right, good on the machine and on the node.
    pub fn kubeconfig(&self) -> &Path {
        self.plane.kubeconfig()
    }

    /// A new client with every right. It belongs to the runtime it is made in.
    pub async fn client(&self) -> Result<Client> {
        self.plane.client().await
    }

    /// The address under which pods and services reach programs on the node.
    pub fn node_address(&self) -> &'static str {
        NODE_ADDRESS
    }

    /// Puts the images of these archives (as `docker save` writes them) into the node's store.
    pub async fn load_images<P: AsRef<Path>>(&self, archives: &[P]) -> Result<()> {
        let ground = Ground::Inside { init: self.init()? };
        for archive in archives {
            node::import(ground, archive.as_ref()).await?;
        }
        Ok(())
    }

    /// A program with the machine's files on the cluster's network, resolving names as pods do.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let resolv_conf = match &self.kind {
            Kind::Own { run, .. } => run.join("resolv.conf"),
            Kind::Attached { dir, .. } => dir.join("resolv.conf"),
            Kind::External => bail!("the network of an external cluster cannot be entered"),
        };
        Ok(world::on_network(self.init()?, &resolv_conf, program))
    }

    /// A loopback port of the machine that leads to this address inside: a service, a pod, a node port.
    pub fn forward(&self, target: SocketAddr) -> Result<Forward> {
        let port = free_port()?;
        Forward::start(self.init()?, port.number(), target, Some(port))
    }

    /// The same from a port of the caller's choice.
    pub fn forward_from(&self, local: u16, target: SocketAddr) -> Result<Forward> {
        Forward::start(self.init()?, local, target, None)
    }

    /// A service by which pods reach a program that listens on `target_port` of the node's address.
    pub async fn expose_host_service(&self, namespace: &str, name: &str, port: u16, target_port: u16) -> Result<()> {
        self.init()?;
        services::expose(&self.client().await?, namespace, name, None, &[("TCP", port, target_port)]).await
    }

    /// The first process of the cluster's namespaces.
    pub(crate) fn init(&self) -> Result<u32> {
        match &self.kind {
            Kind::Own { world, .. } => Ok(world.init()),
            Kind::Attached { init, .. } => Ok(*init),
            Kind::External => bail!("this needs a cluster of the harness: an external one has no node here"),
        }
    }
}

fn directory(name: &str) -> PathBuf {
    run_root().join(format!("cluster-{name}"))
}
