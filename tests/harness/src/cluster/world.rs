//! The namespaces of a cluster: network, mounts and processes, made by one first process and gone with it.
//! It starts that process and finds its number; the machine's own network, mounts and rules stay as they are.
//! Killing the first process kills all others and undoes all mounts: the kernel does it, whoever crashed.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::NODE_ADDRESS;
use crate::process::{Ground, Process, wait_until};
use crate::run_dir::RunDir;

const INIT: &str = include_str!("init.sh");
const MADE: Duration = Duration::from_secs(20);
/// What the first process mounts over. A run directory in there would vanish from its sight.
const HIDDEN: [&str; 4] = ["/run/", "/var/run/", "/var/lib/", "/var/log/"];

#[derive(Debug)]
pub(super) struct World {
    _unshare: Process,
    init: u32,
}

impl World {
    pub(super) async fn make(run: &RunDir) -> Result<Self> {
        for path in [run.path(), &crate::build::cache_dir()?] {
            if let Some(hidden) = HIDDEN.iter().find(|hidden| path.starts_with(hidden)) {
                bail!(
                    "{} is under {hidden}, which a cluster hides: set SALLYPORT_RUN_ROOT or SALLYPORT_CACHE elsewhere",
                    path.display()
                );
            }
        }
        let mut unshare = Ground::Machine.command("unshare");
        unshare.args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child=KILL",
            "--propagation",
            "private",
            "--mount-proc",
            "--",
        ]);
        unshare.args(["sh", "-c", INIT, "sallyport-init"]).arg(run.path()).arg(run.cgroup()).arg(NODE_ADDRESS);
        let mut unshare = Process::start(run, "init", unshare)?;
        let marker = run.join("world-is-made");
        let made = wait_until("the cluster's namespaces", MADE, || {
            let answer = unshare.still_runs().map(|()| marker.exists());
            std::future::ready(answer)
        });
        made.await.context("a cluster needs root and the packages that hack/setup.sh installs")?;
        let init = child_of(unshare.id()).context("the first process of the cluster is gone")?;
        run.record(init)?;
        Ok(Self { _unshare: unshare, init })
    }

    pub(super) fn init(&self) -> u32 {
        self.init
    }
}

/// A program on the machine's own files, but on the cluster's network and with its name server.
pub(super) fn on_network(init: u32, resolv_conf: &Path, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{init}/ns/net")).args(["--", "unshare", "--mount", "--", "sh", "-c"]);
    command.arg(r#"mount --bind "$0" /etc/resolv.conf && exec "$@""#).arg(resolv_conf).arg(program);
    command
}

/// The only child of a process.
fn child_of(parent: u32) -> Option<u32> {
    children_of(parent).first().copied()
}

/// The processes whose parent this is.
pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parent = parent.to_string();
    numbers
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
            fields.split_whitespace().nth(1) == Some(parent.as_str())
        })
        .collect()
}
