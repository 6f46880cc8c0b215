//! What an authority is made of: a signing certificate with what leads to its root, its key, and the roots.
//!
//! Owns the judgement whether relying parties would accept what it signs. Touches its arguments and
//! randomness (a probe is signed). Invariant: it is sound as a whole or an error; the key is never printed.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use sallyport_crds::KeyAlgorithm;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;

use super::authority::AuthorityError;
use super::leaf::{serial, set_validity};
use super::{CA, CERTIFICATE, KEY};
use crate::derive::certificate::plus;
use crate::derive::trust::CaFacts;

/// A chain beyond this is nobody's: every step of it costs each handshake.
const LONGEST_CHAIN: usize = 8;
/// A PEM file beyond this holds more certificates than a trust domain has.
const LARGEST: usize = 64 * 1024;
/// Made by one whose clock is ahead.
const SKEW: Duration = Duration::from_secs(600);
const END: &str = "-----END CERTIFICATE-----";

/// One certificate, as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub(super) der: CertificateDer<'static>,
    /// The same, PEM, with a newline at its end.
    pub(super) pem: String,
}

impl Certificate {
    /// Every certificate of a PEM text, in order: all of it or an error.
    ///
    /// # Errors
    /// When a part of the text is no whole certificate.
    pub fn all(pem: &str) -> Result<Vec<Self>, String> {
        if pem.len() > LARGEST {
            return Err(format!("is larger than {LARGEST} bytes"));
        }
        let ders: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| format!("is not whole PEM: {error}"))?;
        // The blocks of the text itself: what relying parties are given is what was given.
        let blocks: Vec<_> = pem
            .split_inclusive(END)
            .filter_map(|part| part.find("-----BEGIN CERTIFICATE-----").and_then(|at| part.get(at..)))
            .filter(|block| block.ends_with(END))
            .collect();
        if blocks.len() != ders.len() {
            return Err("is not whole PEM: a certificate begins and does not end".to_owned());
        }
        for der in &ders {
            x509_parser::parse_x509_certificate(der).map_err(|error| format!("holds no X.509 certificate: {error}"))?;
        }
        Ok(ders.into_iter().zip(blocks).map(|(der, block)| Self { der, pem: format!("{block}\n") }).collect())
    }

    /// SHA-256 of it, hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        Sha256::digest(&self.der).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(super) fn anchor(&self) -> Result<TrustAnchor<'static>, String> {
        Ok(webpki::anchor_from_trusted_cert(&self.der).map_err(|error| error.to_string())?.to_owned())
    }
}

/// What an authority is made of.
pub struct Material {
    pub(super) issuer: Arc<Issuer<'static, KeyPair>>,
    signing: Certificate,
    /// The signing certificate first, then towards the root, which is left out unless it signs itself.
    chain: Vec<Certificate>,
    roots: Vec<Certificate>,
    key: SecretString,
    facts: CaFacts,
}

impl Material {
    /// Reads an authority from a Secret with tls.crt, tls.key and ca.crt.
    ///
    /// # Errors
    /// When a part is missing, unreadable or expired, or they do not belong together.
    pub fn read(secret: &Secret, now: Timestamp) -> Result<Self, AuthorityError> {
        Self::read_as(secret, [CERTIFICATE, KEY, CA], now)
    }

