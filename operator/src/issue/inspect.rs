//! What a Secret holds, as facts: never its bytes.
//!
//! Owns the reading of certificates. Touches its arguments. Invariant: what it returns can be printed.

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use sallyport_crds::KeyAlgorithm;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_SIG_ED25519, OID_X509_SERIALNUMBER,
};

use super::leaf::Role;
use super::{Authority, CA, CERTIFICATE, KEY};
use crate::derive::certificate::{Facts, Held, Names};
use crate::derive::names;

/// What `secret` holds for the object with `uid`.
#[must_use]
pub fn inspect(secret: Option<&Secret>, uid: &str, role: Role, authority: &Authority) -> Held {
    let Some(secret) = secret else { return Held::Missing };
    if !names::is_owned_by(&secret.metadata, uid) {
        return Held::Foreign;
    }
    let label = secret.metadata.labels.as_ref().and_then(|labels| labels.get(names::MANAGED_BY));
    if label.map(String::as_str) != Some(names::SALLYPORT) {
        // The watch would never show it again.
        return Held::Unreadable(format!("its label {} was taken off", names::MANAGED_BY));
    }
    match facts(secret, role, authority) {
        Ok(facts) => Held::Certificate(facts),
        // Parsers cite what they met, and that may be as long as a Secret.
        Err(fault) => Held::Unreadable(fault.chars().take(200).collect()),
    }
}

fn facts(secret: &Secret, role: Role, authority: &Authority) -> Result<Facts, String> {
    let part = |key: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
        bytes.filter(|bytes| !bytes.is_empty()).ok_or_else(|| format!("{key} is missing or empty"))
    };
    let chain = part(CERTIFICATE)?;
    let key = PrivateKeyDer::from_pem_slice(part(KEY)?).map_err(|_| format!("{KEY} holds no private key"))?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{CERTIFICATE} cannot be read: {error}"))?;
    let leaf = chain.first().ok_or_else(|| format!("{CERTIFICATE} holds no certificate"))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf).map_err(|error| format!("{CERTIFICATE}: {error}"))?;
    let bundle_is_current = part(CA)? == authority.bundle().as_bytes();
    let time = |at: x509_parser::time::ASN1Time| Timestamp::from_second(at.timestamp()).map_err(|e| e.to_string());
    let (not_before, not_after) = (time(parsed.validity().not_before)?, time(parsed.validity().not_after)?);
    Ok(Facts {
        serial: parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        not_before,
        not_after,
        names: names_in(&parsed)?,
        uid: uid_in(&parsed),
        key_algorithm: key_algorithm_in(&parsed),
        from_our_authority: is_signed_by(leaf, not_before, role, authority),
        trust_is_current: is_told(secret, role, authority) && bundle_is_current,
        key_matches: key_matches(leaf.clone(), key),
    })
}

/// Whether the Secret's annotations say what is in it: rotation reads those, of thousands of Secrets.
fn is_told(secret: &Secret, role: Role, authority: &Authority) -> bool {
    let said = |key: &str| secret.metadata.annotations.as_ref().and_then(|all| all.get(key));
    let signed_by = said(names::ISSUER).is_some_and(|issuer| *issuer == authority.facts().fingerprint);
    said(names::TRUST).is_some_and(|trust| *trust == authority.trust_digest()) && (role == Role::Agent || signed_by)
}

fn names_in(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Result<Names, String> {
    let extension = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
    let mut names = Names::default();
    for name in extension.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::URI(uri) => names.uris.push((*uri).to_owned()),
            GeneralName::DNSName(dns) => names.dns.push((*dns).to_owned()),
            // What it says is somebody's, and goes into no event.
            _ => return Err(format!("{CERTIFICATE} has a name that is neither a URI nor a DNS name")),
        }
    }
    names.uris.sort();
    names.dns.sort();
    Ok(names)
}

