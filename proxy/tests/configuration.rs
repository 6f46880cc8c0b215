//! The command line of the real program.
//!
//! Owns the proof that a wrong configuration is told in full. Touches the built program. Invariant under
//! test: every error at once, exit code 2, never a weaker default.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::process::{Command, Output};

fn proxy(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sallyport-proxy"));
    command.env_clear().args(arguments).envs(environment.iter().copied());
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn every_error_is_listed_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().to_str().unwrap();
    let (code, told) = proxy(
        &["serve", "--target-name", "orders-db", "--listen", "5432", "--tls-dir", "/nowhere", "--upstream-ca", here],
        &[("SALLYPORT_RECORDS_DIR", "/etc/hostname"), ("POD_NAME", "../pod"), ("SALLYPORT_LOG", "a=b=c")],
    );
    assert_eq!(code, Some(2), "{told}");
    for cause in [
        "--target-namespace is missing",
        "--state-dir is missing",
        "--listen \"5432\" is not an address",
        "--tls-dir /nowhere:",
        "--credentials-dir is missing",
        "is not a file",
        "--records-dir /etc/hostname is not a directory",
        "--pod-name (POD_NAME) \"../pod\" is not the name of a pod",
        "--log \"a=b=c\" is no filter",
        "9 error(s)",
    ] {
        assert!(told.contains(cause), "{cause} in:\n{told}");
    }
}

#[test]
fn there_is_exactly_one_source_of_policy() {
    let (code, told) = proxy(&["serve"], &[]);
    assert_eq!(code, Some(2));
    assert!(told.contains("this proxy would have no policy"), "{told}");
    let (code, told) = proxy(&["serve", "--target-name", "t", "--bundle", "/b"], &[]);
    assert_eq!(code, Some(2));
    assert!(told.contains("two sources of policy"), "{told}");
}

#[test]
fn an_argument_that_would_do_nothing_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().to_str().unwrap();
    let (code, told) = proxy(&["serve", "--bundle", "/b", "--roster", "/r", "--state-dir", here], &[]);
    assert_eq!(code, Some(2));
    assert!(told.contains("--state-dir does nothing with --bundle"), "{told}");
    assert_eq!(proxy(&["serve", "--unknown"], &[]).0, Some(2));
}

#[test]
fn files_that_cannot_be_used_are_all_named() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().to_str().unwrap();
    let file = dir.path().join("empty");
    std::fs::write(&file, "").unwrap();
    let empty = file.to_str().unwrap();
    let (code, told) = proxy(
        &[
            "serve",
            "--bundle",
            empty,
            "--roster",
            empty,
            "--tls-dir",
            here,
            "--credentials-dir",
            here,
            "--records-dir",
            here,
            "--upstream-ca",
            empty,
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        ],
        &[],
    );
    assert_eq!(code, Some(1), "{told}");
    for cause in ["tls.crt", "tls.key", "ca.crt", "no certificate in it"] {
        assert!(told.contains(cause), "{cause} in:\n{told}");
    }
}
