//! SCRAM-SHA-256, with channel binding where the target's certificate allows it (RFC 5802, 7677, 5929).
//!
//! Owns the choice of the mechanism and the bound on the work a target may ask for. Touches nothing.
//! Invariants: a target that TLS speaks to cannot talk us out of channel binding unnoticed; the target's
//! signature is checked before the login counts.

use aws_lc_rs::digest;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use sallyport_core::ports::Credential;
use secrecy::{ExposeSecret, SecretString};
use x509_parser::oid_registry as oid;

/// Rounds of hashing that a target may ask for. PostgreSQL's default is 4,096; the library takes no more.
const MOST_ROUNDS: u32 = 100_000;
/// Longest message of a target in this exchange.
const LONGEST_MESSAGE: usize = 4096;

/// What is needed to begin.
pub(super) struct Scram {
    password: SecretString,
    /// Hash of the target's certificate, where its kind has one.
    binding: Option<Vec<u8>>,
    tls: bool,
}

/// Begun: the first message is out.
pub(super) struct Started(ScramSha256);

/// The challenge is answered.
pub(super) struct Answered(ScramSha256);

impl Scram {
    pub(super) fn new(credential: &Credential, certificate: Option<&[u8]>, tls: bool) -> Self {
        let binding = certificate.and_then(certificate_hash);
        Self { password: credential.password.clone(), binding, tls }
    }

    /// Chooses among the target's mechanisms: names, each with a zero byte behind it.
    pub(super) fn begin(self, mechanisms: &[u8]) -> Result<(&'static str, Started), String> {
        let offered = |wanted: &str| mechanisms.split(|byte| *byte == 0).any(|name| name == wanted.as_bytes());
        let (mechanism, binding) = match self.binding {
            Some(hash) if offered(SCRAM_SHA_256_PLUS) => {
                (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash))
            }
            // Says that we could have bound: a target that could too knows that somebody hid its offer.
            Some(_) if self.tls && offered(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
            None if offered(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unsupported()),
            _ => return Err("it does not offer SCRAM-SHA-256".to_owned()),
        };
        Ok((mechanism, Started(ScramSha256::new(self.password.expose_secret().as_bytes(), binding))))
    }
}

impl Started {
    pub(super) fn message(&self) -> &[u8] {
        self.0.message()
    }

    /// Answers the challenge. The hashing takes milliseconds: not on a thread that serves others.
    pub(super) async fn answer(self, challenge: bytes::Bytes) -> Result<Answered, String> {
        let rounds = rounds(&challenge).ok_or("its challenge is malformed")?;
        if rounds > MOST_ROUNDS {
            return Err(format!("it asks for {rounds} rounds of hashing, more than {MOST_ROUNDS}"));
        }
        let mut scram = self.0;
        let hashed = tokio::task::spawn_blocking(move || scram.update(&challenge).map(|()| scram)).await;
        match hashed {
            Ok(Ok(scram)) => Ok(Answered(scram)),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the hashing failed".to_owned()),
        }
    }
}

impl Answered {
    pub(super) fn message(&self) -> &[u8] {
        self.0.message()
    }

    /// Checks the target's signature.
    pub(super) fn finish(mut self, last: &[u8]) -> Result<(), String> {
        self.0.finish(last).map_err(|error| error.to_string())
    }
}

/// The rounds in `r=<nonce>,s=<salt>,i=<rounds>`, read before any work is done.
fn rounds(challenge: &[u8]) -> Option<u32> {
    if challenge.len() > LONGEST_MESSAGE {
        return None;
    }
    let mut fields = std::str::from_utf8(challenge).ok()?.split(',');
    fields.next()?.strip_prefix("r=")?;
    fields.next()?.strip_prefix("s=")?;
    let rounds = fields.next()?.strip_prefix("i=")?;
    rounds.parse().ok().filter(|rounds| *rounds > 0)
}

/// `tls-server-end-point` (RFC 5929, section 4.1): the certificate under the hash of its signature, SHA-256
/// where that is MD5 or SHA-1; undefined for signatures without one hash of their own.
fn certificate_hash(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let signature = &parsed.signature_algorithm.algorithm;
    let is = |oids: &[&oid::Oid<'_>]| oids.contains(&signature);
    let hash = if is(&[
        &oid::OID_PKCS1_MD5WITHRSAENC,
        &oid::OID_PKCS1_SHA1WITHRSA,
        &oid::OID_PKCS1_SHA256WITHRSA,
        &oid::OID_SIG_ECDSA_WITH_SHA256,
    ]) {
        &digest::SHA256
    } else if is(&[&oid::OID_PKCS1_SHA384WITHRSA, &oid::OID_SIG_ECDSA_WITH_SHA384]) {
        &digest::SHA384
    } else if is(&[&oid::OID_PKCS1_SHA512WITHRSA, &oid::OID_SIG_ECDSA_WITH_SHA512]) {
        &digest::SHA512
    } else {
        return None;
    };
    Some(digest::digest(hash, certificate).as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scram(binding: Option<Vec<u8>>, tls: bool) -> Scram {
        Scram { password: "secret".into(), binding, tls }
    }

    #[test]
    fn binding_is_used_where_both_can_and_its_absence_is_told() {
        let both = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
        let (mechanism, started) = scram(Some(vec![1; 32]), true).begin(both).unwrap();
        assert_eq!(mechanism, "SCRAM-SHA-256-PLUS");
        assert!(started.message().starts_with(b"p=tls-server-end-point,,"));
        let (mechanism, started) = scram(Some(vec![1; 32]), true).begin(b"SCRAM-SHA-256\0\0").unwrap();
        assert_eq!(mechanism, "SCRAM-SHA-256");
        assert!(started.message().starts_with(b"y,,"));
        let (_, started) = scram(None, false).begin(both).unwrap();
        assert!(started.message().starts_with(b"n,,"));
        assert!(scram(None, false).begin(b"SCRAM-SHA-1\0\0").is_err());
        assert!(scram(None, false).begin(b"").is_err());
    }

    #[tokio::test]
    async fn a_target_cannot_make_us_hash_for_ever() {
        for challenge in
            ["r=x,s=AAAA,i=100001", "r=x,s=AAAA,i=4294967296", "r=x,s=AAAA,i=0", "i=1", "r=x,s=AAAA,m=1,i=1"]
        {
            let (_, started) = scram(None, false).begin(b"SCRAM-SHA-256\0\0").unwrap();
            assert!(started.answer(challenge.as_bytes().to_vec().into()).await.is_err(), "{challenge}");
        }
    }
}
