//! The certificate authority of the trust domain as it is now: what signs, and all that relying parties trust.
//!
//! Owns the making of one, and the trust bundle. Touches randomness and its arguments. Invariant: the same
//! roots give the same bundle, byte for byte, whichever of them signs.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use rcgen::{Issuer, KeyPair};
use rustls_pki_types::TrustAnchor;
use sallyport_crds::KeyAlgorithm;

use super::ledger::Ledger;
use super::material::{Certificate, Material};
use crate::derive::trust::CaFacts;
use crate::derive::trust_domain::LIFETIME;

/// The authority that is in force, exchanged while the process runs. Who needs it takes it once and uses
/// that one value to the end: certificate and bundle of one Secret are of one authority.
#[derive(Debug)]
pub struct Trust(ArcSwap<Authority>);

impl Trust {
    /// With this one in force.
    #[must_use]
    pub fn new(authority: Authority) -> Self {
        Self(ArcSwap::from_pointee(authority))
    }

    /// What is in force now.
    #[must_use]
    pub fn current(&self) -> Arc<Authority> {
        self.0.load_full()
    }

    /// Puts another in force.
    pub fn replace(&self, authority: Authority) {
        self.0.store(Arc::new(authority));
    }
}

/// The authority.
pub struct Authority {
    pub(super) issuer: Arc<Issuer<'static, KeyPair>>,
    /// What leads from a leaf to the root, the root left out: PEM, may be empty.
    pub(super) intermediates: String,
    /// What relying parties trust: PEM.
    bundle: String,
    /// The certificates that sign or signed what is still trusted, the current one first.
    anchors: Vec<TrustAnchor<'static>>,
    facts: CaFacts,
}

/// An authority that signs no more, and whose leaves are still accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusted {
    /// The certificate that signed.
    pub signing: Certificate,
    /// What relying parties trust it by.
    pub roots: Vec<Certificate>,
}

/// Why a Secret makes no authority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// A part is missing.
    #[error("{0} is missing or empty: a CA Secret has tls.crt, tls.key and, for an intermediate, ca.crt")]
    Missing(&'static str),
    /// The certificate cannot be used.
    #[error("tls.crt: {0}")]
    Certificate(String),
    /// The key cannot be used. What was read is not part of the message.
    #[error("tls.key is no private key of a kind that can sign here (PKCS#8 PEM: ECDSA, Ed25519 or RSA)")]
    Key,
    /// Each is sound, they do not belong together.
    #[error("tls.key is not the key of the certificate in tls.crt")]
    Mismatch,
    /// It has expired.
    #[error("the CA certificate, or one above it, expired at {0}: replace it")]
    Expired(Timestamp),
    /// It is not valid yet.
    #[error("the CA certificate is valid from {0} on: wait, or set the clocks right")]
    NotYet(Timestamp),
    /// The trust bundle does not hold what verifies the authority.
    #[error("ca.crt {0}")]
    Bundle(String),
    /// A CA above it does not let it sign.
    #[error(
        "the path length of a CA above tls.crt does not allow another CA below it: have it signed by one that does"
    )]
    PathLength,
    /// A relying party would refuse what it signs.
    #[error("what it signs would be refused: {0}")]
    Chain(String),
    /// What was written down beside it cannot be read.
    #[error("state.json: {0}")]
    State(String),
    /// Making one failed.
    #[error("no authority could be made: {0}")]
    Generate(String),
}

impl AuthorityError {
    /// A word for events and conditions.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Missing(_) => "CAIncomplete",
            Self::Certificate(_) => "CACertificateInvalid",
            Self::Key => "CAKeyInvalid",
            Self::Mismatch => "CAKeyMismatch",
            Self::Expired(_) => "CAExpired",
            Self::NotYet(_) => "CANotYetValid",
            Self::Bundle(_) => "CARootMissing",
            Self::PathLength => "CAPathLengthExceeded",
            Self::Chain(_) => "CAChainInvalid",
            Self::State(_) => "CAStateInvalid",
            Self::Generate(_) => "CANotMade",
        }
    }
}

