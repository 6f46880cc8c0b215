//! The form of a certificate's Secret: `kubernetes.io/tls`, with the CA beside it.
//!
//! Owns its keys. Touches nothing. Invariant: psql, curl and openssl can use it as it is.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use secrecy::ExposeSecret;

use super::leaf::Issued;

/// Key of the certificate, with what leads from it to the root.
pub const CERTIFICATE: &str = "tls.crt";
/// Key of the private key.
pub const KEY: &str = "tls.key";
/// Key of the CA certificates.
pub const CA: &str = "ca.crt";

/// A certificate and its key as a Secret.
#[must_use]
pub fn tls_secret(metadata: ObjectMeta, issued: &Issued, bundle: &str) -> Secret {
    let data: BTreeMap<_, _> =
        [(CERTIFICATE, issued.chain.as_bytes()), (KEY, issued.key.expose_secret().as_bytes()), (CA, bundle.as_bytes())]
            .map(|(key, value)| (key.to_owned(), ByteString(value.to_vec())))
            .into();
    Secret { metadata, type_: Some("kubernetes.io/tls".to_owned()), data: Some(data), ..Secret::default() }
}
