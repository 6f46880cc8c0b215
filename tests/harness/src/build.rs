//! Compiles upstream Kubernetes, etcd and CoreDNS from their Go modules into the cache, once a machine.
//! It writes only into the cache, downloads only through the Go module proxy that `go` is set to, and shows what it is doing.
//! A binary appears in the cache whole or not at all: it is built under another name, under a lock, and renamed.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// The Go module in `tests/cluster`: what is compiled is part of this library's own text.
const SOURCES: [(&str, &str); 3] = [
    ("go.mod", include_str!("../../cluster/go.mod")),
    ("go.sum", include_str!("../../cluster/go.sum")),
    ("main.go", include_str!("../../cluster/main.go")),
];
/// The version that `go.mod` requires; a test holds the two together.
const KUBERNETES: (&str, &str, &str) = ("1", "37", "2");
const COREDNS: &str = "github.com/coredns/coredns@v1.15.0";
const PAUSE: &str = include_str!("../resources/pause.c");
/// The names by which the one binary is called.
const COMPONENTS: [&str; 7] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"];
/// What `go list -deps` counts; for the progress line only.
const PACKAGES: usize = 2900;
const PROGRESS: Duration = Duration::from_secs(5);

/// What can be asked of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Kubernetes,
    CoreDns,
    Pause,
}

/// Where caches are: `$SALLYPORT_CACHE`, else `sallyport` in the user's cache directory.
pub(crate) fn cache_root() -> Result<PathBuf> {
    if let Some(root) = std::env::var_os("SALLYPORT_CACHE") {
        return Ok(root.into());
    }
    if let Some(root) = std::env::var_os("XDG_CACHE_HOME") {
        return Ok(Path::new(&root).join("sallyport"));
    }
    let home = std::env::var_os("HOME").context("no place for the cache: set SALLYPORT_CACHE or HOME")?;
    Ok(Path::new(&home).join(".cache/sallyport"))
}

/// The cache directory of exactly these sources and flags.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    let mut hash = Sha256::new();
    for (name, text) in SOURCES {
        hash.update(name);
        hash.update(text);
    }
    hash.update(link_flags());
    hash.update(COREDNS);
    hash.update(PAUSE);
    let key: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Ok(cache_root()?.join(format!("cluster-{key}")))
}

fn link_flags() -> String {
    let (major, minor, patch) = KUBERNETES;
    let version = "k8s.io/component-base/version";
    format!(
        "-s -w -X {version}.gitVersion=v{major}.{minor}.{patch} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"
    )
}

impl Part {
    fn binary(self) -> &'static str {
        match self {
            Self::Kubernetes => "cluster",
            Self::CoreDns => "coredns",
            Self::Pause => "pause",
        }
    }

    pub(crate) fn is_built(self) -> bool {
        cache_dir().is_ok_and(|dir| dir.join(self.binary()).exists())
    }

    /// The directory that has this part, which is built if it is not there. Blocks: minutes, the first time.
    pub(crate) fn ensure(self) -> Result<PathBuf> {
        let dir = cache_dir()?;
        if self.is_built() {
            return Ok(dir);
        }
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let lock = File::create(dir.join(format!("{}.lock", self.binary())))?;
        if lock.try_lock().is_err() {
            eprintln!("{}: another process is building it, waiting", self.binary());
            lock.lock()?;
        }
        if self.is_built() {
            return Ok(dir);
        }
        let began = Instant::now();
        let fresh = tempfile::Builder::new().prefix(".build-").tempdir_in(&dir)?;
        let built = match self {
            Self::Kubernetes => kubernetes(fresh.path(), &dir)?,
            Self::CoreDns => coredns(fresh.path())?,
            Self::Pause => pause(fresh.path())?,
        };
        fs::rename(built, dir.join(self.binary()))?;
        eprintln!("{}: built in {} s, kept in {}", self.binary(), began.elapsed().as_secs(), dir.display());
        Ok(dir)
    }
}

fn kubernetes(fresh: &Path, dir: &Path) -> Result<PathBuf> {
    for (name, text) in SOURCES {
        fs::write(fresh.join(name), text)?;
    }
    eprintln!("cluster: compiling Kubernetes and etcd, once for this machine (about 8 minutes on two cores)");
    let out = fresh.join("cluster");
    let mut go = go(fresh);
    go.args(["build", "-v", "-trimpath", "-buildvcs=false", "-ldflags", &link_flags(), "-o"]).arg(&out).arg(".");
    compile("cluster", go)?;
    for name in COMPONENTS {
        let link = fresh.join(name);
        symlink("cluster", &link)?;
        fs::rename(link, dir.join(name))?;
    }
    Ok(out)
}

fn coredns(fresh: &Path) -> Result<PathBuf> {
    eprintln!("coredns: compiling CoreDNS, once for this machine (about 3 minutes on two cores)");
    let mut go = go(fresh);
    go.args(["install", "-v", "-trimpath", "-ldflags", "-s -w", COREDNS]).env("GOBIN", fresh);
    compile("coredns", go)?;
    Ok(fresh.join("coredns"))
}

fn pause(fresh: &Path) -> Result<PathBuf> {
    let source = fresh.join("pause.c");
    fs::write(&source, PAUSE)?;
    let out = fresh.join("pause");
    let compiled = Command::new("cc").args(["-Os", "-s", "-static", "-o"]).arg(&out).arg(&source).output();
    let compiled = compiled.context("cannot start cc: install gcc and libc6-dev (hack/setup.sh does)")?;
    if !compiled.status.success() {
        bail!("cc failed on the pause program: {}", String::from_utf8_lossy(&compiled.stderr));
    }
    Ok(out)
}

fn go(dir: &Path) -> Command {
    let mut go = Command::new("go");
    go.current_dir(dir)
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off")
        .env("GOFLAGS", "-p=2")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    go
}

/// Runs a verbose Go build, turning its list of packages into a line every few seconds.
fn compile(what: &str, mut go: Command) -> Result<()> {
    let mut child = go.stderr(Stdio::piped()).spawn().context("cannot start go: install Go 1.26 or newer")?;
    let output = child.stderr.take().context("go has no error output")?;
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    let began = Instant::now();
    let mut next = began + PROGRESS;
    let (mut compiled, mut fetched) = (0_usize, 0_usize);
    let mut said = Vec::new();
    loop {
        // The linker says nothing for a minute: the line comes by the clock, not by what go prints.
        match lines.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(line) if line.starts_with("go: downloading ") => fetched += 1,
            Ok(line) if line.contains(' ') => said.push(line),
            Ok(_) => compiled += 1,
            Err(RecvTimeoutError::Timeout) => {
                next += PROGRESS;
                let elapsed = began.elapsed().as_secs();
                eprintln!(
                    "{what}: {elapsed} s, {fetched} modules fetched, {compiled} packages compiled (of up to {PACKAGES})"
                );
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("go ended with {status}:\n{}", said.join("\n"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_told_is_the_version_compiled() {
        let (major, minor, patch) = KUBERNETES;
        let [(_, go_mod), _, (_, main_go)] = SOURCES;
        assert!(go_mod.contains(&format!("\tk8s.io/kubernetes v{major}.{minor}.{patch}\n")));
        assert!(go_mod.matches(&format!(" v0.{minor}.{patch}\n")).count() >= 33);
        for component in COMPONENTS {
            assert!(main_go.contains(&format!("\"{component}\"")), "{component}");
        }
    }
}
