//! Credentials as Kubernetes mounts them.
//!
//! Owns the proof that no name leads out of the directory and no pair is mixed. Touches temporary
//! directories. Invariant under test: errors name files and never their content.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use sallyport_core::ports::Vault;
use sallyport_proxy::DirectoryVault;
use secrecy::ExposeSecret;

fn pair(dir: &Path, username: &str, password: &str) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("username"), username).unwrap();
    fs::write(dir.join("password"), password).unwrap();
}

fn read(vault: &DirectoryVault, name: &str) -> Result<(String, String), String> {
    vault.credential(name).map(|found| (found.username, found.password.expose_secret().to_owned()))
}

#[test]
fn no_name_leads_out_of_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("credentials");
    pair(&inside.join("default"), "app", "secret");
    pair(&dir.path().join("outside"), "root", "stolen");
    symlink(dir.path().join("outside"), inside.join("link")).unwrap();
    let vault = DirectoryVault::new(&inside);
    assert_eq!(read(&vault, "default"), Ok(("app".into(), "secret".into())));
    for name in ["", ".", "..", "../outside", "default/../../outside", "/etc", "a\0b", ".default", "link", "a\nb"] {
        let cause = read(&vault, name).unwrap_err();
        assert!(!cause.contains("stolen") && !cause.contains('\n') && !cause.contains('\0'), "{name:?}: {cause}");
    }
    assert!(read(&vault, "link").unwrap_err().contains("leads out"));
}

#[test]
fn what_is_missing_or_half_written_is_named_by_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let vault = DirectoryVault::new(dir.path());
    assert!(read(&vault, "readonly").unwrap_err().contains("readonly/username is missing"));
    pair(&dir.path().join("readonly"), "app", "");
    assert!(read(&vault, "readonly").unwrap_err().contains("readonly/password is empty"));
    fs::remove_file(dir.path().join("readonly/password")).unwrap();
    assert!(read(&vault, "readonly").unwrap_err().contains("readonly/password is missing"));
    fs::write(dir.path().join("readonly/password"), [0xff, 0xfe]).unwrap();
    assert!(read(&vault, "readonly").unwrap_err().contains("is not text"));
    fs::write(dir.path().join("readonly/password"), "x".repeat(20_000)).unwrap();
    assert!(read(&vault, "readonly").unwrap_err().contains("has more than"));
}

#[test]
fn only_the_last_line_break_is_not_part_of_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    let vault = DirectoryVault::new(dir.path());
    for (written, meant) in [("p w \n", "p w "), ("pw\r\n", "pw"), ("pw\n\n", "pw\n"), (" pw", " pw")] {
        pair(&dir.path().join("default"), "app\n", written);
        assert_eq!(read(&vault, "default"), Ok(("app".into(), meant.into())));
    }
}

#[test]
fn a_rotation_under_load_never_mixes_two_pairs() {
    let dir = tempfile::tempdir().unwrap();
    let mount = dir.path().join("default");
    fs::create_dir(&mount).unwrap();
    // As the kubelet does it: a directory a version, one link to it that is replaced, files behind that.
    let publish = |version: usize| {
        let name = format!("..{version}");
        pair(&mount.join(&name), &format!("user-{version}"), &format!("password-{version}"));
        symlink(&name, mount.join("..data_tmp")).unwrap();
        fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
        if let Some(old) = version.checked_sub(1) {
            fs::remove_dir_all(mount.join(format!("..{old}"))).unwrap();
        }
    };
    publish(0);
    for name in ["username", "password"] {
        symlink(format!("..data/{name}"), mount.join(name)).unwrap();
    }
    let vault = DirectoryVault::new(dir.path());
    let done = std::sync::atomic::AtomicBool::new(false);
    let mut met = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (1..300).for_each(publish);
            done.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        while !done.load(std::sync::atomic::Ordering::SeqCst) {
            // Two swaps within one look are told as missing; a mixed pair must never come.
            if let Ok((username, password)) = read(&vault, "default") {
                assert_eq!(username.strip_prefix("user-"), password.strip_prefix("password-"));
                met += 1;
            }
        }
    });
    assert!(met > 0);
    assert_eq!(read(&vault, "default"), Ok(("user-299".into(), "password-299".into())));
}