/// The object it was issued for. What a proxy would not read as one is none: then a new certificate is issued.
fn uid_in(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Option<String> {
    let mut found = certificate.subject().iter_by_oid(&OID_X509_SERIALNUMBER);
    let uid = found.next()?.as_str().ok()?.to_owned();
    found.next().is_none().then_some(uid)
}

fn key_algorithm_in(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Option<KeyAlgorithm> {
    let algorithm = &certificate.public_key().algorithm;
    let curve = algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    match (&algorithm.algorithm, curve) {
        (key, Some(curve)) if *key == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == OID_EC_P256 => {
            Some(KeyAlgorithm::EcdsaP256)
        }
        (key, Some(curve)) if *key == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == OID_NIST_EC_P384 => {
            Some(KeyAlgorithm::EcdsaP384)
        }
        (key, None) if *key == OID_SIG_ED25519 => Some(KeyAlgorithm::Ed25519),
        _ => None,
    }
}

/// The validity is judged by `derive`, against its own clock: here only the signature and the usage.
fn is_signed_by(leaf: &CertificateDer<'_>, at: Timestamp, role: Role, authority: &Authority) -> bool {
    // An agent keeps what a former authority signed until its renewal. A fleet does not: it is told nothing of the
    // exchange but new files, and the old root can go when the last agent's certificate has ended.
    let (usage, anchors) = match role {
        Role::Agent => (webpki::KeyUsage::client_auth(), authority.anchors()),
        Role::Fleet => (webpki::KeyUsage::server_auth(), authority.anchors().get(..1).unwrap_or_default()),
    };
    let seconds = u64::try_from(at.as_second()).unwrap_or(0);
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    webpki::EndEntityCert::try_from(leaf).is_ok_and(|certificate| {
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        certificate.verify_for_usage(algorithms, anchors, &[], time, usage, None, None).is_ok()
    })
}

fn key_matches(leaf: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> bool {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    rustls::sign::CertifiedKey::from_der(vec![leaf], key, &provider).is_ok_and(|pair| pair.keys_match().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::derive::certificate::Order;
    use crate::issue::leaf::Subject;
    use crate::issue::tls_secret;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

    const SUBJECT: Subject<'_> = Subject { common_name: "a", uid: Some("0b6f6cf4-91a5-4e35-8ba9-0d2bd2b6d1d7") };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn authority() -> Authority {
        let made = Authority::generate(ObjectMeta::default(), "cluster.local", at(1_800_000_000)).unwrap();
        Authority::read(&made, at(1_800_000_000)).unwrap()
    }

    fn order() -> Order {
        Order {
            names: Names { uris: vec!["spiffe://cluster.local/ns/ci/agent/a".into()], dns: vec![] },
            key_algorithm: KeyAlgorithm::EcdsaP256,
            not_before: at(1_800_000_000),
            not_after: at(1_800_003_600),
            because: "there was none",
        }
    }

    fn ours() -> ObjectMeta {
        let owner = OwnerReference { uid: "u".into(), controller: Some(true), ..OwnerReference::default() };
        ObjectMeta { owner_references: Some(vec![owner]), labels: Some(names::managed()), ..ObjectMeta::default() }
    }

    fn secret(authority: &Authority) -> Secret {
        let issued = authority.issue(&order(), Role::Agent, SUBJECT).unwrap();
        tls_secret(ours(), &issued, authority.bundle())
    }

    #[test]
    fn what_was_issued_reads_back_as_ordered() {
        let authority = authority();
        let Held::Certificate(facts) = inspect(Some(&secret(&authority)), "u", Role::Agent, &authority) else {
            panic!("no certificate")
        };
        assert!(facts.from_our_authority && facts.key_matches);
        assert_eq!(
            (facts.names, facts.not_before, facts.not_after),
            (order().names, order().not_before, order().not_after)
        );
        assert_eq!(facts.uid.as_deref(), SUBJECT.uid);
    }

    #[test]
    fn each_key_algorithm_reads_back_and_goes_with_its_key() {
        let authority = authority();
        for key_algorithm in [KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384, KeyAlgorithm::Ed25519] {
            let issued = authority.issue(&Order { key_algorithm, ..order() }, Role::Agent, SUBJECT).unwrap();
            let secret = tls_secret(ours(), &issued, authority.bundle());
            let Held::Certificate(facts) = inspect(Some(&secret), "u", Role::Agent, &authority) else { panic!() };
            assert_eq!(facts.key_algorithm, Some(key_algorithm));
            assert!(facts.key_matches && facts.from_our_authority);
        }
    }

    #[test]
    fn each_issue_has_its_own_key_and_serial() {
        let authority = authority();
        let (one, two) = (secret(&authority), secret(&authority));
        assert_ne!(one.data.unwrap()[KEY], two.data.unwrap()[KEY]);
    }

    #[test]
    fn another_authority_or_usage_or_key_is_seen() {
        let (ours, theirs) = (authority(), authority());
        let Held::Certificate(facts) = inspect(Some(&secret(&theirs)), "u", Role::Agent, &ours) else { panic!() };
        assert!(!facts.from_our_authority);
        let Held::Certificate(facts) = inspect(Some(&secret(&ours)), "u", Role::Fleet, &ours) else { panic!() };
        assert!(!facts.from_our_authority, "a client's certificate must not pass as a server's");
        let mut mixed = secret(&ours);
        mixed.data.as_mut().unwrap().insert(KEY.into(), secret(&ours).data.unwrap()[KEY].clone());
        let Held::Certificate(facts) = inspect(Some(&mixed), "u", Role::Agent, &ours) else { panic!() };
        assert!(!facts.key_matches);
    }

    #[test]
    fn a_secret_of_somebody_else_or_half_written_is_told_apart() {
        let authority = authority();
        assert_eq!(inspect(None, "u", Role::Agent, &authority), Held::Missing);
        assert_eq!(inspect(Some(&secret(&authority)), "other", Role::Agent, &authority), Held::Foreign);
        let mut bare = secret(&authority);
        bare.metadata.labels = None;
        let held = inspect(Some(&bare), "u", Role::Agent, &authority);
        assert!(matches!(held, Held::Unreadable(why) if why.contains("label")), "the watch would not show it");
        for key in [CERTIFICATE, KEY, CA] {
            let mut half = secret(&authority);
            half.data.as_mut().unwrap().remove(key);
            assert!(
                matches!(inspect(Some(&half), "u", Role::Agent, &authority), Held::Unreadable(why) if why.contains(key))
            );
        }
    }

    #[test]
    fn a_fleets_certificate_names_no_object() {
        let authority = authority();
        let subject = Subject { common_name: "a", uid: None };
        let issued = authority.issue(&order(), Role::Fleet, subject).unwrap();
        let secret = tls_secret(ours(), &issued, authority.bundle());
        let Held::Certificate(facts) = inspect(Some(&secret), "u", Role::Fleet, &authority) else { panic!() };
        assert_eq!(facts.uid, None);
    }

    #[test]
    fn an_issued_key_is_not_printed() {
        let issued = authority().issue(&order(), Role::Agent, SUBJECT).unwrap();
        assert!(!format!("{issued:?}").contains("PRIVATE KEY"));
    }
}
