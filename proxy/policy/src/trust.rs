//! What a replica answers for the roots that it uses.
//!
//! Owns the form of that answer, which operator and proxy compare. Touches its arguments. Invariant: the
//! same bytes have the same digest on both sides.

use sha2::{Digest, Sha256};

/// The first half of SHA-256, hexadecimal.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_the_first_half_of_sha_256() {
        assert_eq!(digest(b"abc"), "ba7816bf8f01cfea414140de5dae2223");
    }
}
