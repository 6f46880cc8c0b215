//! What opens a connection: requests for encryption, cancel requests, the startup message.
//!
//! Owns their codes, limits and forms, both as they come from clients and as we send them to targets. Touches
//! its arguments only. Invariant: nothing longer than a startup message may be is ever waited for.

use bytes::{BufMut, BytesMut};

use super::{CodecError, Fields};

/// Longest startup message, as in the server.
pub(crate) const LONGEST_STARTUP: usize = 10_000;
/// Longest secret of a cancel request (protocol 3.2).
pub(crate) const LONGEST_SECRET: usize = 256;
/// Version 3.0; the minor version stands in the lower half.
pub(crate) const VERSION_3: i32 = 3 << 16;
/// The newest minor version spoken here.
pub(crate) const NEWEST_MINOR: u16 = 2;

const CANCEL: i32 = 80_877_102;
const SSL: i32 = 80_877_103;
const GSSENC: i32 = 80_877_104;

/// The request for TLS, whole.
pub(crate) const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// What the first eight bytes of a connection announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    /// A TLS record: the client speaks TLS at once.
    TlsRecord,
    /// It asks for TLS.
    SslRequest,
    /// It asks for GSSAPI encryption.
    GssEncRequest,
    /// A cancel request; this many bytes follow.
    Cancel { rest: usize },
    /// A startup message of protocol 3 with that minor version; this many bytes follow.
    Startup { minor: u16, rest: usize },
}

/// Reads the first eight bytes.
pub(crate) fn first(bytes: [u8; 8]) -> Result<First, CodecError> {
    let [kind, _, _, _, rest @ ..] = bytes;
    if kind == 0x16 {
        return Ok(First::TlsRecord);
    }
    let [a, b, c, d, ..] = bytes;
    let length = i32::from_be_bytes([a, b, c, d]);
    let code = i32::from_be_bytes(rest);
    let malformed = CodecError::Malformed("startup");
    let size = usize::try_from(length).ok().filter(|size| (8..=LONGEST_STARTUP).contains(size));
    let rest = size.ok_or(malformed.clone())? - 8;
    match code {
        SSL if rest == 0 => Ok(First::SslRequest),
        GSSENC if rest == 0 => Ok(First::GssEncRequest),
        // Process and at least one byte of secret.
        CANCEL if (5..=4 + LONGEST_SECRET).contains(&rest) => Ok(First::Cancel { rest }),
        version if version >> 16 == 3 => {
            let minor = u16::try_from(version & 0xffff).map_err(|_| malformed)?;
            Ok(First::Startup { minor, rest })
        }
        _ => Err(malformed),
    }
}

/// The names and values of a startup message, in their order.
pub(crate) fn parameters(body: &[u8]) -> Result<Vec<(&str, &str)>, CodecError> {
    let mut fields = Fields::new("startup", body);
    let mut pairs = Vec::new();
    loop {
        let name = text(fields.string()?)?;
        if name.is_empty() {
            fields.end()?;
            return Ok(pairs);
        }
        pairs.push((name, text(fields.string()?)?));
    }
}

/// Whose work a cancel request wants to end, and the proof that it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelKey {
    pub(crate) pid: i32,
    pub(crate) secret: Vec<u8>,
}

/// Reads what follows the first eight bytes of a cancel request.
pub(crate) fn cancel_key(body: &[u8]) -> Result<CancelKey, CodecError> {
    let mut fields = Fields::new("CancelRequest", body);
    let pid = fields.i32()?;
    let secret = fields.rest();
    if secret.is_empty() || secret.len() > LONGEST_SECRET {
        return Err(fields.malformed());
    }
    Ok(CancelKey { pid, secret: secret.to_vec() })
}

/// Builds a cancel request.
pub(crate) fn cancel_request(key: &CancelKey) -> BytesMut {
    untyped(CANCEL, |out| {
        out.put_i32(key.pid);
        out.put_slice(&key.secret);
    })
}

/// Builds a startup message of version 3.0. Names and values hold no zero byte: they came out of one.
pub(crate) fn startup<'a>(parameters: impl IntoIterator<Item = (&'a str, &'a str)>) -> BytesMut {
    untyped(VERSION_3, |out| {
        for (name, value) in parameters {
            for part in [name, value] {
                out.put_slice(part.as_bytes());
                out.put_u8(0);
            }
        }
        out.put_u8(0);
    })
}

