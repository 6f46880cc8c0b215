//! Certificates for keys that somebody else holds: reading a PKCS #10 request, and signing for its key.
//!
//! Owns that reading. Touches its arguments and randomness. Invariant: nothing but the public key goes from
//! a request into a certificate.

use rcgen::{
    CertificateSigningRequestParams, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData,
    SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateSigningRequestDer;
use x509_parser::certification_request::{X509CertificationRequest, X509CertificationRequestInfo};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::Authority;
use super::leaf::{IssueError, Role, Subject, profile};
use crate::derive::certificate::Order;
use crate::derive::pod_certificate::Stub;

/// A certificate whose key is elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The certificate, and what leads from it to the root: PEM.
    pub chain: String,
    /// Its serial number, hexadecimal.
    pub serial: String,
}

/// What a request holds, as facts.
#[must_use]
pub fn read(der: &[u8]) -> Stub {
    let Some(request) = parse(der) else { return Stub::Unreadable };
    let info = &request.certification_request_info;
    let key = match SubjectPublicKeyInfo::from_der(info.subject_pki.raw) {
        Ok(key) if [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519].contains(&key.algorithm()) => {
            Ok(())
        }
        _ => Err(kind_of(info)),
    };
    Stub::Read {
        key,
        proven: CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der)).is_ok(),
        empty: info.subject.iter_rdn().next().is_none() && info.attributes().is_empty(),
    }
}

/// The public key in a request, as it is written there.
#[must_use]
pub fn public_key(der: &[u8]) -> Option<&[u8]> {
    parse(der).map(|request| request.certification_request_info.subject_pki.raw)
}

impl Authority {
    /// Signs a certificate for the key of a request; `order` says for whom.
    ///
    /// # Errors
    /// When the request has no key to sign for, a name cannot stand in a certificate, or the provider fails.
    pub fn sign(&self, der: &[u8], order: &Order, role: Role, subject: Subject<'_>) -> Result<Signed, IssueError> {
        let key = SubjectPublicKeyInfo::from_der(public_key(der).unwrap_or_default())?;
        let params = profile(order, role, subject)?;
        let serial = params.serial_number.iter().flat_map(|serial| serial.to_bytes());
        let serial = serial.map(|byte| format!("{byte:02x}")).collect();
        Ok(Signed { chain: params.signed_by(&key, &self.issuer)?.pem() + &self.intermediates, serial })
    }
}

/// Nothing may follow the request.
fn parse(der: &[u8]) -> Option<X509CertificationRequest<'_>> {
    X509CertificationRequest::from_der(der).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, request)| request)
}

fn kind_of(info: &X509CertificationRequestInfo<'_>) -> String {
    match info.subject_pki.parsed() {
        Ok(PublicKey::RSA(_)) => "RSA",
        Ok(PublicKey::EC(_)) => "another elliptic curve",
        _ => "a key of an unknown kind",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::derive::certificate::Names;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use k8s_openapi::jiff::Timestamp;
    use rcgen::{
        CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P521_SHA512, SanType, SignatureAlgorithm,
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn authority() -> Authority {
        let made = Authority::generate(ObjectMeta::default(), "cluster.local", at(1_800_000_000)).unwrap();
        Authority::read(&made, at(1_800_000_000)).unwrap()
    }

    /// As a kubelet makes it: of `algorithm`, asking for nothing.
    fn empty() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
    }

    fn request(params: &CertificateParams, algorithm: &'static SignatureAlgorithm) -> Vec<u8> {
        params.serialize_request(&KeyPair::generate_for(algorithm).unwrap()).unwrap().der().to_vec()
    }

    fn good() -> Stub {
        Stub::Read { key: Ok(()), proven: true, empty: true }
    }

    #[test]
    fn the_kinds_of_keys_that_agents_may_have_are_read() {
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            assert_eq!(read(&request(&empty(), algorithm)), good());
        }
        let Stub::Read { key: Err(kind), .. } = read(&request(&empty(), &PKCS_ECDSA_P521_SHA512)) else { panic!() };
        assert_eq!(kind, "another elliptic curve");
    }

    #[test]
    fn what_is_asked_for_by_hand_is_seen() {
        let mut named = empty();
        named.distinguished_name.push(DnType::CommonName, "root");
        let mut other = empty();
        other.subject_alt_names.push(SanType::URI("spiffe://cluster.local/ns/ci/agent/other".try_into().unwrap()));
        for params in [named, other] {
            let stub = read(&request(&params, &PKCS_ECDSA_P256_SHA256));
            assert_eq!(stub, Stub::Read { key: Ok(()), proven: true, empty: false });
        }
    }

    #[test]
    fn a_key_that_is_not_proven_and_bytes_that_are_no_request_are_seen() {
        let good = request(&empty(), &PKCS_ECDSA_P256_SHA256);
        let (one, two) = (public_key(&good).unwrap().to_vec(), request(&empty(), &PKCS_ECDSA_P256_SHA256));
        // Somebody else's key under our signature.
        let place = good.windows(one.len()).position(|window| window == one).unwrap();
        let mut forged = good.clone();
        forged[place..place + one.len()].copy_from_slice(public_key(&two).unwrap());
        assert_eq!(read(&forged), Stub::Read { key: Ok(()), proven: false, empty: true });
        assert_eq!(read(&good[..good.len() - 1]), Stub::Unreadable);
        assert_eq!(read(&[&good[..], &[0]].concat()), Stub::Unreadable, "something follows the request");
        assert_eq!(read(b"hello"), Stub::Unreadable);
    }

    #[test]
    fn the_certificate_is_for_the_requests_key_and_for_nobody_but_the_identity() {
        let authority = authority();
        let order = Order {
            key_algorithm: sallyport_crds::KeyAlgorithm::default(),
            names: Names { uris: vec!["spiffe://cluster.local/ns/ci/agent/a".into()], dns: vec![] },
            not_before: at(1_800_000_000),
            not_after: at(1_800_003_600),
            because: "a pod asked for it",
        };
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let mut greedy = empty();
            greedy.subject_alt_names.push(SanType::URI("spiffe://cluster.local/ns/ci/agent/b".try_into().unwrap()));
            let der = request(&greedy, algorithm);
            let subject = Subject { common_name: "a", uid: Some("0b6f") };
            let signed = authority.sign(&der, &order, Role::Agent, subject).unwrap();
            let (_, pem) = x509_parser::pem::parse_x509_pem(signed.chain.as_bytes()).unwrap();
            let leaf = pem.parse_x509().unwrap();
            assert_eq!(leaf.public_key().raw, public_key(&der).unwrap());
            let names = leaf.subject_alternative_name().unwrap().unwrap();
            let names: Vec<_> = names.value.general_names.iter().map(ToString::to_string).collect();
            assert_eq!(names, ["URI(spiffe://cluster.local/ns/ci/agent/a)"]);
            assert!(leaf.subject().to_string().contains("0b6f"), "it is of one object, not of its name");
            assert!(!leaf.is_ca() && leaf.extended_key_usage().unwrap().unwrap().value.client_auth);
            assert_eq!(leaf.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect::<String>(), signed.serial);
        }
    }
}
