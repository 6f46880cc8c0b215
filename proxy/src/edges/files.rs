//! Bundle and roster from files: the proxy outside of a cluster.
//!
//! Owns their reading and reading again. Touches the two files. Invariant: a file that cannot be used
//! changes nothing, and is told once.

use std::convert::Infallible;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use sallyport_policy::Roster;

use super::changes::Changes;
use crate::doorway::{Doorway, Seen};

/// Bytes of a roster at most.
const LONGEST: u64 = 16 * 1024 * 1024;

/// Bundle and roster as files, and what was last read of them.
pub(crate) struct FileSource {
    bundle: File,
    roster: File,
}

struct File {
    path: PathBuf,
    last: Option<Result<String, String>>,
}

impl FileSource {
    pub(crate) const fn new(bundle: PathBuf, roster: PathBuf) -> Self {
        Self { bundle: File { path: bundle, last: None }, roster: File { path: roster, last: None } }
    }

    /// Reads what has changed. Tells everything that cannot be used.
    pub(crate) fn refresh(&mut self, doorway: &Doorway) -> Result<(), String> {
        let seen = Seen::AtSource(SystemTime::now());
        // The roster first: whom a new bundle speaks of is known when it takes force.
        let roster = self.roster.changed(|text| {
            doorway.put_roster(read_roster(text)?, seen);
            Ok(())
        });
        let bundle = self.bundle.changed(|text| doorway.put_bundle(text, seen).map(drop));
        if roster.is_err() {
            doorway.metrics.input_refused("roster");
        }
        let now = SystemTime::now();
        doorway.confirm(bundle.is_ok().then_some(now), roster.is_ok().then_some(now));
        let causes: Vec<_> = [bundle, roster].into_iter().filter_map(Result::err).collect();
        if causes.is_empty() { Ok(()) } else { Err(causes.join("; ")) }
    }

    /// Reads the files again as they change.
    pub(crate) async fn follow(mut self, doorway: Arc<Doorway>) -> Infallible {
        let mut changes = Changes::of([self.bundle.path.as_path(), self.roster.path.as_path()]);
        loop {
            if let Err(cause) = self.refresh(&doorway) {
                tracing::error!(%cause, "a new file cannot be used, what was read before stays");
            }
            changes.next().await;
        }
    }
}

impl File {
    fn changed(&mut self, take: impl FnOnce(&str) -> Result<(), String>) -> Result<(), String> {
        let read = read(&self.path);
        if self.last.as_ref() == Some(&read) {
            return Ok(());
        }
        let taken =
            read.clone().and_then(|text| take(&text).map_err(|cause| format!("{}: {cause}", self.path.display())));
        self.last = Some(read);
        taken
    }
}

fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_string(&mut text));
    file.map_err(|error| format!("{}: {error}", path.display()))?;
    if text.len() as u64 > LONGEST {
        return Err(format!("{} has more than {LONGEST} bytes", path.display()));
    }
    Ok(text)
}

/// A roster: `members:` and a list, in YAML or JSON.
///
/// # Errors
/// When it is empty, or not of this form.
pub fn read_roster(text: &str) -> Result<Roster, String> {
    if text.trim().is_empty() {
        return Err("the roster is empty: write \"members: []\" if nobody shall be met".to_owned());
    }
    serde_saphyr::from_str(text).map_err(|error| format!("the roster cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_roster_is_yaml_or_json_and_never_empty_by_accident() {
        let yaml = "members:\n- {namespace: ci, name: bot, groups: [g], minNotBefore: 5}\n";
        let json = r#"{"members":[{"namespace":"ci","name":"bot","groups":["g"],"minNotBefore":5}]}"#;
        let roster = read_roster(yaml).unwrap();
        assert_eq!(roster.member("ci", "bot").unwrap().min_not_before, 5);
        assert_eq!(read_roster(json).unwrap(), roster);
        assert!(read_roster("members: []").unwrap().members.is_empty());
        for bad in ["", " \n", "members:\n- {namespace: ci}", "members: []\nmembres: []", "- 1"] {
            assert!(read_roster(bad).is_err(), "{bad:?}");
        }
    }
}