fn untyped(code: i32, body: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut content = BytesMut::new();
    body(&mut content);
    let mut out = BytesMut::with_capacity(content.len() + 8);
    // Ours are short; a saturated length would be refused by any server.
    out.put_i32(i32::try_from(content.len() + 8).unwrap_or(i32::MAX));
    out.put_i32(code);
    out.put_slice(&content);
    out
}

fn text(bytes: &[u8]) -> Result<&str, CodecError> {
    std::str::from_utf8(bytes).map_err(|_| CodecError::Malformed("startup"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(bytes: &[u8]) -> Result<First, CodecError> {
        first(*bytes.first_chunk().unwrap())
    }

    #[test]
    fn the_requests_of_real_clients_are_recognised() {
        assert_eq!(head(&SSL_REQUEST), Ok(First::SslRequest));
        assert_eq!(head(&[0, 0, 0, 8, 4, 210, 22, 48]), Ok(First::GssEncRequest));
        assert_eq!(head(&[0, 0, 0, 16, 4, 210, 22, 46]), Ok(First::Cancel { rest: 8 }));
        assert_eq!(head(&[0, 0, 0, 41, 0, 3, 0, 2]), Ok(First::Startup { minor: 2, rest: 33 }));
        assert_eq!(head(&[0x16, 3, 1, 2, 0, 1, 0, 1]), Ok(First::TlsRecord));
    }

    #[test]
    fn garbage_and_other_versions_are_refused() {
        assert!(head(b"GET / HT").is_err());
        assert!(head(&[0, 0, 0, 9, 4, 210, 22, 47]).is_err(), "an SSLRequest with a tail");
        assert!(head(&[0, 0, 0, 16, 0, 2, 0, 0]).is_err(), "protocol 2");
        assert!(head(&[0xff, 0xff, 0xff, 0xff, 0, 3, 0, 0]).is_err());
        assert!(head(&[0, 0, 39, 17, 0, 3, 0, 0]).is_err(), "10,001 bytes");
        assert!(head(&[0, 0, 0, 12, 4, 210, 22, 46]).is_err(), "no secret");
        assert!(head(&[0, 0, 1, 13, 4, 210, 22, 46]).is_err(), "a secret of 257");
    }

    #[test]
    fn a_startup_message_ends_where_it_says() {
        assert_eq!(parameters(b"user\0bob\0\0"), Ok(vec![("user", "bob")]));
        assert!(parameters(b"user\0bob\0").is_err());
        assert!(parameters(b"user\0bob\0\0x").is_err());
        assert!(parameters(b"user\0\0").is_err(), "no end after an empty value");
        assert!(parameters(b"user\0\xff\0\0").is_err());
    }

    proptest! {
        #[test]
        fn what_is_built_is_read_back(pairs: Vec<(String, String)>, pid: i32, secret in prop::collection::vec(any::<u8>(), 1..=256)) {
            let pairs: Vec<(String, String)> = pairs.into_iter()
                .map(|(name, value)| (name.replace('\0', ""), value.replace('\0', "")))
                .filter(|(name, _)| !name.is_empty()).collect();
            let built = startup(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())));
            if built.len() <= LONGEST_STARTUP {
                prop_assert_eq!(head(&built), Ok(First::Startup { minor: 0, rest: built.len() - 8 }));
            }
            let read = parameters(&built[8..]).unwrap();
            prop_assert!(read.iter().zip(&pairs).all(|(a, b)| a.0 == b.0 && a.1 == b.1));
            prop_assert_eq!(read.len(), pairs.len());
            let key = CancelKey { pid, secret };
            let built = cancel_request(&key);
            prop_assert_eq!(head(&built), Ok(First::Cancel { rest: built.len() - 8 }));
            prop_assert_eq!(cancel_key(&built[8..]).unwrap(), key);
        }

        #[test]
        fn arbitrary_bytes_never_panic(eight: [u8; 8], bytes: Vec<u8>) {
            let _ = (first(eight), parameters(&bytes), cancel_key(&bytes));
        }
    }
}
