//! The root file system of an image: paths and what is at them.
//! It reads programs and the libraries that the loader names for them, and writes only where it is told.
//! Parents of every path are in it, so that a reader in order always has a place to put the next.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

#[derive(Debug, Clone)]
pub(super) enum Entry {
    Directory { mode: u32 },
    File { bytes: Arc<[u8]>, mode: u32 },
    Link { to: String },
}

#[derive(Debug, Default)]
pub(super) struct Root {
    entries: BTreeMap<String, Entry>,
}

impl Root {
    pub(super) fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    pub(super) fn add_directory(&mut self, path: &str, mode: u32) {
        self.add_parents(path);
        self.entries.insert(path.to_owned(), Entry::Directory { mode });
    }

    pub(super) fn add_file(&mut self, path: &str, bytes: Vec<u8>, mode: u32) {
        self.add_parents(path);
        self.entries.insert(path.to_owned(), Entry::File { bytes: bytes.into(), mode });
    }

    pub(super) fn add_link(&mut self, path: &str, to: &str) {
        self.add_parents(path);
        self.entries.insert(path.to_owned(), Entry::Link { to: to.to_owned() });
    }

    /// The program at `path`, and its libraries where its loader looks for them.
    pub(super) fn add_program(&mut self, program: &Path, path: &str) -> Result<()> {
        let bytes = fs::read(program).with_context(|| format!("cannot read {}: build it first", program.display()))?;
        self.add_file(path, bytes, 0o755);
        for library in libraries(program)? {
            let bytes = fs::read(&library).with_context(|| format!("cannot read {library}"))?;
            self.add_file(&library, bytes, 0o755);
        }
        Ok(())
    }

    fn add_parents(&mut self, path: &str) {
        let mut parent = path;
        while let Some((above, _)) = parent.rsplit_once('/') {
            if above.is_empty() {
                return;
            }
            self.entries.entry(above.to_owned()).or_insert(Entry::Directory { mode: 0o755 });
            parent = above;
        }
    }

    pub(super) fn write_to(&self, dir: &Path) -> Result<()> {
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
        fs::create_dir_all(dir)?;
        for (path, entry) in &self.entries {
            let target = dir.join(path.trim_start_matches('/'));
            match entry {
                Entry::Directory { mode } => {
                    fs::create_dir_all(&target)?;
                    fs::set_permissions(&target, fs::Permissions::from_mode(*mode))?;
                }
                Entry::File { bytes, mode } => {
                    fs::write(&target, bytes)?;
                    fs::set_permissions(&target, fs::Permissions::from_mode(*mode))?;
                }
                Entry::Link { to } => symlink(to, &target)?,
            }
        }
        Ok(())
    }
}

/// The libraries that the dynamic loader would load for a program, and the loader. None for a static one.
fn libraries(program: &Path) -> Result<Vec<String>> {
    let output = Command::new("ldd").arg(program).output().context("cannot start ldd")?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if said.contains("not a dynamic executable") || said.contains("statically linked") {
        return Ok(Vec::new());
    }
    if !output.status.success() || said.contains("not found") {
        bail!("ldd does not know all libraries of {}: {}", program.display(), said.trim());
    }
    Ok(said.lines().filter_map(library).collect())
}

/// The path in a line such as `libc.so.6 => /lib/libc.so.6 (0x…)` or `/lib64/ld-linux.so.2 (0x…)`.
fn library(line: &str) -> Option<String> {
    let path = line.split_once("=>").map_or(line, |(_, path)| path).split_whitespace().next()?;
    path.starts_with('/').then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_ldd_are_read_as_paths() {
        assert_eq!(library("\tlibc.so.6 => /lib/libc.so.6 (0x1)").as_deref(), Some("/lib/libc.so.6"));
        assert_eq!(library("\t/lib64/ld-linux-x86-64.so.2 (0x1)").as_deref(), Some("/lib64/ld-linux-x86-64.so.2"));
        assert_eq!(library("\tlinux-vdso.so.1 (0x1)"), None);
    }

    #[test]
    fn parents_come_before_their_children() {
        let mut root = Root::default();
        root.add_file("/a/b/c", vec![], 0o644);
        assert_eq!(root.entries().keys().collect::<Vec<_>>(), ["/a", "/a/b", "/a/b/c"]);
    }
}
