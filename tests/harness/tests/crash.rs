//! A test run that is killed leaves nothing: no process, mount, control group or directory.
//! It kills harness processes that it started, by number, as an impatient person or an OOM killer would.
//! The first test shows that nobody has to come back to clean up; the second that coming back is enough if even the janitor died.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sallyport_harness::image::Image;
use sallyport_harness::{Cluster, run_root};

const HARNESS: &str = env!("CARGO_BIN_EXE_sallyport-cluster");

/// A harness process that holds a cluster with a running pod, and what belongs to it.
struct Victim {
    holder: Child,
    name: String,
    /// Every process of the cluster, containers included, by when it started.
    processes: BTreeMap<u32, String>,
}

impl Victim {
    async fn start(name: &str) -> Self {
        let name = format!("{name}-{}", std::process::id());
        let holder = Command::new(HARNESS).args(["hold", "--name", &name]).stdin(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(120);
        while Cluster::status(&name).is_none() {
            assert!(Instant::now() < deadline, "the cluster did not come up");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let cluster = Cluster::attach(&name).unwrap().unwrap();
        let archive = tempfile::tempdir().unwrap();
        let tar = archive.path().join("tools.tar");
        Image::tools("sallyport/tools:dev").unwrap().write_archive(&tar).unwrap();
        cluster.load_images(&[&tar]).await.unwrap();
        let kubectl =
            |arguments: &[&str]| assert!(cluster.control_plane().kubectl().args(arguments).status().unwrap().success());
        kubectl(&[
            "run",
            "sleeper",
            "--image=sallyport/tools:dev",
            "--image-pull-policy=Never",
            "--",
            "-c",
            "sleep 54321",
        ]);
        kubectl(&["wait", "pod/sleeper", "--for=condition=Ready", "--timeout=60s"]);

        let init = Cluster::status(&name).unwrap().init;
        let mut processes = descendants_of_namespace(init);
        for pid in pids_in_groups(&name) {
            if let Some(started) = started(pid) {
                processes.insert(pid, started);
            }
        }
        let commands: Vec<String> =
            processes.keys().filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()).collect();
        for part in [
            "etcd",
            "kube-apiserver",
            "containerd\0",
            "containerd-shim",
            "kubelet",
            "kube-proxy",
            "coredns",
            "/pause",
            "54321",
        ] {
            assert!(commands.iter().any(|c| c.contains(part)), "{part} is not among {commands:?}");
        }
        Self { holder, name, processes }
    }

    fn dir(&self) -> PathBuf {
        run_root().join(format!("cluster-{}", self.name))
    }

    fn kill(&mut self) {
        self.holder.kill().unwrap();
        self.holder.wait().unwrap();
    }

    fn survivors(&self) -> Vec<u32> {
        self.processes.iter().filter(|(pid, at)| started(**pid).as_ref() == Some(at)).map(|(pid, _)| *pid).collect()
    }

    /// What is left of it, in words; empty is what is wanted.
    fn leftovers(&self) -> Vec<String> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut left: Vec<String> = self.survivors().iter().map(|pid| format!("process {pid}")).collect();
        left.extend(groups(&self.name).iter().map(|group| format!("control group {}", group.display())));
        left.extend(mounts.lines().filter(|line| line.contains(&self.name)).map(|line| format!("mount {line}")));
        left.extend(self.dir().exists().then(|| format!("directory {}", self.dir().display())));
        left
    }
}

/// When a process started; nothing if there is no such process or it has ended.
fn started(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    (!matches!(fields[0], "Z" | "X")).then(|| fields[19].to_owned())
}

fn all_pids() -> Vec<u32> {
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

fn descendants_of_namespace(init: u32) -> BTreeMap<u32, String> {
    let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let wanted = namespace(init);
    all_pids()
        .into_iter()
        .filter(|pid| namespace(*pid) == wanted)
        .filter_map(|pid| Some((pid, started(pid)?)))
        .collect()
}

fn groups(name: &str) -> Vec<PathBuf> {
    let group = format!("sallyport-cluster-{name}");
    let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
    roots.extend(std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|e| e.path()));
    roots.into_iter().map(|root| root.join(&group)).filter(|path| path.exists()).collect()
}

fn pids_in_groups(name: &str) -> Vec<u32> {
    fn collect(dir: &Path, pids: &mut Vec<u32>) {
        let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
            collect(&entry.path(), pids);
        }
    }
    let mut pids = Vec::new();
    groups(name).iter().for_each(|group| collect(group, &mut pids));
    pids
}

async fn eventually_empty(mut left: impl FnMut() -> Vec<String>) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !left().is_empty() {
        assert!(Instant::now() < deadline, "still there: {:?}", left());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_killed_harness_leaves_nothing_even_if_nobody_comes_back() {
    let mut victim = Victim::start("killed").await;
    assert!(!victim.leftovers().is_empty());
    victim.kill();
    eventually_empty(|| victim.leftovers()).await;
}

#[tokio::test]
async fn a_sweep_removes_what_a_killed_harness_and_a_killed_janitor_left() {
    let mut victim = Victim::start("swept").await;
    let listed = std::fs::read_to_string(victim.dir().join("pids")).unwrap();
    let janitor = listed.lines().next().unwrap().split(' ').next().unwrap();
    assert!(std::fs::read_to_string(format!("/proc/{janitor}/cmdline")).unwrap().contains("sallyport-janitor"));
    assert!(Command::new("kill").args(["-KILL", janitor]).status().unwrap().success());
    victim.kill();
    eventually_empty(|| victim.survivors().iter().map(u32::to_string).collect()).await;
    assert!(
        victim.dir().exists() && !groups(&victim.name).is_empty(),
        "the janitor is dead, so something is left to sweep"
    );
    assert!(Command::new(HARNESS).arg("sweep").status().unwrap().success());
    assert_eq!(victim.leftovers(), Vec::<String>::new());
}
