//! Running stock clients: psql and pgbench from the distribution, drivers from their registries.
//! It installs drivers into the cache directory, once, and runs programs with a deadline. It judges nothing.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

pub mod rust;

const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a program with that standard input, to its end or its deadline.
pub fn run(mut command: Command, input: &str) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{command:?} does not start"))?;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
    let mut stdin = child.stdin.take().context("no standard input")?;
    let text = input.to_owned();
    let feeder = std::thread::spawn(move || {
        // A program that ends before it has read everything is no error of ours.
        let _fed = stdin.write_all(text.as_bytes());
    });
    let watch = Watchdog::start(pid);
    let output = child.wait_with_output()?;
    let late = watch.stop();
    let _joined = feeder.join();
    ensure!(!late, "{command:?} did not end within {PATIENCE:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output)
}

/// Standard output and standard error as text.
#[must_use]
pub fn texts(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

struct Watchdog {
    done: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<bool>,
}

impl Watchdog {
    fn start(pid: nix::unistd::Pid) -> Self {
        let (done, ended) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || match ended.recv_timeout(PATIENCE) {
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                true
            }
            _ => false,
        });
        Self { done, thread }
    }

    fn stop(self) -> bool {
        let _told = self.done.send(());
        self.thread.join().unwrap_or(true)
    }
}

/// A Python with the drivers of `drivers/python/requirements.txt`, made once a machine.
pub fn python() -> Result<PathBuf> {
    let folder = drivers().join("python");
    let home = made("python", "", &[&folder.join("requirements.txt")], |home| {
        succeed(Command::new("python3").args(["-m", "venv"]).arg(home))?;
        let mut pip = Command::new(home.join("bin/pip"));
        succeed(
            pip.args(["install", "--quiet", "--disable-pip-version-check", "-r"]).arg(folder.join("requirements.txt")),
        )
    })?;
    Ok(home.join("bin/python"))
}

/// The Go driver's suite, built once for its sources.
pub fn go_suite() -> Result<PathBuf> {
    let folder = drivers().join("go");
    let sources = [&folder.join("main.go"), &folder.join("go.sum")];
    let home = made("go", "", &sources.map(PathBuf::as_path), |home| {
        std::fs::create_dir_all(home)?;
        let mut go = Command::new("go");
        succeed(go.current_dir(&folder).args(["build", "-trimpath", "-o"]).arg(home.join("suite")).arg("."))
    })?;
    Ok(home.join("suite"))
}

/// Node's packages of `drivers/node/package.json`, installed once a machine.
pub fn node_modules() -> Result<PathBuf> {
    let package = drivers().join("node/package.json");
    let home = made("node", "", &[&package], |home| {
        std::fs::create_dir_all(home)?;
        std::fs::copy(&package, home.join("package.json"))?;
        let mut npm = Command::new("npm");
        succeed(npm.current_dir(home).args(["install", "--no-audit", "--no-fund", "--silent", "--ignore-scripts"]))
    })?;
    Ok(home)
}

/// The jars of `drivers/java/pom.xml`, fetched once a machine.
pub fn jars() -> Result<PathBuf> {
    let pom = drivers().join("java/pom.xml");
    let home = made("java", "", &[&pom], |home| {
        std::fs::create_dir_all(home)?;
        let mut maven = Command::new("mvn");
        maven.args(["-q", "-B", "-f"]).arg(&pom).arg("dependency:copy-dependencies");
        succeed(maven.arg(format!("-DoutputDirectory={}", home.display())))
    })?;
    Ok(home)
}

/// Where the drivers' suites are.
#[must_use]
pub fn drivers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("drivers")
}

/// A folder in the cache, named by what it is made from: a version and files. A half-made one is never taken.
pub(crate) fn made(
    name: &str,
    version: &str,
    from: &[&Path],
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let mut digest = Sha256::new();
    digest.update(version);
    for path in from {
        digest.update(std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?);
    }
    let hex: String = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let home = cache()?.join(format!("drivers-{name}-{hex}"));
    let lock = std::fs::File::create(cache()?.join(format!("drivers-{name}.lock")))?;
    lock.lock()?;
    let done = home.join(".complete");
    if !done.exists() {
        let started = Instant::now();
        let _absent = std::fs::remove_dir_all(&home);
        make(&home)?;
        std::fs::write(done, format!("{:?}", started.elapsed()))?;
    }
    Ok(home)
}

fn cache() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("SALLYPORT_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|home| home.join("sallyport")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/sallyport")))
        .context("set SALLYPORT_CACHE or HOME: there is no place for a cache")?;
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?} does not start"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
