//! The messages of the PostgreSQL protocol: bytes to values and back.
//!
//! Owns every length check and every size limit. Touches its arguments only: no input, no output, no clock.
//! Invariant: no memory is taken for a length that was not checked, and no byte sequence panics.

pub(crate) mod backend;
pub(crate) mod binary;
pub(crate) mod frontend;
pub(crate) mod startup;

/// Bytes before a message's body: its type and its length.
pub(crate) const HEADER: usize = 5;

/// The longest message that either side of a real server takes (`PQ_LARGE_MESSAGE_LIMIT`).
pub(crate) const LARGEST: usize = 0x3fff_fffe;

/// Why bytes are not the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    /// A length below its own size, negative, or above the limit of its message.
    #[error("message {kind} has an impossible length of {length}; at most {limit} is taken")]
    Length {
        /// The message.
        kind: &'static str,
        /// What its header says.
        length: i32,
        /// The limit of that message.
        limit: usize,
    },
    /// A message type that does not exist or has no place here.
    #[error("message type 0x{0:02x} is not known here")]
    UnknownType(u8),
    /// The body does not have the form of its message.
    #[error("message {0} is malformed")]
    Malformed(&'static str),
}

/// Type and length as they stand at the front of `input`; the length counts itself.
pub(crate) fn header(input: &[u8]) -> Option<(u8, i32)> {
    let (kind, rest) = input.split_first()?;
    Some((*kind, i32::from_be_bytes(*rest.first_chunk()?)))
}

/// The size of a whole message, type byte included, if its length is possible for a message of that kind.
pub(crate) fn total(kind: &'static str, length: i32, limit: usize) -> Result<usize, CodecError> {
    let wrong = CodecError::Length { kind, length, limit };
    match usize::try_from(length) {
        Ok(size) if (4..=limit).contains(&size) => Ok(size + 1),
        _ => Err(wrong),
    }
}

/// Reads the fields of one body, front to back. Every read can fail, none can panic.
pub(crate) struct Fields<'a> {
    kind: &'static str,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) const fn new(kind: &'static str, body: &'a [u8]) -> Self {
        Self { kind, rest: body }
    }

    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Bytes up to a zero byte, which is consumed.
    pub(crate) fn string(&mut self) -> Result<&'a [u8], CodecError> {
        let end = self.rest.iter().position(|byte| *byte == 0).ok_or_else(|| self.malformed())?;
        let text = self.bytes(end)?;
        self.bytes(1)?;
        Ok(text)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, CodecError> {
        let (byte, rest) = self.rest.split_first().ok_or_else(|| self.malformed())?;
        self.rest = rest;
        Ok(*byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, CodecError> {
        self.chunk().map(u16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, CodecError> {
        self.chunk().map(i32::from_be_bytes)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(|| self.malformed())?;
        self.rest = rest;
        Ok(taken)
    }

    /// Nothing may follow.
    pub(crate) fn end(&self) -> Result<(), CodecError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed()) }
    }

    pub(crate) const fn malformed(&self) -> CodecError {
        CodecError::Malformed(self.kind)
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (chunk, rest) = self.rest.split_first_chunk().ok_or_else(|| self.malformed())?;
        self.rest = rest;
        Ok(*chunk)
    }
}

/// Appends a message: type, length, body.
pub(crate) fn message(out: &mut bytes::BytesMut, kind: u8, body: &[&[u8]]) {
    let size = 4 + body.iter().map(|part| part.len()).sum::<usize>();
    // Only ever called with bodies of ours, which are far below the limit; a saturated length would be
    // refused by any peer.
    let length = i32::try_from(size).unwrap_or(i32::MAX);
    out.reserve(size + 1);
    out.extend_from_slice(&[kind]);
    out.extend_from_slice(&length.to_be_bytes());
    for part in body {
        out.extend_from_slice(part);
    }
}

/// Writes the length of the message that begins at `start` and ends where `out` does; `None` where it has none.
pub(crate) fn close(out: &mut bytes::BytesMut, start: usize) -> Option<()> {
    let size = i32::try_from(out.len().checked_sub(start + 1)?).ok()?;
    out.get_mut(start + 1..start + 5)?.copy_from_slice(&size.to_be_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_that_lie_are_refused_before_anything_is_read() {
        for length in [i32::MIN, -1, 0, 3, 1001, i32::MAX] {
            assert!(total("X", length, 1000).is_err(), "{length}");
        }
        assert_eq!(total("X", 4, 1000), Ok(5));
        assert_eq!(total("X", 1000, 1000), Ok(1001));
    }

    proptest! {
        #[test]
        fn fields_never_panic_and_never_read_past_the_end(body: Vec<u8>, script: Vec<u8>) {
            let mut fields = Fields::new("X", &body);
            for step in script {
                let before = fields.rest().len();
                let read = match step % 5 {
                    0 => fields.string().is_ok(),
                    1 => fields.byte().is_ok(),
                    2 => fields.u16().is_ok(),
                    3 => fields.i32().is_ok(),
                    _ => fields.bytes(usize::from(step)).is_ok(),
                };
                prop_assert!(fields.rest().len() <= before);
                prop_assert!(read || fields.rest().len() == before || step % 5 == 0);
            }
        }
    }
}
