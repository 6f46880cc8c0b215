//! The last known good bundle and roster, kept for a restart while the API server is away.
//!
//! Owns the two files of the state directory. Touches that directory. Invariant: a file is whole or not
//! there; its time of modification says when its content was last known to be the newest.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use sallyport_policy::Roster;

/// Keeps the last known good in a directory.
#[derive(Debug)]
pub(crate) struct LastKnownGood {
    directory: PathBuf,
    kept: Mutex<[Option<String>; 2]>,
}

/// A document that was kept, and when it was last known to be the newest.
#[derive(Debug)]
pub(crate) struct Kept<T> {
    pub(crate) content: T,
    pub(crate) confirmed: SystemTime,
}

#[derive(Debug, Clone, Copy)]
enum Document {
    Bundle,
    Roster,
}

impl Document {
    const fn name(self) -> &'static str {
        match self {
            Self::Bundle => "bundle.json",
            Self::Roster => "roster.json",
        }
    }
}

impl LastKnownGood {
    pub(crate) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), kept: Mutex::default() }
    }

    /// The bundle that was kept, as text: whoever puts it in force checks it.
    pub(crate) fn bundle(&self) -> Option<Kept<String>> {
        self.read(Document::Bundle)
    }

    /// The roster that was kept.
    pub(crate) fn roster(&self) -> Option<Kept<Roster>> {
        let kept = self.read(Document::Roster)?;
        match serde_json::from_str(&kept.content) {
            Ok(content) => Some(Kept { content, confirmed: kept.confirmed }),
            Err(error) => {
                tracing::error!(%error, "the roster that was kept cannot be read");
                None
            }
        }
    }

    /// Keeps a bundle that has taken force.
    pub(crate) fn keep_bundle(&self, json: &str) {
        self.keep(Document::Bundle, json);
    }

    /// Keeps a roster that has taken force.
    pub(crate) fn keep_roster(&self, roster: &Roster) {
        match serde_json::to_string(roster) {
            Ok(json) => self.keep(Document::Roster, &json),
            Err(error) => tracing::error!(%error, "the roster cannot be kept for a restart"),
        }
    }

    /// What was kept was the newest at those times.
    pub(crate) fn confirm(&self, bundle: Option<SystemTime>, roster: Option<SystemTime>) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for (document, confirmed) in [(Document::Bundle, bundle), (Document::Roster, roster)] {
            let ours = kept.get(document as usize).is_some_and(Option::is_some);
            if let Some(at) = confirmed.filter(|_| ours) {
                let path = self.directory.join(document.name());
                // Only its age would be told too high.
                let _told_older = OpenOptions::new().write(true).open(path).and_then(|file| file.set_modified(at));
            }
        }
    }

    fn read(&self, document: Document) -> Option<Kept<String>> {
        let path = self.directory.join(document.name());
        let read = std::fs::metadata(&path).and_then(|meta| Ok((meta.modified()?, std::fs::read_to_string(&path)?)));
        match read {
            Ok((confirmed, content)) => Some(Kept { content, confirmed }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "what was kept cannot be read");
                None
            }
        }
    }

    fn keep(&self, document: Document, json: &str) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = kept.get_mut(document as usize) else { return };
        if last.as_deref() == Some(json) {
            return;
        }
        match self.write(document, json) {
            Ok(()) => *last = Some(json.to_owned()),
            // Serving goes on: only a restart without the API server would miss it.
            Err(error) => tracing::warn!(file = document.name(), %error, "cannot be kept for a restart"),
        }
    }

    fn write(&self, document: Document, json: &str) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let path = self.directory.join(document.name());
        let new = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(json.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, &path)?;
        File::open(&self.directory)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sallyport_policy::Member;

    #[test]
    fn what_was_kept_is_read_again_with_its_age() {
        let dir = tempfile::tempdir().unwrap();
        let mut roster = Roster::default();
        roster.insert(Member { namespace: "ci".into(), name: "bot".into(), ..Member::default() });
        let keeper = LastKnownGood::new(dir.path());
        keeper.keep_bundle("{}");
        keeper.keep_roster(&roster);
        let then = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        keeper.confirm(None, Some(then));

        let again = LastKnownGood::new(dir.path());
        assert_eq!(again.bundle().unwrap().content, "{}");
        let kept = again.roster().unwrap();
        assert_eq!((kept.content, kept.confirmed), (roster, then));
        again.confirm(Some(SystemTime::now()), Some(SystemTime::now()));
        assert_eq!(again.roster().unwrap().confirmed, then, "what this process has not seen is not confirmed");
    }

    #[test]
    fn a_torn_write_leaves_the_former_and_garbage_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let keeper = LastKnownGood::new(dir.path());
        assert!(keeper.bundle().is_none() && keeper.roster().is_none());
        std::fs::write(dir.path().join("roster.json"), "{\"members\":[{").unwrap();
        assert!(keeper.roster().is_none());
    }
}
