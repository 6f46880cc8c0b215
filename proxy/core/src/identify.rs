//! From a verified certificate to a principal.
//!
//! Owns the reading of the one URI SAN, and of the object's UID in the subject. Touches its arguments only.
//! Invariant: exactly one URI SAN, in our trust domain, of our form; nothing else in the certificate names anybody.

use rustls_pki_types::CertificateDer;
use sallyport_policy::{IdentityName, SpiffeError};
use webpki::EndEntityCert;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::OID_X509_SERIALNUMBER;

/// Who speaks, as its certificate proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Its name.
    pub identity: IdentityName,
    /// The certificate's serial number in lower-case hex.
    pub serial: String,
    /// The UID of the `AgentIdentity` it was issued for: the subject's X.520 serialNumber, where it has one.
    pub uid: Option<String>,
    /// Start of validity, seconds since the Unix epoch.
    pub not_before: i64,
    /// End of validity, seconds since the Unix epoch.
    pub not_after: i64,
}

/// Why a certificate names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentifyError {
    /// Cannot be parsed.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// None, or more than one.
    #[error("the certificate has {0} URI names, it must have exactly one")]
    UriNames(usize),
    /// More than one, or no text.
    #[error("the certificate's subject must name one object as its serialNumber")]
    Uid,
    /// Not an identity of ours.
    #[error("the certificate's URI name is {0}")]
    Name(#[from] SpiffeError),
}

/// End of a certificate's validity, seconds since the Unix epoch.
#[must_use]
pub fn end_of(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate.as_ref()).ok()?;
    Some(parsed.validity().not_after.timestamp())
}

/// Start of a certificate's validity, seconds since the Unix epoch.
#[must_use]
pub fn start_of(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate.as_ref()).ok()?;
    Some(parsed.validity().not_before.timestamp())
}

/// Reads the principal out of a certificate whose chain rustls has verified.
///
/// # Errors
/// When it does not name exactly one identity of `trust_domain`.
pub fn identify(certificate: &CertificateDer<'_>, trust_domain: &str) -> Result<Principal, IdentifyError> {
    let cert = EndEntityCert::try_from(certificate).map_err(|_| IdentifyError::Unreadable)?;
    let mut names = cert.valid_uri_names();
    let (first, second) = (names.next(), names.next());
    let uri = match (first, second) {
        (Some(uri), None) => uri,
        (None, _) => return Err(IdentifyError::UriNames(0)),
        (Some(_), Some(_)) => return Err(IdentifyError::UriNames(2 + names.count())),
    };
    let identity = IdentityName::parse(uri, trust_domain)?;
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate.as_ref()).map_err(|_| IdentifyError::Unreadable)?;
    // `valid_uri_names` skips names that are not valid; a second, odd one must not hide there. What cannot be
    // decoded at all could be anything.
    let san = parsed.subject_alternative_name().map_err(|_| IdentifyError::Unreadable)?;
    let names = san.as_ref().map_or(&[][..], |san| &san.value.general_names);
    if names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Err(IdentifyError::Unreadable);
    }
    let all = names.iter().filter(|name| matches!(name, GeneralName::URI(_))).count();
    if all != 1 {
        return Err(IdentifyError::UriNames(all));
    }
    let mut uids = parsed.subject().iter_by_oid(&OID_X509_SERIALNUMBER);
    let uid = uids.next().map(|uid| uid.as_str().map(str::to_owned)).transpose().map_err(|_| IdentifyError::Uid)?;
    if uids.next().is_some() {
        return Err(IdentifyError::Uid);
    }
    Ok(Principal {
        identity,
        uid,
        serial: parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
    })
}

#[cfg(test)]
mod tests {
    use rcgen::string::Ia5String;
    use rcgen::{CertificateParams, KeyPair, SanType, SerialNumber, date_time_ymd};

    use super::*;

    const BOT: &str = "spiffe://cluster.local/ns/ci/agent/bot";

    fn uri(text: &str) -> SanType {
        SanType::URI(Ia5String::try_from(text).unwrap())
    }

    fn certificate(names: Vec<SanType>) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.serial_number = Some(SerialNumber::from_slice(&[0x0a, 0xff, 0x01]));
        params.not_before = date_time_ymd(2024, 1, 1);
        params.not_after = date_time_ymd(2024, 1, 2);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn identified(names: Vec<SanType>) -> Result<Principal, IdentifyError> {
        identify(&certificate(names), "cluster.local")
    }