    /// The same, under other keys of the Secret.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_as(secret: &Secret, keys: [&'static str; 3], now: Timestamp) -> Result<Self, AuthorityError> {
        let [certificate, key, roots] = keys;
        let chain = text(secret, certificate)?.ok_or(AuthorityError::Missing(certificate))?;
        let key = SecretString::from(text(secret, key)?.ok_or(AuthorityError::Missing(key))?);
        Self::new(&chain, key, text(secret, roots)?.as_deref(), now)
    }

    /// Makes a self-signed authority.
    ///
    /// # Errors
    /// When the provider fails to make a key.
    pub fn make(
        trust_domain: &str,
        algorithm: KeyAlgorithm,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<Self, AuthorityError> {
        let failed = |error: rcgen::Error| AuthorityError::Generate(error.to_string());
        let key = KeyPair::generate_for(match algorithm {
            KeyAlgorithm::EcdsaP256 => &PKCS_ECDSA_P256_SHA256,
            KeyAlgorithm::EcdsaP384 => &PKCS_ECDSA_P384_SHA384,
            KeyAlgorithm::Ed25519 => &PKCS_ED25519,
        })
        .map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // One of a kind: a verifier that looks issuers up by name finds one. X.520 bounds it at 64 characters.
        let (number, domain) = (serial(), trust_domain.chars().take(40).collect::<String>());
        let short: String = number.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        params.distinguished_name.push(DnType::CommonName, format!("Sallyport {domain} {short}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(number);
        set_validity(&mut params, now, plus(now, lifetime));
        let certificate = params.self_signed(&key).map_err(failed)?.pem();
        Self::new(&certificate, SecretString::from(key.serialize_pem()), None, now)
    }

    /// Judges the parts of an authority. Without `roots` the chain must lead to a root of its own.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn new(chain: &str, key: SecretString, roots: Option<&str>, now: Timestamp) -> Result<Self, AuthorityError> {
        let bad = AuthorityError::Certificate;
        let mut chain = Certificate::all(chain).map_err(bad)?;
        let signing = chain.first().ok_or_else(|| bad("holds no PEM certificate".to_owned()))?.clone();
        let roots = match roots {
            Some(given) => Certificate::all(given).map_err(AuthorityError::Bundle)?,
            None => chain.iter().filter(|certificate| is_root(certificate)).cloned().collect(),
        };
        if roots.is_empty() {
            return Err(AuthorityError::Bundle(
                "holds no root: put the root of the given intermediate there".to_owned(),
            ));
        }
        let pair = KeyPair::from_pem(key.expose_secret()).map_err(|_| AuthorityError::Key)?;
        signs(&signing, &pair, now)?;
        let not_after = path(&signing, &chain, &roots)?;
        if not_after <= now {
            return Err(AuthorityError::Expired(not_after));
        }
        let issuer = Issuer::from_ca_cert_der(&signing.der, pair).map_err(|error| bad(error.to_string()))?;
        // A root is with the relying parties already.
        chain.retain(|certificate| *certificate == signing || !is_root(certificate));
        let facts = CaFacts { not_after, ..facts(&signing, &roots)? };
        let material = Self { issuer: Arc::new(issuer), signing, chain, roots, key, facts };
        material.proves(now)?;
        Ok(material)
    }

    /// What can be told of it.
    #[must_use]
    pub const fn facts(&self) -> &CaFacts {
        &self.facts
    }

    /// The certificate that signs.
    #[must_use]
    pub const fn signing(&self) -> &Certificate {
        &self.signing
    }

    /// What relying parties trust it by.
    #[must_use]
    pub fn roots(&self) -> &[Certificate] {
        &self.roots
    }

    /// The signing certificate and what leads from it towards the root: PEM.
    #[must_use]
    pub(super) fn chain_pem(&self) -> String {
        self.chain.iter().map(|certificate| certificate.pem.as_str()).collect()
    }

    /// What goes with every leaf: PEM; nothing where the root itself signs.
    #[must_use]
    pub fn intermediates(&self) -> String {
        self.chain
            .iter()
            .filter(|certificate| !is_root(certificate))
            .map(|certificate| certificate.pem.as_str())
            .collect()
    }

    /// Its key: PKCS#8, PEM.
    #[must_use]
    pub(super) const fn key(&self) -> &SecretString {
        &self.key
    }

    /// Signs a leaf and verifies it as a relying party would.
    fn proves(&self, now: Timestamp) -> Result<(), AuthorityError> {
        let refused = |error: String| AuthorityError::Chain(error);
        let made = || {
            let mut params = CertificateParams::default();
            params.serial_number = Some(serial());
            set_validity(&mut params, now, plus(now, Duration::from_secs(60)));
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            params.signed_by(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?, &self.issuer)
        };
        let leaf = made().map_err(|error| refused(error.to_string()))?;
        let anchors: Vec<_> = self.roots.iter().map(Certificate::anchor).collect::<Result<_, _>>().map_err(refused)?;
        let above: Vec<_> = self.chain.iter().map(|certificate| certificate.der.clone()).collect();
        let seconds = u64::try_from(now.max(self.facts.not_before).as_second()).unwrap_or(0);
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let usage = webpki::KeyUsage::client_auth();
        let leaf = webpki::EndEntityCert::try_from(leaf.der()).map_err(|error| refused(error.to_string()))?;
        let verified = leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, &above, time, usage, None, None);
        verified.map(drop).map_err(|error| refused(error.to_string()))
    }
}

/// What can be told of one certificate that signed, with the roots it is trusted by.
pub(super) fn facts(signing: &Certificate, roots: &[Certificate]) -> Result<CaFacts, AuthorityError> {
    let time = |seconds: i64, or: Timestamp| Timestamp::from_second(seconds).unwrap_or(or);
    with(signing, |parsed| CaFacts {
        fingerprint: signing.fingerprint(),
        serial: parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        not_before: time(parsed.validity().not_before.timestamp(), Timestamp::MAX),
        not_after: time(parsed.validity().not_after.timestamp(), Timestamp::MIN),
        roots: roots.iter().map(Certificate::fingerprint).collect(),
    })
}

