//! What `config/monitoring` asks for, beside what a program exposes.
//!
//! Reads the folder and nothing else. A metric that was renamed or taken out makes an alert that never fires: the
//! programs' own tests ask here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// The folder with rules and dashboard.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/monitoring")
}

/// An error where a rule or panel names a series with that prefix that is not in `exposed`, a page of metrics as
/// Prometheus reads it with something in every metric; and where none names any.
pub fn all_exist(prefix: &str, exposed: &str) -> Result<()> {
    let series = exposed.lines().filter(|line| !line.starts_with('#'));
    let exist: BTreeSet<_> = series.filter_map(|line| line.split(['{', ' ']).next()).collect();
    let asked = asked(prefix)?;
    ensure!(!asked.is_empty(), "nothing asks for {prefix}: are these the right files?");
    let missing: Vec<_> = asked.iter().filter(|name| !exist.contains(name.as_str())).collect();
    ensure!(missing.is_empty(), "asked for and not exposed: {missing:?}; there are {exist:?}");
    Ok(())
}

/// Every word of the folder's files that begins so.
fn asked(prefix: &str) -> Result<BTreeSet<String>> {
    let mut asked = BTreeSet::new();
    for entry in std::fs::read_dir(folder())? {
        let text = std::fs::read_to_string(entry?.path())?;
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
        asked.extend(words.filter(|word| word.starts_with(prefix)).map(str::to_owned));
    }
    Ok(asked)
}