impl Authority {
    /// Reads the authority from its Secret.
    ///
    /// # Errors
    /// When a part is missing, unreadable or expired, or they do not belong together.
    pub fn read(secret: &Secret, now: Timestamp) -> Result<Self, AuthorityError> {
        Self::new(&Material::read(secret, now)?, &[])
    }

    /// `signing` signs; it and `others` are trusted.
    ///
    /// # Errors
    /// When a certificate can be no trust anchor.
    pub fn new(signing: &Material, others: &[Trusted]) -> Result<Self, AuthorityError> {
        let bad = AuthorityError::Certificate;
        let issuers = std::iter::once(signing.signing()).chain(others.iter().map(|other| &other.signing));
        let anchors = issuers.map(Certificate::anchor).collect::<Result<_, _>>().map_err(bad)?;
        // By fingerprint: a root keeps its place whether it is the next, the current or the last.
        let roots = signing.roots().iter().chain(others.iter().flat_map(|other| &other.roots));
        let sorted: BTreeMap<_, _> = roots.map(|root| (root.fingerprint(), root.pem.as_str())).collect();
        Ok(Self {
            issuer: Arc::clone(&signing.issuer),
            intermediates: signing.intermediates(),
            bundle: sorted.into_values().collect(),
            anchors,
            facts: signing.facts().clone(),
        })
    }

    /// Makes a self-signed authority, as the Secret that holds it.
    ///
    /// # Errors
    /// When the provider fails to make a key.
    pub fn generate(metadata: ObjectMeta, trust_domain: &str, now: Timestamp) -> Result<Secret, AuthorityError> {
        let made = Material::make(trust_domain, KeyAlgorithm::default(), LIFETIME, now)?;
        Ok(Ledger::of(made).secret(metadata))
    }

    /// What relying parties trust, PEM.
    #[must_use]
    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    /// Digest of the bundle: replicas answer with that of what they use.
    #[must_use]
    pub fn trust_digest(&self) -> String {
        sallyport_policy::digest(self.bundle.as_bytes())
    }

    /// When it ends.
    #[must_use]
    pub const fn not_after(&self) -> Timestamp {
        self.facts.not_after
    }

    /// What can be told of it.
    #[must_use]
    pub const fn facts(&self) -> &CaFacts {
        &self.facts
    }

    pub(super) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

/// The same signs, and the same is trusted.
impl PartialEq for Authority {
    fn eq(&self, other: &Self) -> bool {
        self.facts == other.facts && self.bundle == other.bundle && self.anchors == other.anchors
    }
}

/// The key stays unseen.
impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("facts", &self.facts).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn made() -> Material {
        let now = at(1_800_000_000);
        Material::read(&Authority::generate(ObjectMeta::default(), "cluster.local", now).unwrap(), now).unwrap()
    }

    fn trusted(material: &Material) -> Trusted {
        Trusted { signing: material.signing().clone(), roots: material.roots().to_vec() }
    }

    #[test]
    fn the_bundle_is_the_same_whichever_of_its_roots_signs() {
        let (one, two) = (made(), made());
        let before = Authority::new(&one, &[trusted(&two)]).unwrap();
        let after = Authority::new(&two, &[trusted(&one)]).unwrap();
        assert_eq!(before.bundle(), after.bundle());
        assert_eq!(before.bundle().matches("BEGIN CERTIFICATE").count(), 2);
        let again = Authority::new(&two, &[trusted(&one), trusted(&one), trusted(&two)]).unwrap();
        assert_eq!(again.bundle(), before.bundle(), "a root is told once");
        assert_ne!(Authority::new(&two, &[]).unwrap().bundle(), before.bundle());
    }

    #[test]
    fn who_took_the_authority_keeps_it_while_another_comes_into_force() {
        let trust = Trust::new(Authority::new(&made(), &[]).unwrap());
        let held = trust.current();
        trust.replace(Authority::new(&made(), &[]).unwrap());
        assert_ne!(held.bundle(), trust.current().bundle());
        assert!(!format!("{trust:?}").contains("PRIVATE"));
    }
}