/// The key stays unseen.
impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// Whether this certificate may sign with this key at `now`.
fn signs(signing: &Certificate, key: &KeyPair, now: Timestamp) -> Result<(), AuthorityError> {
    let bad = |error: &str| AuthorityError::Certificate(error.to_owned());
    let (may, matches, from) = with(signing, |parsed| {
        let usage = parsed.key_usage().ok().flatten();
        let may = if !parsed.is_ca() {
            Err(bad("is not the certificate of a CA (basic constraints)"))
        } else if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
            Err(bad("may not sign certificates (key usage)"))
        } else {
            Ok(())
        };
        let matches = parsed.public_key().subject_public_key.data.as_ref() == key.der_bytes();
        (may, matches, parsed.validity().not_before.timestamp())
    })?;
    may?;
    if !matches {
        return Err(AuthorityError::Mismatch);
    }
    let from = Timestamp::from_second(from).unwrap_or(Timestamp::MAX);
    if from > plus(now, SKEW) { Err(AuthorityError::NotYet(from)) } else { Ok(()) }
}

/// Goes from the signing certificate to a root: the first end of validity on the way. Path lengths are
/// looked at here because a verifier may not know those of its trust anchors.
fn path(signing: &Certificate, chain: &[Certificate], roots: &[Certificate]) -> Result<Timestamp, AuthorityError> {
    let mut current = signing.clone();
    let mut ends = i64::MAX;
    for below in 0..LONGEST_CHAIN {
        let (end, length) = with(&current, |parsed| {
            let constraints = parsed.basic_constraints().ok().flatten();
            (parsed.validity().not_after.timestamp(), constraints.and_then(|it| it.value.path_len_constraint))
        })?;
        ends = ends.min(end);
        if length.is_some_and(|length| usize::try_from(length).unwrap_or(usize::MAX) < below) {
            return Err(AuthorityError::PathLength);
        }
        if roots.contains(&current) {
            return Ok(Timestamp::from_second(ends).unwrap_or(Timestamp::MIN));
        }
        let issuer = with(&current, |parsed| parsed.issuer().as_raw().to_vec())?;
        let mut above = roots.iter().chain(chain).filter(|candidate| **candidate != current);
        let found = above.find(|it| with(it, |parsed| parsed.subject().as_raw() == issuer).unwrap_or(false));
        current = found
            .ok_or_else(|| AuthorityError::Bundle("does not hold the root that tls.crt leads to".to_owned()))?
            .clone();
    }
    Err(AuthorityError::Chain(format!("it is longer than {LONGEST_CHAIN} certificates")))
}

fn is_root(certificate: &Certificate) -> bool {
    with(certificate, |parsed| parsed.subject().as_raw() == parsed.issuer().as_raw()).unwrap_or(false)
}

