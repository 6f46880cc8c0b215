//! The key of a target's masks: what hashes and tokens of masked values hang on.
//!
//! Owns its making. Touches randomness. Invariant: it is made once and stands in its Secret alone.

use std::fmt::Write;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use zeroize::Zeroize;

/// The key's name in its Secret; a fleet reads the file of that name.
const MASK_KEY: &str = "key";

/// A Secret with a new key of 256 bits, in hexadecimal.
#[must_use]
pub fn mask_key_secret(metadata: ObjectMeta) -> Secret {
    let mut bytes: [u8; 32] = rand::random();
    let mut text = String::with_capacity(64);
    for byte in bytes {
        // Writing into a String cannot fail.
        let _written = write!(text, "{byte:02x}");
    }
    bytes.zeroize();
    let data = [(MASK_KEY.to_owned(), ByteString(text.into_bytes()))].into();
    Secret { metadata, data: Some(data), type_: Some("Opaque".to_owned()), ..Secret::default() }
}
