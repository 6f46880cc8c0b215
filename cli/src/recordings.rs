//! Recordings, from a directory or out of the fleet's pods.
//!
//! Owns where they come from and what of a record is understood here. Touches a directory that is given, or a temporary
//! one that the recordings are copied to. Invariant: a line that is no record is counted, never guessed at.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use sallyport_proxy::{Line, lines};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::arguments::{Reach, RecordsFrom};
use crate::cluster::Cluster;

/// A record, as far as it is understood here; what a newer proxy adds is passed over.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Entry {
    pub(crate) time: String,
    pub(crate) session: String,
    pub(crate) sequence: u64,
    pub(crate) agent: String,
    pub(crate) target: String,
    pub(crate) event: String,
    pub(crate) client: Option<String>,
    pub(crate) credential: String,
    pub(crate) facts: Vec<(String, String)>,
    pub(crate) command: Option<u64>,
    pub(crate) text: String,
    pub(crate) parameters: Vec<Value>,
    pub(crate) verdict: Option<String>,
    pub(crate) policy: Option<String>,
    pub(crate) rule: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) revision: Option<String>,
    pub(crate) outcome: Option<String>,
    pub(crate) code: Option<String>,
    pub(crate) rows: Option<u64>,
    pub(crate) duration_micros: Option<u64>,
    /// What is not understood here.
    #[serde(flatten)]
    pub(crate) more: Map<String, Value>,
}

/// A directory with recordings.
pub(crate) struct Recordings {
    directory: PathBuf,
    /// Removes it where it was only copied for this question.
    _copy: Option<Copy>,
}

/// A directory of this process's own, gone when it is dropped.
struct Copy(PathBuf);

impl Drop for Copy {
    fn drop(&mut self) {
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}

impl Recordings {
    /// Those that the arguments speak of.
    pub(crate) async fn of(reach: &Reach, from: &RecordsFrom) -> anyhow::Result<Self> {
        match (&from.records_dir, &from.target) {
            (Some(directory), _) => Ok(Self { directory: directory.clone(), _copy: None }),
            (None, Some(target)) => Self::copied(&Cluster::reach(reach).await?, target, from.keep.as_deref()).await,
            (None, None) => bail!("name the ProtectedTarget, or give --records-dir with a copy of its recordings"),
        }
    }

    /// Copies those of a fleet.
    pub(crate) async fn copied(cluster: &Cluster, target: &str, keep: Option<&Path>) -> anyhow::Result<Self> {
        let (directory, copy) = match keep {
            Some(directory) => {
                std::fs::create_dir_all(directory).with_context(|| format!("--keep {}", directory.display()))?;
                (directory.to_owned(), None)
            }
            None => {
                let directory = own_directory()?;
                (directory.clone(), Some(Copy(directory)))
            }
        };
        let pods = cluster.replicas(target).await?;
        if pods.is_empty() {
            bail!(
                "target {target} in namespace {} has no running replica to copy recordings from: is that its name? (kubectl get pods -n {} -l sallyport.dev/target={target}) Or give --records-dir",
                cluster.namespace(),
                cluster.namespace()
            );
        }
        for pod in pods {
            let files = cluster.copy_recordings(&pod, &directory).await?;
            let _nobody_reads = writeln!(std::io::stderr(), "{pod}: {files} recording files");
        }
        Ok(Self { directory, _copy: copy })
    }

    /// Where they lie.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Hands every record to `take`, run by run in the order it was written; how many lines were none.
    pub(crate) fn each(&self, mut take: impl FnMut(Entry) -> anyhow::Result<()>) -> anyhow::Result<u64> {
        let mut torn = 0;
        for line in lines(&self.directory)? {
            let Line { bytes, .. } = line?;
            match serde_json::from_slice::<Entry>(&bytes) {
                Ok(entry) if !entry.session.is_empty() => take(entry)?,
                _ => torn += 1,
            }
        }
        Ok(torn)
    }
}

/// A new directory that nobody else can read.
fn own_directory() -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let pid = std::process::id();
    for attempt in 0..100 {
        let path = std::env::temp_dir().join(format!("sallyport-{pid}-{attempt}"));
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| path.clone()).with_context(|| format!("{} cannot be made", path.display())),
        }
    }
    bail!("no temporary directory can be made: give --keep DIRECTORY")
}