    #[test]
    fn one_uri_name_is_the_principal_with_its_serial_and_validity() {
        let principal = identified(vec![uri(BOT)]).unwrap();
        assert_eq!(principal.identity.to_string(), BOT);
        assert_eq!(principal.serial, "0aff01");
        assert_eq!((principal.not_before, principal.not_after), (1_704_067_200, 1_704_153_600));
    }

    fn issued_for(uids: &[&str]) -> Result<Principal, IdentifyError> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![uri(BOT)];
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (at, uid) in uids.iter().enumerate() {
            // rcgen keeps one value a type: an unused one, changed to the right one below, makes a second.
            let kind = rcgen::DnType::CustomDnType(vec![2, 5, 4, 5 + u64::try_from(at).unwrap()]);
            params.distinguished_name.push(kind, rcgen::DnValue::PrintableString((*uid).try_into().unwrap()));
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let mut bytes = certificate.der().to_vec();
        for at in 0..bytes.len() - 5 {
            if bytes[at..].starts_with(&[6, 3, 0x55, 4, 6]) {
                bytes[at + 4] = 5;
            }
        }
        identify(&CertificateDer::from(bytes), "cluster.local")
    }

    #[test]
    fn the_object_it_was_issued_for_is_read_from_the_subject_and_two_are_one_too_many() {
        assert_eq!(issued_for(&[]).unwrap().uid, None);
        assert_eq!(issued_for(&["one"]).unwrap().uid.as_deref(), Some("one"));
        assert_eq!(issued_for(&["one", "one"]), Err(IdentifyError::Uid));
    }

    #[test]
    fn names_of_other_kinds_name_nobody_and_disturb_nobody() {
        let dns = || SanType::DnsName("spiffe.cluster.local".try_into().unwrap());
        let mail = || SanType::Rfc822Name("bot@cluster.local".try_into().unwrap());
        assert_eq!(identified(vec![dns(), mail()]), Err(IdentifyError::UriNames(0)));
        assert!(identified(vec![dns(), uri(BOT), mail()]).is_ok());
    }

    #[test]
    fn the_common_name_names_nobody() {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, BOT);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        assert_eq!(identify(certificate.der(), "cluster.local"), Err(IdentifyError::UriNames(0)));
    }

    #[test]
    fn a_second_uri_name_is_one_too_many_even_if_it_is_the_same() {
        assert_eq!(identified(vec![uri(BOT), uri(BOT)]), Err(IdentifyError::UriNames(2)));
        assert_eq!(identified(vec![uri(BOT), uri("https://a"), uri("https://b")]), Err(IdentifyError::UriNames(3)));
    }

    #[test]
    fn a_second_uri_name_that_is_no_uri_does_not_hide() {
        let dns = || SanType::DnsName("bot.cluster.local".try_into().unwrap());
        for odd in ["", "no uri", "%", "spiffe://"] {
            for names in [vec![uri(BOT), dns(), uri(odd)], vec![uri(odd), dns(), uri(BOT)]] {
                assert!(matches!(identified(names), Err(IdentifyError::UriNames(2))), "{odd:?}");
            }
        }
    }

    #[test]
    fn a_second_uri_name_of_bytes_that_are_no_text_does_not_hide() {
        let whole = certificate(vec![uri(BOT), uri("zzzz")]);
        let mut bytes = whole.as_ref().to_vec();
        let at = bytes.windows(4).position(|four| four == b"zzzz").unwrap();
        bytes[at..at + 4].copy_from_slice(&[0xff, 0xfe, 0xfd, 0xfc]);
        // The signature no longer fits, which is for rustls to see: here only the names are read.
        let refused = identify(&CertificateDer::from(bytes), "cluster.local");
        assert_eq!(refused, Err(IdentifyError::Unreadable));
    }

    #[test]
    fn another_trust_domain_and_another_form_are_told_apart() {
        let name = |error| Err(IdentifyError::Name(error));
        assert_eq!(identified(vec![uri("spiffe://cluster.evil/ns/ci/agent/bot")]), name(SpiffeError::TrustDomain));
        assert_eq!(identified(vec![uri("spiffe://cluster.local/ns/ci/sa/bot")]), name(SpiffeError::Form));
    }

    #[test]
    fn what_is_no_certificate_is_unreadable() {
        for bytes in [&b""[..], b"0", &[0x30, 0x82, 0xff, 0xff]] {
            assert_eq!(identify(&CertificateDer::from(bytes), "cluster.local"), Err(IdentifyError::Unreadable));
        }
    }
}
