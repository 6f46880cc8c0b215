//! Changes of files: woken by the kernel, and by a clock for where the kernel does not tell.
//!
//! Owns the waiting; whoever waits reads again and compares. Touches inotify. Invariant: a change that the
//! kernel did not report is seen within ten seconds all the same.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::timeout;

const POLL: Duration = Duration::from_secs(10);

/// Tells when something may have changed under some paths.
pub(crate) struct Changes {
    woken: mpsc::Receiver<()>,
    _watcher: Option<notify::RecommendedWatcher>,
}

impl Changes {
    /// Watches directories, and for files the directories they are in: editors and Kubernetes replace
    /// files, they do not write into them.
    pub(crate) fn of<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Self {
        let (wake, woken) = mpsc::channel(1);
        // Full means that a wake-up is already on its way.
        let told = move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !event.kind.is_access()) {
                let _coalesced = wake.try_send(());
            }
        };
        let mut directories: Vec<PathBuf> = paths.into_iter().map(directory).collect();
        directories.sort();
        directories.dedup();
        let watcher = notify::recommended_watcher(told).and_then(|mut watcher| {
            directories.iter().try_for_each(|path| watcher.watch(path, RecursiveMode::NonRecursive))?;
            Ok(watcher)
        });
        if let Err(error) = &watcher {
            tracing::warn!(?directories, %error, "changes of these are looked for every 10 s, the kernel does not tell of them");
        }
        Self { woken, _watcher: watcher.ok() }
    }

    /// Waits until something may have changed.
    pub(crate) async fn next(&mut self) {
        // A watcher that failed has dropped its end: then the clock alone counts.
        if let Ok(None) = timeout(POLL, self.woken.recv()).await {
            tokio::time::sleep(POLL).await;
        }
    }
}

fn directory(path: &Path) -> PathBuf {
    let parent = || path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.is_dir() { path.to_owned() } else { parent().to_owned() }
}
