//! `sallyport-cluster`: the harness from the command line, for `make` and for people who look around.
//! It starts, ends and enters clusters by name, builds what they are made of, and packs images.
//! A cluster it brings up is held by a process of its own, so that it stays when this command returns.

use std::io::{Read, Seek};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use sallyport_harness::image::{Image, NON_ROOT};
use sallyport_harness::{Cluster, Toolchain, sweep};
use tokio::signal::unix::{SignalKind, signal};

/// How long a cluster may take to come up, its binaries built.
const UP: Duration = Duration::from_secs(300);

/// A Kubernetes on this machine, made of upstream's own modules.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Parser)]
struct Named {
    /// Name of the cluster.
    #[arg(long, default_value = "sallyport", env = "SALLYPORT_CLUSTER")]
    name: String,
}

#[derive(Subcommand)]
enum Task {
    /// Build Kubernetes, etcd and CoreDNS into the cache, unless they are there.
    Build,
    /// Start a cluster that stays until `down`, unless it is up.
    Up(Named),
    /// End a cluster and everything of it.
    Down(Named),
    /// Say whether a cluster is up, and how to reach it.
    Status(Named),
    /// Run kubectl against a cluster.
    Kubectl {
        #[command(flatten)]
        cluster: Named,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Load image archives into a cluster.
    Load {
        #[command(flatten)]
        cluster: Named,
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Run a command on a cluster's network, resolving names as pods do.
    Exec {
        #[command(flatten)]
        cluster: Named,
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Forward a loopback port of this machine to an address inside, until interrupted.
    Forward {
        #[command(flatten)]
        cluster: Named,
        /// Port on 127.0.0.1.
        port: u16,
        /// Address inside, such as 10.96.12.7:5432.
        target: SocketAddr,
    },
    /// Pack an image: an archive for `load`, `docker load` and kind, or a directory for the Dockerfile.
    Image(ImageArguments),
    /// End and remove what crashed runs left.
    Sweep,
    /// Hold a cluster up until told to end (what `up` starts).
    #[command(hide = true)]
    Hold(Named),
}

#[derive(Parser)]
struct ImageArguments {
    /// Program to pack; without it, the tools image of the tests (bash, psql, pgbench, openssl).
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Pack the distribution's PostgreSQL server beside those tools.
    #[arg(long, conflicts_with = "binary")]
    postgres: bool,
    /// Name and tag of the image.
    #[arg(long)]
    name: String,
    /// Where to write the archive.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Where to write the root file system as a directory.
    #[arg(long)]
    root: Option<PathBuf>,
    /// Number of the user the program runs as.
    #[arg(long, default_value_t = NON_ROOT)]
    user: u32,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    tracing_subscriber::fmt().with_ansi(false).without_time().with_target(false).with_writer(std::io::stderr).init();
    match Arguments::parse().command {
        Task::Build => println!("{}", Toolchain::build_all().await?.display()),
        Task::Up(Named { name }) => up(&name).await?,
        Task::Down(Named { name }) => {
            let was = if Cluster::down(&name).await? { "is down" } else { "was not up" };
            println!("cluster {name} {was}");
        }
        Task::Status(Named { name }) => return status(&name).await,
        Task::Kubectl { cluster, arguments } => {
            let mut kubectl = attached(&cluster.name)?.control_plane().kubectl();
            return Err(kubectl.args(arguments).exec()).context("cannot start kubectl");
        }
        Task::Load { cluster, archives } => attached(&cluster.name)?.load_images(&archives).await?,
        Task::Exec { cluster, command } => {
            let (program, arguments) = command.split_first().context("no command")?;
            let cluster = attached(&cluster.name)?;
            let mut inside = cluster.command(program)?;
            inside.args(arguments).env("KUBECONFIG", cluster.kubeconfig());
            return Err(inside.exec()).context("cannot enter the cluster's network");
        }
        Task::Forward { cluster, port, target } => {
            let _forward = attached(&cluster.name)?.forward_from(port, target)?;
            println!("127.0.0.1:{port} leads to {target} in cluster {}", cluster.name);
            interrupted().await?;
        }
        Task::Image(arguments) => image(&arguments)?,
        Task::Sweep => {
            for path in sweep()? {
                println!("swept {}", path.display());
            }
        }
        Task::Hold(Named { name }) => {
            let cluster = Cluster::start(&name).await?;
            interrupted().await?;
            drop(cluster);
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn interrupted() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn attached(name: &str) -> Result<Cluster> {
    Cluster::attach(name)?
        .with_context(|| format!("cluster {name} is not up: start it with `sallyport-cluster up --name {name}`"))
}

/// Starts the holder in a session of its own and follows what it says until the cluster is ready.
async fn up(name: &str) -> Result<()> {
    if let Some(status) = Cluster::status(name) {
        println!("cluster {name} is up already\n\n  export KUBECONFIG={}", status.kubeconfig.display());
        return Ok(());
    }
    Toolchain::build_all().await?;
    // The file has no more readers once the cluster is up, and none may be left behind: it goes when this function ends.
    let log = tempfile::NamedTempFile::new()?;
    let output = log.reopen()?;
    let mut holder = Command::new("setsid");
    holder.arg(std::env::current_exe()?).args(["hold", "--name", name]);
    holder.current_dir("/").stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let mut holder = holder.spawn().context("cannot start setsid")?;
    let deadline = Instant::now() + UP;
    let mut shown = 0;
    loop {
        shown += show(log.path(), shown)?;
        if let Some(status) = Cluster::status(name) {
            println!("cluster {name} is up\n\n  export KUBECONFIG={}", status.kubeconfig.display());
            return Ok(());
        }
        if let Some(status) = holder.try_wait()? {
            show(log.path(), shown)?;
            bail!("the cluster did not come up: its holder ended with {status}");
        }
        if Instant::now() > deadline {
            let _ = holder.kill();
            bail!("the cluster did not come up within {UP:?}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Prints what was added to a log, and says how much.
fn show(log: &Path, from: u64) -> Result<u64> {
    let mut file = std::fs::File::open(log)?;
    file.seek(std::io::SeekFrom::Start(from))?;
    let mut new = String::new();
    file.read_to_string(&mut new)?;
    eprint!("{new}");
    Ok(new.len().try_into()?)
}

async fn status(name: &str) -> Result<ExitCode> {
    let Some(status) = Cluster::status(name) else {
        println!("cluster {name} is not up");
        return Ok(ExitCode::FAILURE);
    };
    println!("cluster {name} is up, held by process {}", status.owner);
    println!("  kubeconfig   {}", status.kubeconfig.display());
    println!("  node address {} (inside)", status.node_address);
    println!("  enter with   nsenter --target {} --net", status.init);
    let nodes = attached(name)?.control_plane().kubectl().args(["get", "nodes", "-o", "wide"]).status()?;
    Ok(if nodes.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn image(arguments: &ImageArguments) -> Result<()> {
    let image = match &arguments.binary {
        Some(binary) => Image::of_program(&arguments.name, binary, arguments.user)?,
        None if arguments.postgres => Image::postgres(&arguments.name)?,
        None => Image::tools(&arguments.name)?,
    };
    if arguments.out.is_none() && arguments.root.is_none() {
        bail!("nothing to write: give --out FILE.tar, --root DIR, or both");
    }
    if let Some(out) = &arguments.out {
        image.write_archive(out)?;
        println!("{} in {}", arguments.name, out.display());
    }
    if let Some(root) = &arguments.root {
        image.write_root(root)?;
        println!("root of {} in {}", arguments.name, root.display());
    }
    Ok(())
}
