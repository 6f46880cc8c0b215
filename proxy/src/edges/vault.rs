//! The vault: credentials of the target, mounted as files.
//!
//! Owns their reading, fresh at every login, so that a rotated Secret counts at once. Touches the
//! credentials directory. Invariants: a user name and a password come from the same version of a Secret;
//! an error names the file, never its content; no name leads out of the directory.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use sallyport_core::ports::{Credential, MaskKey, Vault};
use secrecy::{ExposeSecret, SecretString};

/// Bytes of a user name or password at most.
const LONGEST: u64 = 16 * 1024;

/// Characters of a mask's key at least.
const SHORTEST_KEY: usize = 32;

/// Credentials in a directory: a sub-directory each, with the files `username` and `password`; and the key of masks, in
/// `mask.key/key`.
#[derive(Debug)]
pub struct DirectoryVault {
    directory: PathBuf,
}

impl DirectoryVault {
    /// The credentials in `directory`.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    fn read(&self, name: &str) -> Result<Credential, String> {
        let username = self.directory.join(name).join("username");
        // Kubernetes swaps a whole volume by one symbolic link. It is followed once, and both files are read
        // from where it led: never the old user with the new password.
        let real = username.canonicalize().map_err(|error| cause(&username, &error))?;
        let home = self.directory.canonicalize().map_err(|error| cause(&self.directory, &error))?;
        let version = real.parent().filter(|_| real.starts_with(&home));
        let version =
            version.ok_or_else(|| format!("{} leads out of the credentials directory", username.display()))?;
        let user = text(&real)?;
        let password = text(&version.join("password"))?;
        Ok(Credential { username: user.expose_secret().to_owned(), password })
    }
}

impl Vault for DirectoryVault {
    fn credential(&self, name: &str) -> Result<Credential, String> {
        let plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.');
        if name.is_empty() || name.len() > 253 || name.starts_with('.') || !name.chars().all(plain) {
            return Err(format!("\"{}\" is not the name of a credential", name.escape_default()));
        }
        // Once more: the version that was followed may have been removed before it was read.
        self.read(name).or_else(|_| self.read(name))
    }

    fn mask_key(&self) -> Result<Option<MaskKey>, String> {
        let path = self.directory.join("mask.key").join("key");
        if !path.exists() {
            return Ok(None);
        }
        let key = text(&path)?;
        match key.expose_secret().len() {
            SHORTEST_KEY.. => Ok(Some(MaskKey::new(key))),
            short => {
                Err(format!("{} has {short} characters, fewer than {SHORTEST_KEY}: make a longer one", path.display()))
            }
        }
    }
}

fn text(path: &Path) -> Result<SecretString, String> {
    let file = File::open(path).map_err(|error| cause(path, &error))?;
    let mut text = String::new();
    let read = file.take(LONGEST + 1).read_to_string(&mut text).map_err(|error| cause(path, &error));
    let mut text = SecretText(text);
    read?;
    if text.0.len() as u64 > LONGEST {
        return Err(format!("{} has more than {LONGEST} bytes", path.display()));
    }
    // What `echo` and editors add is not part of a password.
    let kept = text.0.strip_suffix('\n').map_or(text.0.len(), |line| line.strip_suffix('\r').unwrap_or(line).len());
    text.0.truncate(kept);
    if text.0.is_empty() {
        return Err(format!("{} is empty: write it", path.display()));
    }
    Ok(SecretString::from(std::mem::take(&mut text.0)))
}

/// Wiped when it is dropped on the way.
struct SecretText(String);

impl Drop for SecretText {
    fn drop(&mut self) {
        drop(SecretString::from(std::mem::take(&mut self.0)));
    }
}

fn cause(path: &Path, error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => format!("{} is missing: mount it", path.display()),
        ErrorKind::InvalidData => format!("{} is not text", path.display()),
        _ => format!("{} cannot be read: {error}", path.display()),
    }
}
