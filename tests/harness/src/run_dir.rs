//! The directory of one running thing: its data, its logs, and the list of processes that belong to it.
//! It owns everything under the run root and the control groups of the same name, and touches no process that is not on its list.
//! A directory lives no longer than its owner: a janitor removes it when the owner ends, a sweep when the janitor was killed too.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where control groups are mounted, as one hierarchy (v2) or one folder a controller (v1).
const CGROUPS: &str = "/sys/fs/cgroup";
/// How long a killed process may take to disappear.
const DEATH: Duration = Duration::from_secs(10);
/// An unfinished directory is younger than this while its maker lives.
const UNFINISHED: Duration = Duration::from_secs(60);

/// Reads until its owner's end of the pipe closes, which the kernel does however the owner ends, then removes what the owner left.
/// The directory goes last, so that a sweep finds what a killed janitor did not finish; and it is moved away first, because
/// its name may be taken again while it is still being removed.
const JANITOR: &str = r#"
read -r _
tries=0
while [ $tries -lt 40 ]; do
  left=0
  for root in /sys/fs/cgroup /sys/fs/cgroup/*; do
    [ -d "$root/$2" ] || continue
    find "$root/$2" -depth -type d -exec rmdir {} \; 2>/dev/null
    [ -d "$root/$2" ] && left=1
  done
  [ $left = 0 ] && break
  tries=$((tries + 1))
  sleep 0.25
done
gone="$(dirname "$1")/.gone-$$"
mv "$1" "$gone" || exit 0
until rm -rf "$gone" 2>/dev/null || [ $tries -ge 80 ]; do
  tries=$((tries + 1))
  sleep 0.25
done
"#;

/// A process, told apart from a later one with the same number by when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Alive {
    pub(crate) pid: i32,
    started: u64,
}

impl Alive {
    /// The process with this number, if there is one.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may hold spaces and parentheses: what follows the last one is well formed.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        if matches!(fields.next()?, "Z" | "X") {
            return None;
        }
        let started = fields.nth(18)?.parse().ok()?;
        Some(Self { pid, started })
    }

    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    fn parse(line: &str) -> Option<Self> {
        let (pid, started) = line.trim().split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, started: started.parse().ok()? })
    }

    fn line(self) -> String {
        format!("{} {}\n", self.pid, self.started)
    }

    pub(crate) fn signal(self, signal: Signal) {
        if self.is_alive() {
            // It may end between the question and the signal: that is what was wanted.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// Where all run directories are: `$SALLYPORT_RUN_ROOT`, else `sallyport-<uid>` in the temporary directory.
pub fn run_root() -> PathBuf {
    match std::env::var_os("SALLYPORT_RUN_ROOT") {
        Some(root) => PathBuf::from(root),
        None => std::env::temp_dir().join(format!("sallyport-{}", nix::unistd::getuid())),
    }
}

/// The run root, made if absent. Somebody else's directory of that name is refused: it would hold our keys.
fn owned_run_root() -> Result<PathBuf> {
    let root = run_root();
    fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
    let owner = fs::symlink_metadata(&root)?.uid();
    if owner != nix::unistd::getuid().as_raw() {
        bail!("{} belongs to user {owner}: remove it or set SALLYPORT_RUN_ROOT", root.display());
    }
    fs::set_permissions(&root, fs::Permissions::from_mode(0o711))?;
    Ok(root)
}

/// A directory under the run root that ends with this process.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    pids: Mutex<fs::File>,
    janitor: Option<Child>,
}

impl RunDir {
    /// Sweeps, then makes `<kind>-<name>`, or a name that nothing else has. An existing directory of a living owner is an error.
    pub(crate) fn create(kind: &str, name: Option<&str>) -> Result<Self> {
        sweep()?;
        let root = owned_run_root()?;
        let fresh = tempfile::Builder::new().prefix(&format!(".{kind}-")).tempdir_in(&root)?;
        fs::set_permissions(fresh.path(), fs::Permissions::from_mode(0o711))?;
        let own = Alive::of(std::process::id().try_into()?).context("this process is not in /proc")?;
        fs::write(fresh.path().join("owner"), own.line())?;
        let pids = fs::File::create(fresh.path().join("pids"))?;
        let unique =
            fresh.path().file_name().and_then(|n| n.to_str()).unwrap_or_default().trim_start_matches('.').to_owned();
        let path = root.join(name.map_or(unique, |n| format!("{kind}-{n}")));
        // Only a directory that already names its owner becomes visible: a concurrent sweep never sees one without.
        fs::rename(fresh.path(), &path)
            .with_context(|| format!("{} is in use: something of that name is up", path.display()))?;
        let _ = fresh.keep();
        let janitor = janitor(&path)?;
        let run = Self { path, pids: Mutex::new(pids), janitor: Some(janitor) };
        run.record(run.janitor.as_ref().map_or(0, Child::id))?;
        Ok(run)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// The control group of what runs here, relative to each hierarchy.
    pub(crate) fn cgroup(&self) -> String {
        cgroup_of(&self.path)
    }

    /// Puts a child on the list of what a sweep may kill.
    pub(crate) fn record(&self, pid: u32) -> Result<()> {
        if let Some(alive) = Alive::of(pid.try_into()?) {
            let mut pids = self.pids.lock().map_err(|_| anyhow::anyhow!("the list of processes is poisoned"))?;
            pids.write_all(alive.line().as_bytes())?;
        }
        Ok(())
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        keep_logs(&self.path);
        end(&self.path);
        if let Some(mut janitor) = self.janitor.take() {
            drop(janitor.stdin.take());
            let _ = janitor.wait();
        }
    }
}

fn janitor(path: &Path) -> Result<Child> {
    Command::new("sh")
        .args(["-c", JANITOR, "sallyport-janitor"])
        .arg(path)
        .arg(cgroup_of(path))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        // Its own group, so that a Ctrl-C meant for the test run does not end the one who cleans up after it.
        .process_group(0)
        .spawn()
        .context("cannot start sh")
}

fn cgroup_of(path: &Path) -> String {
    format!("sallyport-{}", path.file_name().and_then(|n| n.to_str()).unwrap_or("unnamed"))
}

/// Copies the logs of a run to `$SALLYPORT_KEEP_LOGS/<run>/`, for whoever has to find out why it failed.
fn keep_logs(path: &Path) {
    let (Some(keep), Some(name)) = (std::env::var_os("SALLYPORT_KEEP_LOGS"), path.file_name()) else {
        return;
    };
    let to = Path::new(&keep).join(name);
    let copied = fs::create_dir_all(&to).and_then(|()| {
        for entry in fs::read_dir(path)?.flatten() {
            if entry.path().extension().is_some_and(|e| e == "log") {
                fs::copy(entry.path(), to.join(entry.file_name()))?;
            }
        }
        Ok(())
    });
    if let Err(error) = copied {
        eprintln!("logs of {} were not kept: {error}", path.display());
    }
}

/// Ends what crashed runs left: their processes, control groups and directories. Returns the directories removed.
pub fn sweep() -> Result<Vec<PathBuf>> {
    let root = owned_run_root()?;
    let mut swept = Vec::new();
    for entry in fs::read_dir(&root)?.flatten() {
        let path = entry.path();
        if !path.is_dir() || path.ends_with("ports") {
            continue;
        }
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        let young = entry
            .metadata()
            .and_then(|m| m.modified())
            .ok()
            .and_then(|t| t.elapsed().ok())
            .is_none_or(|age| age < UNFINISHED);
        let owned = owner(&path).is_some_and(Alive::is_alive);
        if owned || (hidden && young) {
            continue;
        }
        end(&path);
        swept.push(path);
    }
    Ok(swept)
}

/// Who holds the run directory at this path.
pub(crate) fn owner(path: &Path) -> Option<Alive> {
    Alive::parse(&fs::read_to_string(path.join("owner")).ok()?)
}

/// Kills what is on the list of a run directory, waits for it to be gone, and removes the directory and its control groups.
fn end(path: &Path) {
    let listed = fs::read_to_string(path.join("pids")).unwrap_or_default();
    let listed: Vec<Alive> = listed.lines().filter_map(Alive::parse).collect();
    for process in &listed {
        process.signal(Signal::SIGKILL);
    }
    let deadline = Instant::now() + DEATH;
    while listed.iter().any(|p| p.is_alive()) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    while Instant::now() < deadline {
        let groups_gone = remove_cgroups(&cgroup_of(path));
        let directory_gone = fs::remove_dir_all(path).is_ok() || !path.exists();
        if groups_gone && directory_gone {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    eprintln!("{} could not be removed within {DEATH:?}: look for mounts and processes there", path.display());
}

/// Removes a control group from every hierarchy, children first. False if something is still in it.
fn remove_cgroups(name: &str) -> bool {
    let mut roots = vec![PathBuf::from(CGROUPS)];
    roots.extend(fs::read_dir(CGROUPS).into_iter().flatten().flatten().map(|e| e.path()).filter(|p| p.is_dir()));
    let mut gone = true;
    for root in roots {
        gone &= remove_group(&root.join(name));
    }
    gone
}

fn remove_group(group: &Path) -> bool {
    if !group.is_dir() {
        return true;
    }
    for child in fs::read_dir(group).into_iter().flatten().flatten() {
        if child.path().is_dir() {
            remove_group(&child.path());
        }
    }
    fs::remove_dir(group).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_apart_by_when_it_started() {
        let own = Alive::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.is_alive());
        assert_eq!(Alive::parse(&own.line()), Some(own));
        assert!(!Alive { started: own.started + 1, ..own }.is_alive());
    }

    #[test]
    fn a_run_directory_of_a_living_owner_is_not_taken_over() {
        let name = format!("taken-{}", std::process::id());
        let first = RunDir::create("test", Some(&name)).unwrap();
        let second = RunDir::create("test", Some(&name));
        assert!(second.unwrap_err().to_string().contains("is in use"));
        let path = first.path().to_owned();
        assert!(path.exists());
        drop(first);
        assert!(!path.exists());
    }
}
