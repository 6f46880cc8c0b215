//! The node: containerd, kubelet, kube-proxy, and the scheduler and name server that a cluster of pods needs.
//! It starts them inside the cluster's namespaces and writes their configuration into the run directory.
//! Every setting that is not a default is there because a bare machine needs it, and says so.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node as ApiNode;
use kube::{Api, Client};
use serde_json::json;

use super::world::World;
use super::{DNS_ADDRESS, NODE_ADDRESS, NODE_NAME, services};
use crate::build::Part;
use crate::control_plane::ControlPlane;
use crate::image::{Image, PAUSE_IMAGE};
use crate::kubeconfig;
use crate::namespace::ensure_default_account;
use crate::process::{Ground, Process, run, wait_until};
use crate::run_dir::RunDir;

const READY: Duration = Duration::from_secs(90);
const POD_RANGE: &str = "10.244.0.0/16";
const POD_SUBNET: &str = "10.244.0.0/24";
/// Inside the cluster's mounts `/run` is its own.
pub(super) const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// The processes of the node, in the order in which they are dropped.
#[derive(Debug)]
pub(super) struct Node {
    _parts: Vec<Process>,
}

impl Node {
    pub(super) async fn start(dir: &RunDir, world: &World, plane: &ControlPlane) -> Result<Self> {
        let ground = Ground::Inside { init: world.init() };
        let binaries = tokio::task::spawn_blocking(|| {
            Part::CoreDns.ensure()?;
            Part::Pause.ensure()?;
            Part::Kubernetes.ensure()
        })
        .await??;
        let server = format!("https://127.0.0.1:{}", plane.api_port()?);
        let identity = |file: &str, user: &str, group: Option<&str>| -> Result<std::path::PathBuf> {
            let path = dir.join(format!("{file}.kubeconfig"));
            kubeconfig::write(&path, &server, plane.pki()?, &plane.component(user, group)?)?;
            Ok(path)
        };
        let mut parts = vec![containerd(dir, ground)?];

        let mut scheduler = ground.command(binaries.join("kube-scheduler"));
        let config = identity("scheduler", "system:kube-scheduler", None)?;
        scheduler.arg("--kubeconfig").arg(&config).arg("--authentication-kubeconfig").arg(&config);
        scheduler
            .arg("--authorization-kubeconfig")
            .arg(&config)
            .args(["--leader-elect=false", "--bind-address=127.0.0.1"]);
        parts.push(Process::start(dir, "kube-scheduler", scheduler)?);

        let config = identity("kube-proxy", "system:kube-proxy", None)?;
        write_yaml(&dir.join("kube-proxy.yaml"), &kube_proxy_settings(&config))?;
        let mut proxy = ground.command(binaries.join("kube-proxy"));
        proxy.arg("--config").arg(dir.join("kube-proxy.yaml"));
        parts.push(Process::start(dir, "kube-proxy", proxy)?);

        await_containerd(ground).await?;
        import(ground, &pause_archive(dir, &binaries)?).await?;
        let config = identity("kubelet", &format!("system:node:{NODE_NAME}"), Some("system:nodes"))?;
        plane.pki()?.server(&[NODE_ADDRESS, NODE_NAME])?.write(dir.path(), "kubelet")?;
        std::fs::write(dir.join("resolv.conf"), resolv_conf())?;
        write_yaml(&dir.join("kubelet.yaml"), &kubelet_settings(dir))?;
        let mut kubelet = ground.command(binaries.join("kubelet"));
        kubelet.arg("--config").arg(dir.join("kubelet.yaml")).arg("--kubeconfig").arg(&config);
        kubelet.args(["--hostname-override", NODE_NAME, "--node-ip", NODE_ADDRESS]);
        parts.push(Process::start(dir, "kubelet", kubelet)?);

        let config = identity("coredns", "coredns", Some("system:masters"))?;
        let corefile = dir.join("Corefile");
        std::fs::write(&corefile, corefile_text(&config))?;
        let mut dns = ground.command(binaries.join("coredns"));
        dns.arg("-conf").arg(&corefile);
        parts.push(Process::start(dir, "coredns", dns)?);

        let client = plane.client().await?;
        ensure_default_account(&client, "default").await?;
        services::expose(&client, "kube-system", "kube-dns", Some(DNS_ADDRESS), &[("UDP", 53, 53), ("TCP", 53, 53)])
            .await?;
        await_ready(&client, &mut parts).await?;
        Ok(Self { _parts: parts })
    }
}

async fn await_ready(client: &Client, parts: &mut [Process]) -> Result<()> {
    let nodes: Api<ApiNode> = Api::all(client.clone());
    let parts = tokio::sync::Mutex::new(parts);
    let ready = wait_until("the node", READY, || async {
        for part in parts.lock().await.iter_mut() {
            part.still_runs()?;
        }
        Ok(nodes.get_opt(NODE_NAME).await?.is_some_and(|node| is_ready(&node)))
    })
    .await;
    if ready.is_err() {
        let kubelet = parts.lock().await.last().map(Process::log_end).unwrap_or_default();
        return ready.context(kubelet);
    }
    ready
}