fn with<T>(certificate: &Certificate, look: impl FnOnce(&X509Certificate<'_>) -> T) -> Result<T, AuthorityError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate.der)
        .map_err(|error| AuthorityError::Certificate(error.to_string()))?;
    Ok(look(&parsed))
}

fn text(secret: &Secret, key: &'static str) -> Result<Option<String>, AuthorityError> {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key)).filter(|bytes| !bytes.0.is_empty());
    bytes.map(|bytes| String::from_utf8(bytes.0.clone()).map_err(|_| AuthorityError::Missing(key))).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issue::Authority;
    use k8s_openapi::ByteString;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use rcgen::CertifiedIssuer;

    const NOW: i64 = 1_800_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn made() -> Secret {
        Authority::generate(ObjectMeta::default(), "cluster.local", at(NOW)).unwrap()
    }

    fn without(key: &str) -> Secret {
        let mut secret = made();
        secret.data.as_mut().unwrap().remove(key);
        secret
    }

    fn with_part(key: &str, value: &[u8]) -> Secret {
        let mut secret = made();
        secret.data.as_mut().unwrap().insert(key.into(), ByteString(value.to_vec()));
        secret
    }

    type Ca = CertifiedIssuer<'static, KeyPair>;

    fn params(name: &str, path: Option<u8>) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(path.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        set_validity(&mut params, at(NOW), at(NOW + 1000));
        params
    }

    fn root(path: Option<u8>) -> Ca {
        Ca::self_signed(params("root", path), KeyPair::generate().unwrap()).unwrap()
    }

    fn below(issuer: &Ca, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Ca {
        let mut params = params(name, None);
        change(&mut params);
        Ca::signed_by(params, KeyPair::generate().unwrap(), issuer).unwrap()
    }

    fn read(signing: &Ca, chain: &[&Ca], roots: Option<&Ca>) -> Result<Material, AuthorityError> {
        let chain: String = chain.iter().map(|ca| ca.pem()).collect();
        let key = SecretString::from(signing.key().serialize_pem());
        Material::new(&chain, key, roots.map(|root| root.pem()).as_deref(), at(NOW + 10))
    }

    #[test]
    fn what_was_made_can_be_read_back() {
        let material = Material::read(&made(), at(NOW)).unwrap();
        assert_eq!((material.facts().not_before, material.roots().len()), (at(NOW), 1));
        assert_eq!(material.intermediates(), "");
    }

    #[test]
    fn each_fault_of_a_ca_secret_is_told() {
        let now = at(NOW);
        let fault = |secret: &Secret| Material::read(secret, now).unwrap_err();
        assert_eq!(fault(&without(CERTIFICATE)), AuthorityError::Missing(CERTIFICATE));
        assert_eq!(fault(&without(KEY)), AuthorityError::Missing(KEY));
        assert_eq!(fault(&with_part(KEY, &made().data.unwrap()[KEY].0)), AuthorityError::Mismatch);
        assert_eq!(fault(&with_part(KEY, b"no key")), AuthorityError::Key);
        assert!(matches!(fault(&with_part(CERTIFICATE, b"no PEM")), AuthorityError::Certificate(_)));
        assert!(matches!(fault(&with_part(CA, b"no PEM")), AuthorityError::Bundle(_)));
        assert!(matches!(fault(&with_part(CA, &made().data.unwrap()[CA].0)), AuthorityError::Bundle(_)));
        let half = made().data.unwrap()[CERTIFICATE].0.clone();
        let half = [half.as_slice(), &half[..half.len() / 2]].concat();
        assert!(matches!(fault(&with_part(CERTIFICATE, &half)), AuthorityError::Certificate(_)));
        assert!(matches!(Material::read(&made(), at(4_000_000_000)), Err(AuthorityError::Expired(_))));
        assert!(matches!(Material::read(&made(), at(NOW - 601)), Err(AuthorityError::NotYet(_))));
    }

    #[test]
    fn an_intermediate_signs_with_its_chain_and_is_trusted_by_its_root() {
        let root = root(None);
        let upper = below(&root, "upper", |_| {});
        let lower = below(&upper, "lower", |_| {});
        for chain in [&[&lower, &upper][..], &[&lower, &upper, &root]] {
            let material = read(&lower, chain, Some(&root)).unwrap();
            assert_eq!(material.intermediates(), format!("{}{}", lower.pem(), upper.pem()).replace("\r\n", "\n"));
            assert_eq!(material.roots()[0].der, *root.der());
        }
        assert!(read(&lower, &[&lower, &upper, &root], None).is_ok(), "the chain brings the root along");
        assert!(matches!(read(&lower, &[&lower, &upper], None), Err(AuthorityError::Bundle(_))));
        assert!(matches!(read(&lower, &[&lower], Some(&root)), Err(AuthorityError::Bundle(_))), "a gap in the chain");
    }

    #[test]
    fn what_may_not_sign_is_refused() {
        let root = root(None);
        let leaf = below(&root, "leaf", |params| params.is_ca = IsCa::ExplicitNoCa);
        let told = read(&leaf, &[&leaf], Some(&root)).unwrap_err().to_string();
        assert!(told.contains("is not the certificate of a CA"), "{told}");
        let signer = below(&root, "s", |params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
        let told = read(&signer, &[&signer], Some(&root)).unwrap_err().to_string();
        assert!(told.contains("may not sign certificates"), "{told}");
    }

    #[test]
    fn a_path_length_above_it_is_kept_also_that_of_the_root() {
        let narrow = root(Some(0));
        let below_narrow = below(&narrow, "lower", |_| {});
        assert_eq!(read(&below_narrow, &[&below_narrow], Some(&narrow)).unwrap_err(), AuthorityError::PathLength);
        let wide = root(Some(1));
        let upper = below(&wide, "upper", |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
        assert!(read(&upper, &[&upper], Some(&wide)).is_ok());
        let lower = below(&upper, "lower", |_| {});
        assert_eq!(read(&lower, &[&lower, &upper], Some(&wide)).unwrap_err(), AuthorityError::PathLength);
    }

    #[test]
    fn a_chain_that_is_signed_by_another_key_or_ends_early_is_refused() {
        let (ours, theirs) = (root(None), root(None));
        let lower = below(&theirs, "lower", |_| {});
        assert!(matches!(read(&lower, &[&lower], Some(&ours)), Err(AuthorityError::Chain(_))));
        let root = root(None);
        let upper = below(&root, "upper", |params| set_validity(params, at(NOW), at(NOW + 5)));
        let lower = below(&upper, "lower", |_| {});
        assert!(matches!(read(&lower, &[&lower, &upper], Some(&root)), Err(AuthorityError::Expired(_))));
    }

    #[test]
    fn the_key_is_not_printed() {
        let material = Material::read(&made(), at(NOW)).unwrap();
        let told = format!("{material:?}");
        assert!(!told.contains("PRIVATE") && !told.contains("key"), "{told}");
    }
}
