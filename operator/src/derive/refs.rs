//! What the Secrets and ConfigMaps that a target names turned out to hold.
//!
//! Owns the sentences about them. Touches nothing: presence is an argument, and content never comes here.
//! Invariant: a reference that cannot be used is told by name, kind and missing key.

use std::collections::BTreeMap;

use kube::ResourceExt;
use sallyport_crds::conditions::{Finding, RESOLVED_REFS, ok, reason};
use sallyport_crds::{BundleSourceKind, ProtectedTarget};

/// The keys of the Secret of a store for recordings: the access key's id, and its secret.
pub const STORE_KEYS: [&str; 2] = ["accessKeyId", "secretAccessKey"];

/// One thing that is referred to, and the keys it must have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// Kind of the object.
    pub kind: BundleSourceKind,
    /// Its name, in the target's namespace.
    pub name: String,
    /// Keys that must be there and not be empty.
    pub keys: Vec<String>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// All of it.
    Complete,
    /// No such object.
    Missing,
    /// The object, without these keys.
    Lacks(Vec<String>),
}

/// What was found, by reference.
pub type References = BTreeMap<Reference, Found>;

/// The credential named `name` of a target, as a reference.
#[must_use]
pub fn credential(secret: &str) -> Reference {
    let keys = vec!["username".to_owned(), "password".to_owned()];
    Reference { kind: BundleSourceKind::Secret, name: secret.to_owned(), keys }
}

/// The CA bundle of a target, as a reference.
#[must_use]
pub fn ca_bundle(target: &ProtectedTarget) -> Option<Reference> {
    let bundle = target.spec.tls.ca_bundle_ref.as_ref()?;
    Some(Reference { kind: bundle.kind, name: bundle.name.clone(), keys: vec![bundle.key.clone()] })
}

/// The credential of the store for a target's recordings, as a reference.
#[must_use]
pub fn store(target: &ProtectedTarget) -> Option<Reference> {
    let s3 = target.spec.recording.store.s3.as_ref()?;
    let keys = STORE_KEYS.map(str::to_owned).to_vec();
    Some(Reference { kind: BundleSourceKind::Secret, name: s3.credentials_ref.name.clone(), keys })
}

/// The CA bundle of that store, as a reference.
#[must_use]
pub fn store_ca(target: &ProtectedTarget) -> Option<Reference> {
    let bundle = target.spec.recording.store.s3.as_ref()?.ca_bundle_ref.as_ref()?;
    Some(Reference { kind: bundle.kind, name: bundle.name.clone(), keys: vec![bundle.key.clone()] })
}

/// Everything that `target` refers to.
#[must_use]
pub fn of(target: &ProtectedTarget) -> Vec<Reference> {
    let secrets = target.spec.credentials.iter().map(|held| credential(&held.secret_ref.name));
    let mut all: Vec<_> = secrets.chain(ca_bundle(target)).chain(store(target)).chain(store_ca(target)).collect();
    all.sort();
    all.dedup();
    all
}

/// Whether `reference` was found whole.
#[must_use]
pub fn is_complete(found: &References, reference: &Reference) -> bool {
    found.get(reference) == Some(&Found::Complete)
}

/// The condition that comes of it.
#[must_use]
pub fn finding(target: &ProtectedTarget, found: &References) -> Finding {
    let faults: Vec<_> = of(target)
        .into_iter()
        .filter_map(|reference| {
            let state = found.get(&reference).unwrap_or(&Found::Missing);
            fault(&reference, state)
        })
        .collect();
    match faults.first() {
        None => Finding::yes(RESOLVED_REFS, ok::RESOLVED, "everything it names exists"),
        Some((first, _)) => {
            let told: Vec<_> = faults.iter().map(|(_, sentence)| sentence.as_str()).collect();
            let namespace = target.namespace().unwrap_or_default();
            Finding::no(RESOLVED_REFS, first, format!("in namespace {namespace}: {}", told.join("; ")))
        }
    }
}

fn fault(reference: &Reference, state: &Found) -> Option<(&'static str, String)> {
    let (kind, missing, incomplete) = match reference.kind {
        BundleSourceKind::Secret => ("Secret", reason::SECRET_NOT_FOUND, reason::SECRET_INCOMPLETE),
        BundleSourceKind::ConfigMap => ("ConfigMap", reason::CONFIG_MAP_NOT_FOUND, reason::CONFIG_MAP_INCOMPLETE),
    };
    let name = &reference.name;
    match state {
        Found::Complete => None,
        Found::Missing => {
            Some((missing, format!("{kind} {name} does not exist: create it with {}", reference.keys.join(" and "))))
        }
        Found::Lacks(keys) => Some((incomplete, format!("{kind} {name} lacks {}, or it is empty", keys.join(" and ")))),
    }
}