fn is_ready(node: &ApiNode) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

fn containerd(dir: &RunDir, ground: Ground) -> Result<Process> {
    let networks = dir.join("cni");
    std::fs::create_dir_all(&networks)?;
    // `ptp` rather than `bridge`: every packet between pods is routed, so a service address is rewritten on both ways
    // without the kernel's bridge filter, which a machine may not have.
    let network = json!({
        "cniVersion": "1.0.0", "name": "sallyport",
        "plugins": [
            { "type": "ptp", "ipMasq": true, "ipam": {
                "type": "host-local", "dataDir": "/run/cni-addresses",
                "ranges": [[{ "subnet": POD_SUBNET }]], "routes": [{ "dst": "0.0.0.0/0" }] } },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    });
    write_yaml(&networks.join("10-sallyport.conflist"), &network)?;
    let settings = dir.join("containerd.toml");
    std::fs::write(&settings, containerd_settings(&networks))?;
    let mut containerd = ground.command("containerd");
    containerd.arg("--config").arg(&settings);
    Process::start(dir, "containerd", containerd)
}

/// `restrict_oom_score_adj`: a machine may forbid even root to lower an OOM score. The disabled plugins would write outside.
fn containerd_settings(networks: &Path) -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{}"
"#,
        networks.display()
    )
}

/// Settings for a machine without systemd, with either version of control groups, that may have swap and little disk.
fn kubelet_settings(dir: &RunDir) -> serde_json::Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "address": "0.0.0.0",
        "authentication": { "anonymous": { "enabled": false }, "webhook": { "enabled": true }, "x509": { "clientCAFile": dir.join("ca.crt") } },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": dir.join("kubelet.crt"), "tlsPrivateKeyFile": dir.join("kubelet.key"),
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        "cgroupDriver": "cgroupfs", "cgroupRoot": format!("/{}", dir.cgroup()), "failCgroupV1": false, "enforceNodeAllocatable": [],
        "failSwapOn": false, "localStorageCapacityIsolation": false,
        "clusterDomain": "cluster.local", "clusterDNS": [DNS_ADDRESS], "resolvConf": dir.join("resolv.conf"),
        // Projected volumes (rotated Secrets, tokens) follow within seconds instead of a minute and a half.
        "syncFrequency": "2s", "fileCheckFrequency": "2s", "nodeStatusUpdateFrequency": "2s", "configMapAndSecretChangeDetectionStrategy": "Watch",
        "imageGCHighThresholdPercent": 100, "evictionHard": { "memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%" },
        "registerWithTaints": [], "maxPods": 110, "serializeImagePulls": false,
    })
}

fn kube_proxy_settings(kubeconfig: &Path) -> serde_json::Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "mode": "nftables", "clusterCIDR": POD_RANGE, "hostnameOverride": NODE_NAME,
        "clientConnection": { "kubeconfig": kubeconfig },
        // Zero leaves the kernel's connection tracking as it is: its limits are not ours to write.
        "conntrack": { "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" },
    })
}

fn corefile_text(kubeconfig: &Path) -> String {
    format!(
        "cluster.local:53 in-addr.arpa:53 {{\n  bind {NODE_ADDRESS}\n  errors\n  kubernetes cluster.local in-addr.arpa {{\n    kubeconfig {}\n    ttl 5\n  }}\n}}\n",
        kubeconfig.display()
    )
}

/// How programs on the node resolve names: as pods of the default namespace do.
fn resolv_conf() -> String {
    format!(
        "nameserver {DNS_ADDRESS}\nsearch default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
    )
}

fn write_yaml(path: &Path, value: &serde_json::Value) -> Result<()> {
    // JSON is YAML, and needs no second writer.
    std::fs::write(path, serde_json::to_string_pretty(value)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

fn pause_archive(dir: &RunDir, binaries: &Path) -> Result<std::path::PathBuf> {
    let archive = dir.join("pause.tar");
    Image::pause(&binaries.join("pause"))?.write_archive(&archive)?;
    Ok(archive)
}

async fn await_containerd(ground: Ground) -> Result<()> {
    wait_until("containerd", READY, || async {
        let mut ctr = ground.command("ctr");
        ctr.args(["--address", CONTAINERD_SOCKET, "version"]);
        Ok(run(ctr).await.is_ok())
    })
    .await
}

/// Puts an archive's images into the node's store, under the names that it says.
pub(super) async fn import(ground: Ground, archive: &Path) -> Result<()> {
    let archive = archive.canonicalize().with_context(|| format!("no image archive {}", archive.display()))?;
    let mut ctr = ground.command("ctr");
    ctr.args(["--address", CONTAINERD_SOCKET, "--namespace", "k8s.io", "images", "import"]).arg(&archive);
    run(ctr).await.with_context(|| format!("cannot import {}", archive.display()))?;
    Ok(())
}
