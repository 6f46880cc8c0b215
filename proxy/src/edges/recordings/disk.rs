//! What recordings need of a disk, so that tests can put one under them that forgets what was not synced.
//!
//! Owns opening, writing and syncing of record files. Touches the records directory. Invariant: a file is made
//! anew or not at all, and nobody else may read it.

use std::fmt::Debug;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// Where record files are made.
pub(crate) trait Disk: Debug + Send + Sync {
    /// Makes the directory that files go to, where it is missing.
    fn make_directory(&self, directory: &Path) -> io::Result<()>;

    /// Makes a file that only grows; fails where there is one of that name.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn RecordFile>>;

    /// Brings the names of the files in a directory to the disk: a file that is synced and has no name is lost.
    fn sync_names(&self, directory: &Path) -> io::Result<()>;
}

/// A file that records are appended to.
pub(crate) trait RecordFile: Debug + Send + Sync {
    /// One write: how much of it the kernel took.
    fn append(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Brings all that was written to the disk.
    fn sync(&self) -> io::Result<()>;

    /// Whether it is what stands at that path.
    fn is_at(&self, path: &Path) -> bool;
}

/// The machine's own.
#[derive(Debug)]
pub(crate) struct LocalDisk;

impl Disk for LocalDisk {
    fn make_directory(&self, directory: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn RecordFile>> {
        let mut options = OpenOptions::new();
        let file = options.append(true).create_new(true).mode(0o600).open(path)?;
        // So that nobody compresses it meanwhile. Where files cannot be locked, nobody compresses those of others.
        let _may_not_be_possible = file.try_lock();
        Ok(Arc::new(file))
    }

    fn sync_names(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }
}

impl RecordFile for File {
    fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut file = self;
        loop {
            match file.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn is_at(&self, path: &Path) -> bool {
        is_at(self, path)
    }
}

/// Whether a file is what stands at that path.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    let there = std::fs::metadata(path);
    matches!((there, file.metadata()), (Ok(there), Ok(ours)) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()))
}
