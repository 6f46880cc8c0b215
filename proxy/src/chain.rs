//! The chain that makes a recording tamper-evident: each record bears the hash of all that came before it.
//!
//! Owns how a line is sealed and how a seal is read. Touches its arguments. Invariant: the hash of a line covers
//! the bytes of that line and, through the hash before it, every earlier record of the same run of a replica.
//!
//! A sealed line is the record's JSON object with two more fields, always the last:
//! `{…,"link":12,"hash":"<64 hex digits>"}`. The hash is SHA-256 (FIPS 180-4) of the hash before it, 32 bytes, and
//! the line's bytes up to `,"hash"`. The first hash before is that of the run's name. So anyone can check it with
//! sha256sum, and no form of the JSON has to be agreed upon.

use std::io::Write as _;

use sha2::{Digest, Sha256};

/// Bytes of `,"hash":"…"}`.
const SEAL: usize = BEFORE.len() + 64 + AFTER.len();
const BEFORE: &[u8] = b",\"hash\":\"";
const AFTER: &[u8] = b"\"}";
const NUMBER: &[u8] = b",\"link\":";

/// A SHA-256 hash.
pub(crate) type Hash = [u8; 32];

/// Where a chain stands: how many records it has, and the hash of the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) records: u64,
    pub(crate) hash: Hash,
}

impl Head {
    /// The start of the chain of a run, whose name the files begin with.
    pub(crate) fn of_run(run: &str) -> Self {
        let hash = Sha256::new().chain_update(b"sallyport recording 1\n").chain_update(run.as_bytes()).finalize();
        Self { records: 0, hash: hash.into() }
    }

    /// Seals the JSON object that stands in `buffer` from `start` on; where the chain stands once it is written.
    pub(crate) fn seal(&self, buffer: &mut Vec<u8>, start: usize) -> Self {
        let records = self.records + 1;
        let _closing_brace = buffer.pop();
        buffer.extend_from_slice(NUMBER);
        // Writing into memory does not fail, and no digit needs an allocation.
        let _infallible = write!(buffer, "{records}");
        let hash = self.next(buffer.get(start..).unwrap_or_default());
        buffer.extend_from_slice(BEFORE);
        for byte in hash {
            let _infallible = write!(buffer, "{byte:02x}");
        }
        buffer.extend_from_slice(AFTER);
        Self { records, hash }
    }

    /// The hash of a line that follows.
    pub(crate) fn next(&self, body: &[u8]) -> Hash {
        Sha256::new().chain_update(self.hash).chain_update(body).finalize().into()
    }
}

/// What a sealed line says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sealed<'l> {
    /// What the hash covers of this line.
    pub(crate) body: &'l [u8],
    pub(crate) number: u64,
    pub(crate) hash: Hash,
}

impl<'l> Sealed<'l> {
    /// Reads the seal of a line; nothing where there is none.
    pub(crate) fn read(line: &'l [u8]) -> Option<Self> {
        let (body, seal) = line.split_at_checked(line.len().checked_sub(SEAL)?)?;
        let hash = unhex(seal.strip_prefix(BEFORE)?.strip_suffix(AFTER)?)?;
        let at = body.iter().rposition(|byte| !byte.is_ascii_digit())? + 1;
        let (before, digits) = body.split_at_checked(at)?;
        let number = before.ends_with(NUMBER).then(|| std::str::from_utf8(digits).ok()?.parse().ok())??;
        Some(Self { body, number, hash })
    }
}

/// Lower case digits.
pub(crate) fn hex(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads 64 lower case hexadecimal digits.
pub(crate) fn unhex(digits: &[u8]) -> Option<Hash> {
    let mut hash = [0; 32];
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    if pairs.len() != hash.len() || digits.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_is_what_sha256sum_says() {
        let start = Head::of_run("pod-19700101T000000Z");
        let mut line = br#"{"a":1}"#.to_vec();
        let head = start.seal(&mut line, 0);
        let body = br#"{"a":1,"link":1"#;
        let by_hand = Sha256::digest([&start.hash[..], body].concat());
        let text = String::from_utf8(line.clone()).unwrap();
        assert_eq!(text, format!(r#"{{"a":1,"link":1,"hash":"{}"}}"#, hex(&by_hand.into())));
        assert_eq!(Sealed::read(&line), Some(Sealed { body, number: 1, hash: head.hash }));
        assert!(serde_json::from_slice::<serde_json::Value>(&line).is_ok());
    }

    #[test]
    fn what_is_not_a_seal_is_none() {
        let mut line = br#"{"a":1}"#.to_vec();
        Head::of_run("r").seal(&mut line, 0);
        for end in 0..line.len() {
            assert_eq!(Sealed::read(&line[..end]), None, "{end}");
        }
        let upper: Vec<u8> = line.iter().map(u8::to_ascii_uppercase).collect();
        assert_eq!(Sealed::read(&upper), None);
    }
}
