//! The certificate authority of the trust domain: made once, or given.
//!
//! Owns its key. Touches randomness and its arguments. Invariant: an authority that cannot sign what
//! proxies will verify is refused at the start, with every fault told.

use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use secrecy::{ExposeSecret, SecretString};

use super::leaf::{serial, set_validity};
use super::{CA, CERTIFICATE, KEY};

/// How long an authority made here is valid.
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The authority.
pub struct Authority {
    pub(super) issuer: Issuer<'static, KeyPair>,
    /// What leads from a leaf to the root, the root left out: PEM, may be empty.
    pub(super) intermediates: String,
    /// What relying parties trust: PEM.
    bundle: String,
    /// The certificate that signs, as the anchor that leaves are checked against.
    anchor: TrustAnchor<'static>,
    not_after: Timestamp,
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
    #[error("the CA certificate expired at {0}: replace it")]
    Expired(Timestamp),
    /// The trust bundle does not hold what verifies the authority.
    #[error("ca.crt holds no certificate")]
    Bundle,
    /// Making one failed.
    #[error("no authority could be made: {0}")]
    Generate(String),
}

impl Authority {
    /// Reads the authority from its Secret.
    ///
    /// # Errors
    /// When a part is missing, unreadable or expired, or they do not belong together.
    pub fn read(secret: &Secret, now: Timestamp) -> Result<Self, AuthorityError> {
        let chain = text(secret, CERTIFICATE)?.ok_or(AuthorityError::Missing(CERTIFICATE))?;
        let key = SecretString::from(text(secret, KEY)?.ok_or(AuthorityError::Missing(KEY))?);
        let bundle = text(secret, CA)?.unwrap_or_else(|| chain.clone());
        Self::new(&chain, &key, bundle, now)
    }

    /// Makes a self-signed authority, as the Secret that holds it.
    ///
    /// # Errors
    /// When the provider fails to make a key.
    pub fn generate(metadata: ObjectMeta, trust_domain: &str, now: Timestamp) -> Result<Secret, AuthorityError> {
        let failed = |error: rcgen::Error| AuthorityError::Generate(error.to_string());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("Sallyport {trust_domain}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial());
        set_validity(&mut params, now, crate::derive::certificate::plus(now, LIFETIME));
        let certificate = params.self_signed(&key).map_err(failed)?.pem();
        let key = SecretString::from(key.serialize_pem());
        let data = [
            (CERTIFICATE, certificate.as_bytes()),
            (KEY, key.expose_secret().as_bytes()),
            (CA, certificate.as_bytes()),
        ];
        Ok(Secret {
            metadata,
            type_: Some("kubernetes.io/tls".to_owned()),
            data: Some(data.map(|(name, bytes)| (name.to_owned(), ByteString(bytes.to_vec()))).into()),
            ..Secret::default()
        })
    }

    /// What relying parties trust, PEM.
    #[must_use]
    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    /// When it ends.
    #[must_use]
    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }

    pub(super) const fn anchor(&self) -> &TrustAnchor<'static> {
        &self.anchor
    }

    fn new(chain: &str, key: &SecretString, bundle: String, now: Timestamp) -> Result<Self, AuthorityError> {
        let bad = |error: String| AuthorityError::Certificate(error);
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|e| bad(e.to_string()))?;
        let signing = certificates.first().ok_or_else(|| bad("holds no PEM certificate".to_owned()))?;
        if !CertificateDer::pem_slice_iter(bundle.as_bytes()).any(|certificate| certificate.is_ok()) {
            return Err(AuthorityError::Bundle);
        }
        let key = KeyPair::from_pem(key.expose_secret()).map_err(|_| AuthorityError::Key)?;

        let (_, parsed) = x509_parser::parse_x509_certificate(signing).map_err(|e| bad(e.to_string()))?;
        if !parsed.is_ca() {
            return Err(bad("is not the certificate of a CA (basic constraints)".to_owned()));
        }
        if parsed.key_usage().ok().flatten().is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(bad("may not sign certificates (key usage)".to_owned()));
        }
        if parsed.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
            return Err(AuthorityError::Mismatch);
        }
        let not_after = Timestamp::from_second(parsed.validity().not_after.timestamp()).unwrap_or(Timestamp::MIN);
        if not_after <= now {
            return Err(AuthorityError::Expired(not_after));
        }
        // A self-signed certificate is the root: relying parties have it already.
        let is_root = parsed.subject() == parsed.issuer();
        let anchor = webpki::anchor_from_trusted_cert(signing).map_err(|e| bad(e.to_string()))?.to_owned();
        let issuer = Issuer::from_ca_cert_der(signing, key).map_err(|e| bad(e.to_string()))?;
        let intermediates = if is_root { String::new() } else { with_newline(chain) };
        Ok(Self { issuer, intermediates, bundle: with_newline(&bundle), anchor, not_after })
    }
}

/// The key stays unseen.
impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

fn text(secret: &Secret, key: &'static str) -> Result<Option<String>, AuthorityError> {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key)).filter(|bytes| !bytes.0.is_empty());
    bytes.map(|bytes| String::from_utf8(bytes.0.clone()).map_err(|_| AuthorityError::Missing(key))).transpose()
}

fn with_newline(pem: &str) -> String {
    format!("{}\n", pem.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn made() -> Secret {
        Authority::generate(ObjectMeta::default(), "cluster.local", at(1_800_000_000)).unwrap()
    }

    fn without(key: &str) -> Secret {
        let mut secret = made();
        secret.data.as_mut().unwrap().remove(key);
        secret
    }

    #[test]
    fn what_was_made_can_be_read_back() {
        let authority = Authority::read(&made(), at(1_800_000_000)).unwrap();
        assert!(authority.bundle().starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(authority.intermediates.is_empty());
    }

    #[test]
    fn each_fault_is_told() {
        let now = at(1_800_000_000);
        assert_eq!(Authority::read(&without(CERTIFICATE), now).unwrap_err(), AuthorityError::Missing(CERTIFICATE));
        assert_eq!(Authority::read(&without(KEY), now).unwrap_err(), AuthorityError::Missing(KEY));
        assert!(matches!(Authority::read(&made(), at(4_000_000_000)), Err(AuthorityError::Expired(_))));
        let mut foreign = made();
        foreign.data.as_mut().unwrap().insert(KEY.into(), made().data.unwrap()[KEY].clone());
        assert_eq!(Authority::read(&foreign, now).unwrap_err(), AuthorityError::Mismatch);
        foreign.data.as_mut().unwrap().insert(KEY.into(), ByteString(b"no key".to_vec()));
        assert_eq!(Authority::read(&foreign, now).unwrap_err(), AuthorityError::Key);
    }

    #[test]
    fn the_key_is_not_printed() {
        let authority = Authority::read(&made(), at(1_800_000_000)).unwrap();
        assert!(!format!("{authority:?}").contains("key:"));
    }
}
