//! The module rules of `docs/architecture.md`, held by the machine: which crate may know which, and which
//! folder may name which library. Reads `cargo metadata` and the sources; changes nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Each crate of ours, and the crates of ours it may depend on. A crate that is not here fails the test.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("sallyport-client", &[]),
    ("sallyport-crds", &[]),
    ("sallyport-policy", &[]),
    ("sallyport-core", &["sallyport-policy"]),
    ("sallyport-postgres", &["sallyport-core", "sallyport-policy"]),
    (
        "sallyport-proxy",
        &["sallyport-client", "sallyport-core", "sallyport-policy", "sallyport-postgres", "sallyport-crds"],
    ),
    ("sallyport-operator", &["sallyport-client", "sallyport-crds", "sallyport-policy"]),
    (
        "sallyport-cli",
        &["sallyport-crds", "sallyport-operator", "sallyport-policy", "sallyport-postgres", "sallyport-proxy"],
    ),
    ("sallyport-harness", &[]),
    ("sallyport-architecture", &[]),
    ("sallyport-conformance", &["sallyport-harness", "sallyport-policy"]),
    ("sallyport-e2e", &["sallyport-crds", "sallyport-harness"]),
    ("sallyport-bench", &["sallyport-conformance", "sallyport-harness", "sallyport-policy"]),
];

/// Libraries that reach the outside world, and the pure crates that must not have them at all.
const PURE: &[&str] = &["sallyport-crds", "sallyport-policy"];
const OUTSIDE: &[&str] = &["tokio", "reqwest", "hyper", "rand", "jiff", "kube-client", "notify", "axum"];
/// What a pure crate has of them all the same: calendars and time zones that are part of the program. Its clock and the
/// machine's zones are banned below, and by the crate's `clippy.toml`.
const CALENDAR: (&str, &str) = ("sallyport-policy", "jiff");

/// Where in the sources a path may be named at all.
const NAMED_ONLY_IN: &[(&str, &[&str], &[&str])] = &[
    // (in the crate's folder, these words, only below these)
    ("proxy/src", &["kube::", "k8s_openapi::", "sallyport_client::", "sallyport_crds::"], &["proxy/src/edges"]),
    ("proxy/core/src", &["kube::", "std::fs", "std::env", "SystemTime::now", "rand::"], &[]),
    ("proxy/protocols/postgres/src", &["kube::", "std::fs", "std::env", "SystemTime::now"], &[]),
    (
        "proxy/policy/src",
        &["std::fs", "std::env", "std::net", "::now()", "HashMap", "tz::db", "_env()", "::system()"],
        &[],
    ),
    ("operator/src/derive", &["std::fs", "std::env", "tokio::", "now()", "rand::", "HashMap", "kube::Client"], &[]),
    ("cli/src", &["kube::", "k8s_openapi::"], &["cli/src/cluster.rs"]),
    // Its pure derivation alone, and the proxy's reading of what it wrote.
    ("cli/src", &["sallyport_operator"], &["cli/src/draft.rs"]),
    ("crds/src", &["std::net", "tokio::", "kube::Client", "SystemTime::now"], &[]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Every package of the workspace with what it depends on outside of tests.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let shipped = |dependency: &&Value| dependency["kind"] != "dev";
    let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
    packages
        .iter()
        .map(|package| {
            (name(package), package["dependencies"].as_array().unwrap().iter().filter(shipped).map(name).collect())
        })
        .collect()
}

fn sources(below: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn dependencies_point_one_way() {
    let rules: BTreeMap<_, _> = MAY_KNOW.iter().copied().collect();
    for (package, dependencies) in dependencies() {
        let allowed = rules.get(package.as_str()).unwrap_or_else(|| panic!("{package} has no row in MAY_KNOW"));
        for ours in dependencies.iter().filter(|name| name.starts_with("sallyport-")) {
            assert!(allowed.contains(&ours.as_str()), "{package} must not know {ours}");
        }
    }
}

#[test]
fn pure_crates_have_no_way_to_the_outside() {
    let all = dependencies();
    for pure in PURE {
        for outside in OUTSIDE {
            let calendar = (*pure, *outside) == CALENDAR;
            assert!(calendar || !all[*pure].contains(*outside), "{pure} must not depend on {outside}");
        }
    }
}

#[test]
fn folders_name_only_what_they_may() {
    let root = root();
    for (folder, words, only_below) in NAMED_ONLY_IN {
        let mut files = Vec::new();
        sources(&root.join(folder), &mut files);
        assert!(!files.is_empty(), "{folder} has no sources: the rule is out of date");
        for file in files {
            let shown = file.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            if only_below.iter().any(|place| shown.starts_with(place)) {
                continue;
            }
            let text = std::fs::read_to_string(&file).unwrap();
            // Tests at the end of a file may use what they like.
            let shipped = text.split("#[cfg(test)]\nmod").next().unwrap();
            for (number, line) in shipped.lines().enumerate() {
                let code = line.split("//").next().unwrap();
                for word in *words {
                    assert!(!code.contains(word), "{shown}:{} names {word}", number + 1);
                }
            }
        }
    }
}

#[test]
fn every_source_file_says_what_it_is() {
    let root = root();
    let mut files = Vec::new();
    for folder in ["cli", "crds/src", "operator/src", "proxy", "tests/harness"] {
        sources(&root.join(folder), &mut files);
    }
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//!") || text.starts_with("#!"), "{} opens without a word", file.display());
    }
}
