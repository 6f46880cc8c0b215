//! AWS Signature Version 4, as S3-compatible stores demand it, for requests without a query.
//!
//! Owns the canonical form and the key's derivation. Touches its arguments. Invariant: the secret leaves this module
//! only as a signature.

use std::fmt::Write as _;

use aws_lc_rs::hmac::{self, HMAC_SHA256, Key};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// What a request is signed with.
#[derive(Debug)]
pub(super) struct Signer<'a> {
    pub(super) access_key_id: &'a str,
    pub(super) secret_access_key: &'a SecretString,
    pub(super) region: &'a str,
    /// `20260101T000000Z`.
    pub(super) time: &'a str,
}

impl Signer<'_> {
    /// The `authorization` header of a request with these headers, all of which are signed: lower case names.
    pub(super) fn authorization(&self, method: &str, path: &str, headers: &[(String, String)], body: &str) -> String {
        let mut headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.trim())).collect();
        headers.sort_unstable();
        let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        // The query is empty.
        let canonical = format!("{method}\n{path}\n\n{lines}\n{names}\n{body}");
        let date = self.time.get(..8).unwrap_or_default();
        let scope = format!("{date}/{}/s3/aws4_request", self.region);
        let to_sign = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", self.time, hex(&Sha256::digest(&canonical)));
        let start = SecretString::from(format!("AWS4{}", self.secret_access_key.expose_secret()));
        let mut key = Key::new(HMAC_SHA256, start.expose_secret().as_bytes());
        for part in [date, self.region, "s3", "aws4_request"] {
            key = Key::new(HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
        }
        let signature = hex(hmac::sign(&key, to_sign.as_bytes()).as_ref());
        let id = self.access_key_id;
        format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}")
    }
}

/// A path as it is sent and signed: everything but unreserved characters and slashes in hexadecimal (RFC 3986, 2.3).
pub(super) fn encoded(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(byte.into());
        } else {
            let _infallible = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "Signature Calculations for the Authorization Header", GET Object, from the documentation of Amazon S3.
    #[test]
    fn the_documented_example_comes_out() {
        let secret = SecretString::from("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
        let signer = Signer {
            access_key_id: "AKIAIOSFODNN7EXAMPLE",
            secret_access_key: &secret,
            region: "us-east-1",
            time: "20130524T000000Z",
        };
        let empty = hex(&Sha256::digest(b""));
        let headers = [
            ("host", "examplebucket.s3.amazonaws.com"),
            ("range", "bytes=0-9"),
            ("x-amz-content-sha256", empty.as_str()),
            ("x-amz-date", "20130524T000000Z"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let authorization = signer.authorization("GET", "/test.txt", &headers, &empty);
        assert_eq!(
            authorization,
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
             SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, \
             Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        assert!(!format!("{signer:?}").contains("wJalr"));
    }

    #[test]
    fn what_is_not_plain_is_encoded() {
        assert_eq!(encoded("/a b/ü+~.jsonl"), "/a%20b/%C3%BC%2B~.jsonl");
    }
}
