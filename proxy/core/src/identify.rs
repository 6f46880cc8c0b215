//! From a verified certificate to a principal.
//!
//! Owns the reading of the one URI SAN. Touches its arguments only. Invariant: exactly one URI SAN, in our
//! trust domain, of our form; nothing else in the certificate names anybody.

use rustls_pki_types::CertificateDer;
use sallyport_policy::{IdentityName, SpiffeError};
use webpki::EndEntityCert;

/// Who speaks, as its certificate proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Its name.
    pub identity: IdentityName,
    /// The certificate's serial number in lower-case hex.
    pub serial: String,
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
    /// Not an identity of ours.
    #[error("the certificate's URI name is {0}")]
    Name(#[from] SpiffeError),
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
    // `valid_uri_names` skips names that are not valid; a second, odd one must not hide there.
    let all = parsed.subject_alternative_name().ok().flatten().map_or(0, |san| {
        let is_uri = |name: &&x509_parser::extensions::GeneralName<'_>| {
            matches!(name, x509_parser::extensions::GeneralName::URI(_))
        };
        san.value.general_names.iter().filter(is_uri).count()
    });
    if all != 1 {
        return Err(IdentifyError::UriNames(all));
    }
    Ok(Principal {
        identity,
        serial: parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
    })
}
