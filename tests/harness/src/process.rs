//! One process of a run: started so that it ends with us, logged to a file, ended gracefully or at once.
//! It may start programs and signal what it started, nothing else.
//! The kernel kills a child when the *thread* that started it ends, so all children are started by one thread that never does.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::run_dir::RunDir;

/// How long a process may take to end once asked politely.
const GRACE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);
/// How much of a log is quoted in an error.
const QUOTED_LINES: usize = 15;

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// Where a program runs: on the machine, or inside the namespaces of a cluster's first process.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ground {
    Machine,
    Inside { init: u32 },
}

impl Ground {
    /// The program here, bound to end when this process does.
    pub(crate) fn command(self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        match self {
            Self::Machine => {
                let mut command = Command::new("setpriv");
                command.args(["--pdeathsig", "KILL", "--"]).arg(program);
                command
            }
            // What is inside the process namespace ends with its first process: the kernel sees to it.
            Self::Inside { init } => {
                let mut command = Command::new("nsenter");
                command
                    .arg("--target")
                    .arg(init.to_string())
                    .args(["--net", "--mount", "--pid", "--wd=/", "--"])
                    .arg(program);
                command
            }
        }
    }
}

/// A started program. Dropping it kills it and waits.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program in a process group of its own, with its output in `<name>.log` of the run directory.
    pub(crate) fn start(run: &RunDir, name: &str, mut command: Command) -> Result<Self> {
        let log = run.join(format!("{name}.log"));
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let child = spawn(command).with_context(|| format!("cannot start {name}"))?;
        run.record(child.id())?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails if the program has ended, quoting the end of its log.
    pub(crate) fn still_runs(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended with {status}; the end of its log:\n{}", self.name, self.log_end());
        }
        Ok(())
    }

    pub(crate) fn log_end(&self) -> String {
        log_end(&self.log)
    }

    /// Asks it to end, and kills it if it has not after a while.
    pub(crate) async fn stop(mut self, signal: Signal) -> Result<()> {
        self.signal(signal);
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        tracing::warn!(process = self.name, "did not end when asked, killing it");
        Ok(())
    }

    fn signal(&mut self, signal: Signal) {
        // A child that was waited for has given its number back: do not signal whoever has it now.
        if matches!(self.child.try_wait(), Ok(None))
            && let Ok(group) = i32::try_from(self.child.id())
        {
            let _ = killpg(Pid::from_raw(group), signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// The last lines of a log.
pub(crate) fn log_end(log: &Path) -> String {
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(QUOTED_LINES);
    lines.get(from..).unwrap_or_default().join("\n")
}

fn spawn(command: Command) -> Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let (reply, answer) = mpsc::channel();
    spawner.send((command, reply)).ok().context("the thread that starts processes is gone")?;
    Ok(answer.recv().context("the thread that starts processes is gone")??)
}

/// Runs a command to its end; a failure quotes what it wrote.
pub(crate) async fn run(mut command: Command) -> Result<String> {
    command.stdin(Stdio::null());
    let shown = format!("{:?} {:?}", command.get_program(), command.get_args().collect::<Vec<_>>());
    let output = tokio::task::spawn_blocking(move || command.output())
        .await?
        .with_context(|| format!("cannot start {shown}"))?;
    if !output.status.success() {
        bail!("{shown} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Asks again and again until the answer is yes, or fails at the deadline with what was waited for.
pub(crate) async fn wait_until<F, Fut>(what: &str, limit: Duration, mut ready: F) -> Result<()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<bool>>,
{
    let deadline = Instant::now() + limit;
    loop {
        if ready().await? {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("{what} did not come within {limit:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
