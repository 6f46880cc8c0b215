//! Leaf certificates, with a new key each time.
//!
//! Owns the key from its making until it is in the Secret. Touches randomness. Invariant: an agent's
//! certificate names its SPIFFE ID and the object it was issued for, and nothing else; it can be a client and
//! nothing else.

use std::time::Duration;

use base64::Engine as _;
use k8s_openapi::jiff::Timestamp;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType, SerialNumber,
};
use sallyport_crds::KeyAlgorithm;
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::Authority;
use crate::derive::certificate::Order;

/// A fresh certificate with its key.
#[derive(Debug)]
pub struct Issued {
    /// The certificate, and what leads from it to the root: PEM.
    pub chain: String,
    /// Its private key: PKCS#8, PEM.
    pub key: SecretString,
}

/// Who a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// An agent: a TLS client.
    Agent,
    /// A fleet: a TLS server.
    Fleet,
}

/// The subject of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject<'a> {
    /// For display: nothing reads it.
    pub common_name: &'a str,
    /// The UID of the `AgentIdentity` it is issued for, as X.520 serialNumber: an identity that is deleted and
    /// made again has another one, so that it does not revive the certificates of the one before.
    pub uid: Option<&'a str>,
}

/// X.520 serialNumber.
const SERIAL_NUMBER: [u64; 4] = [2, 5, 4, 5];

/// A certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the certificate could not be made: {0}")]
pub struct IssueError(#[from] rcgen::Error);

impl Authority {
    /// Makes a key and signs a certificate for it.
    ///
    /// # Errors
    /// When a name cannot stand in a certificate, or the provider fails.
    pub fn issue(&self, order: &Order, role: Role, subject: Subject<'_>) -> Result<Issued, IssueError> {
        let key = KeyPair::generate_for(match order.key_algorithm {
            KeyAlgorithm::EcdsaP256 => &PKCS_ECDSA_P256_SHA256,
            KeyAlgorithm::EcdsaP384 => &PKCS_ECDSA_P384_SHA384,
            KeyAlgorithm::Ed25519 => &PKCS_ED25519,
        })?;
        let params = profile(order, role, subject)?;
        let leaf = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { chain: leaf + &self.intermediates, key: pkcs8(&key) })
    }
}

/// How an Ed25519 key begins in PKCS#8 of the first version, and of the second, which has the public key at its end.
const ED25519: [[u8; 16]; 2] = [
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20],
    [0x30, 0x51, 2, 1, 1, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20],
];

/// The key as PKCS#8, PEM, of the first version: OpenSSL, and so psql and curl, reads no other.
fn pkcs8(key: &KeyPair) -> SecretString {
    let [first, second] = ED25519;
    let der = Zeroizing::new(key.serialize_der());
    let Some(seed) = der.strip_prefix(&second).and_then(|rest| rest.get(..32)) else {
        return SecretString::from(key.serialize_pem());
    };
    let whole = Zeroizing::new([first.as_slice(), seed].concat());
    // 48 bytes are one line.
    let line = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(whole.as_slice()));
    SecretString::from(format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", line.as_str()))
}

impl Subject<'_> {
    fn name(&self) -> Result<DistinguishedName, rcgen::Error> {
        let mut name = DistinguishedName::new();
        // X.520 bounds a common name at 64 characters.
        name.push(DnType::CommonName, self.common_name.chars().take(64).collect::<String>());
        if let Some(uid) = self.uid {
            let uid = DnValue::PrintableString(uid.try_into()?);
            name.push(DnType::CustomDnType(SERIAL_NUMBER.to_vec()), uid);
        }
        Ok(name)
    }
}

/// What every leaf certificate is, whoever holds its key.
pub(super) fn profile(order: &Order, role: Role, subject: Subject<'_>) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject.name()?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.serial_number = Some(serial());
    set_validity(&mut params, order.not_before, order.not_after);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match role {
        Role::Agent => ExtendedKeyUsagePurpose::ClientAuth,
        Role::Fleet => ExtendedKeyUsagePurpose::ServerAuth,
    }];
    params.use_authority_key_identifier_extension = true;
    for uri in &order.names.uris {
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
    }
    for name in &order.names.dns {
        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
    }
    Ok(params)
}

/// 127 random bits: positive, and not to be guessed or met twice.
pub(super) fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    SerialNumber::from_slice(&bytes)
}

/// Times in the terms of the certificate library.
pub(super) fn set_validity(params: &mut CertificateParams, from: Timestamp, to: Timestamp) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let seconds = |at: Timestamp| Duration::from_secs(u64::try_from(at.as_second()).unwrap_or(0));
    params.not_before = epoch + seconds(from);
    params.not_after = epoch + seconds(to);
}
