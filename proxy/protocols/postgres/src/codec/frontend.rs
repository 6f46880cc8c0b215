//! What clients send once they are logged in.
//!
//! Owns the types, limits and forms of those messages. Touches its arguments only. Invariant: a message that
//! is taken apart here is taken apart whole; what does not fit to the last byte is malformed.

use sallyport_core::record::{Binary, Parameter};
use sallyport_policy::LONGEST_PARAMETER;

use super::binary::{literal, typed};
use super::{CodecError, Fields, LARGEST, header, total};

/// Longest Query or Parse: what a statement may come to.
pub(crate) const LONGEST_TEXT: usize = crate::sql::LONGEST_TEXT;
/// Longest Bind: a statement's parameters.
pub(crate) const LONGEST_BIND: usize = 64 * 1024 * 1024;
/// Longest of the others.
pub(crate) const LONGEST_SMALL: usize = 10_000;

/// The messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Query,
    Parse,
    Bind,
    Describe,
    Execute,
    Close,
    Sync,
    Flush,
    Terminate,
    FunctionCall,
    CopyData,
    CopyDone,
    CopyFail,
}

/// A message whose header is there and possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    /// Size with the type byte.
    pub(crate) total: usize,
}

impl Frame {
    /// Whether it is a text that is too long to be read.
    pub(crate) const fn is_long_text(self) -> bool {
        matches!(self.kind, Kind::Query | Kind::Parse) && self.total > LONGEST_TEXT + 1
    }
}

/// The message at the front of `input`; `None` until its header is there.
pub(crate) fn frame(input: &[u8]) -> Result<Option<Frame>, CodecError> {
    let Some(first) = input.first() else { return Ok(None) };
    // The type is looked at before the length has come: garbage is told at its first byte.
    let (kind, name, limit) = match first {
        // Longer ones than are read are refused, and dropped as they come.
        b'Q' => (Kind::Query, "Query", LARGEST),
        b'P' => (Kind::Parse, "Parse", LARGEST),
        b'B' => (Kind::Bind, "Bind", LONGEST_BIND),
        b'D' => (Kind::Describe, "Describe", LONGEST_SMALL),
        b'E' => (Kind::Execute, "Execute", LONGEST_SMALL),
        b'C' => (Kind::Close, "Close", LONGEST_SMALL),
        b'S' => (Kind::Sync, "Sync", 4),
        b'H' => (Kind::Flush, "Flush", 4),
        b'X' => (Kind::Terminate, "Terminate", 4),
        b'F' => (Kind::FunctionCall, "FunctionCall", LONGEST_TEXT),
        b'd' => (Kind::CopyData, "CopyData", LARGEST),
        b'c' => (Kind::CopyDone, "CopyDone", 4),
        b'f' => (Kind::CopyFail, "CopyFail", LONGEST_SMALL),
        other => return Err(CodecError::UnknownType(*other)),
    };
    let Some((_, length)) = header(input) else { return Ok(None) };
    Ok(Some(Frame { kind, total: total(name, length, limit)? }))
}

/// Parse: a statement and the name it shall have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parse<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) text: &'a [u8],
    /// Four bytes for each parameter whose type it says, for [`types`].
    pub(crate) types: &'a [u8],
}

/// Bind: a portal, the statement it runs, and the parameters.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bind<'a> {
    pub(crate) portal: &'a [u8],
    pub(crate) statement: &'a [u8],
    /// Formats and values as they came, for [`parameters`]; empty when there are no values.
    pub(crate) values: &'a [u8],
}

/// Which kind of name Describe and Close speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    Statement,
    Portal,
}

/// The statement of a Query's body.
pub(crate) fn query(body: &[u8]) -> Result<&[u8], CodecError> {
    let mut fields = Fields::new("Query", body);
    let text = fields.string()?;
    fields.end()?;
    Ok(text)
}

/// A Parse's body.
pub(crate) fn parse(body: &[u8]) -> Result<Parse<'_>, CodecError> {
    let mut fields = Fields::new("Parse", body);
    let (name, text) = (fields.string()?, fields.string()?);
    let count = fields.u16()?;
    let types = fields.bytes(usize::from(count) * 4)?;
    fields.end()?;
    Ok(Parse { name, text, types })
}

/// The types that a Parse says, or a ParameterDescription.
pub(crate) fn types(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks().0.iter().map(|of| u32::from_be_bytes(*of))
}

/// A Bind's body.
pub(crate) fn bind(body: &[u8]) -> Result<Bind<'_>, CodecError> {
    let mut fields = Fields::new("Bind", body);
    let (portal, statement) = (fields.string()?, fields.string()?);
    let from = fields.rest();
    let count = walk(&mut fields, |_, _| {})?;
    let values = from.get(..from.len() - fields.rest().len()).unwrap_or_default();
    let results = fields.u16()?;
    fields.bytes(usize::from(results) * 2)?;
    fields.end()?;
    Ok(Bind { portal, statement, values: if count == 0 { &[] } else { values } })
}

/// An Execute's portal.
pub(crate) fn execute(body: &[u8]) -> Result<&[u8], CodecError> {
    let mut fields = Fields::new("Execute", body);
    let portal = fields.string()?;
    fields.i32()?;
    fields.end()?;
    Ok(portal)
}

/// What a Describe or a Close names.
pub(crate) fn named<'a>(kind: &'static str, body: &'a [u8]) -> Result<(Space, &'a [u8]), CodecError> {
    let mut fields = Fields::new(kind, body);
    let space = match fields.byte()? {
        b'S' => Space::Statement,
        b'P' => Space::Portal,
        _ => return Err(fields.malformed()),
    };
    let name = fields.string()?;
    fields.end()?;
    Ok((space, name))
}

/// The values of a Bind as they are recorded; `of` knows the types of some.
/// `of` tells their types, `claimed` those of which the client itself says that a text is to be read as them.
pub(crate) fn parameters(
    values: &[u8],
    of: impl Fn(usize) -> Option<u32>,
    claimed: impl Fn(usize) -> Option<u32>,
) -> Vec<Parameter> {
    let mut parameters = Vec::new();
    if !values.is_empty() {
        // `values` was walked when the Bind came; it cannot fail now.
        let _walked = walk(&mut Fields::new("Bind", values), |format, value| {
            parameters.push(match value {
                None => Parameter::Null,
                Some(bytes) => match (format, std::str::from_utf8(bytes)) {
                    (0, Ok(text)) => match claimed(parameters.len()) {
                        Some(of) => Parameter::Typed { literal: typed(of, text) },
                        None => Parameter::Text(text.to_owned()),
                    },
                    _ => {
                        let literal = literal(of(parameters.len()), format, bytes, LONGEST_PARAMETER);
                        Parameter::Binary(Binary { bytes: bytes.len(), literal })
                    }
                },
            });
        });
    }
    parameters
}

/// Walks over formats and values; gives each value with its format, and how many there were.
fn walk<'a>(fields: &mut Fields<'a>, mut each: impl FnMut(u16, Option<&'a [u8]>)) -> Result<u16, CodecError> {
    let formats = fields.u16()?;
    let codes = fields.bytes(usize::from(formats) * 2)?;
    let count = fields.u16()?;
    if formats > 1 && formats != count {
        return Err(fields.malformed());
    }
    for n in 0..usize::from(count) {
        let at = if formats == 1 { 0 } else { n * 2 };
        let format = codes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |code| u16::from_be_bytes(*code));
        let length = fields.i32()?;
        let value = match usize::try_from(length) {
            Ok(size) => Some(fields.bytes(size)?),
            Err(_) if length == -1 => None,
            Err(_) => return Err(fields.malformed()),
        };
        each(format, value);
    }
    Ok(count)
}

#[cfg(test)]
pub(crate) mod build {
    //! The same messages, built: for tests.

    use bytes::BytesMut;

    use super::super::message;

    fn one(kind: u8, body: &[&[u8]]) -> Vec<u8> {
        let mut out = BytesMut::new();
        message(&mut out, kind, body);
        out.to_vec()
    }
    pub(crate) fn query(text: &str) -> Vec<u8> {
        one(b'Q', &[text.as_bytes(), b"\0"])
    }
    pub(crate) fn parse(name: &str, text: &str) -> Vec<u8> {
        one(b'P', &[name.as_bytes(), b"\0", text.as_bytes(), b"\0", &[0, 0]])
    }
    pub(crate) fn parse_of(name: &str, text: &str, types: &[u32]) -> Vec<u8> {
        let mut tail = u16::try_from(types.len()).unwrap().to_be_bytes().to_vec();
        tail.extend(types.iter().flat_map(|of| of.to_be_bytes()));
        one(b'P', &[name.as_bytes(), b"\0", text.as_bytes(), b"\0", &tail])
    }
    pub(crate) fn bind(portal: &str, statement: &str, values: &[Option<&[u8]>], format: u16) -> Vec<u8> {
        let mut tail = vec![0, 1];
        tail.extend_from_slice(&format.to_be_bytes());
        tail.extend_from_slice(&u16::try_from(values.len()).unwrap().to_be_bytes());
        for value in values {
            match value {
                None => tail.extend_from_slice(&(-1i32).to_be_bytes()),
                Some(bytes) => {
                    tail.extend_from_slice(&i32::try_from(bytes.len()).unwrap().to_be_bytes());
                    tail.extend_from_slice(bytes);
                }
            }
        }
        tail.extend_from_slice(&[0, 0]);
        one(b'B', &[portal.as_bytes(), b"\0", statement.as_bytes(), b"\0", &tail])
    }
    pub(crate) fn describe(space: u8, name: &str) -> Vec<u8> {
        one(b'D', &[&[space], name.as_bytes(), b"\0"])
    }
    pub(crate) fn close(space: u8, name: &str) -> Vec<u8> {
        one(b'C', &[&[space], name.as_bytes(), b"\0"])
    }
    pub(crate) fn execute(portal: &str) -> Vec<u8> {
        one(b'E', &[portal.as_bytes(), b"\0", &[0, 0, 0, 0]])
    }
    pub(crate) fn sync() -> Vec<u8> {
        one(b'S', &[])
    }
    pub(crate) fn flush() -> Vec<u8> {
        one(b'H', &[])
    }
    pub(crate) fn copy_data(data: &[u8]) -> Vec<u8> {
        one(b'd', &[data])
    }
    pub(crate) fn copy_done() -> Vec<u8> {
        one(b'c', &[])
    }
    pub(crate) fn copy_fail(why: &str) -> Vec<u8> {
        one(b'f', &[why.as_bytes(), b"\0"])
    }
    pub(crate) fn function_call() -> Vec<u8> {
        one(b'F', &[&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(bytes: &[u8]) -> &[u8] {
        let frame = frame(bytes).unwrap().unwrap();
        assert_eq!(frame.total, bytes.len());
        &bytes[5..]
    }

    #[test]
    fn unknown_types_are_told_at_their_first_byte() {
        assert_eq!(frame(b"G"), Err(CodecError::UnknownType(b'G')));
        assert_eq!(frame(b"p"), Err(CodecError::UnknownType(b'p')));
        assert_eq!(frame(b"Q\0\0"), Ok(None));
    }

    #[test]
    fn every_limit_holds() {
        let with = |kind: u8, length: i32| {
            let mut bytes = vec![kind];
            bytes.extend_from_slice(&length.to_be_bytes());
            frame(&bytes)
        };
        for kind in *b"QPBDECSHXFdcf" {
            for length in [-1, 0, 3, i32::MAX, i32::MIN] {
                assert!(with(kind, length).is_err(), "{} {length}", char::from(kind));
            }
        }
        assert!(!with(b'Q', 1024 * 1024).unwrap().unwrap().is_long_text());
        assert!(with(b'P', 1024 * 1024 + 1).unwrap().unwrap().is_long_text());
        assert!(with(b'F', 1024 * 1024 + 1).is_err() && with(b'Q', 1024 * 1024 * 1024 + 1).is_err());
        assert!(with(b'B', 64 * 1024 * 1024).is_ok() && with(b'B', 64 * 1024 * 1024 + 1).is_err());
        assert!(with(b'S', 5).is_err());
    }

    #[test]
    fn a_query_is_one_string_to_its_last_byte() {
        assert_eq!(query(b"select 1\0"), Ok(&b"select 1"[..]));
        assert!(query(b"select 1").is_err());
        assert!(query(b"select 1\0drop table x\0").is_err());
    }

    #[test]
    fn values_whose_lengths_lie_are_refused() {
        for length in [-2i32, i32::MIN, i32::MAX, 100] {
            let mut bytes = b"\0\0\0\0\0\x01".to_vec();
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(b"ab\0\0");
            assert!(bind(&bytes).is_err(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn what_is_built_is_read_back(
            name in "[a-z]{0,9}", text in "[^\\x00]{0,60}", values: Vec<Option<Vec<u8>>>, format in 0u16..2,
        ) {
            let built = build::query(&text);
            prop_assert_eq!(query(body(&built)).unwrap(), text.as_bytes());
            let built = build::parse(&name, &text);
            let wanted = Parse { name: name.as_bytes(), text: text.as_bytes(), types: &[] };
            prop_assert_eq!(parse(body(&built)).unwrap(), wanted);
            let refs: Vec<Option<&[u8]>> = values.iter().map(Option::as_deref).collect();
            let built = build::bind(&name, &text, &refs, format);
            let read = bind(body(&built)).unwrap();
            prop_assert_eq!((read.portal, read.statement), (name.as_bytes(), text.as_bytes()));
            let wanted: Vec<Parameter> = values.iter().map(|value| match value {
                None => Parameter::Null,
                Some(bytes) => match (format, std::str::from_utf8(bytes)) {
                    (0, Ok(text)) => Parameter::Text(text.to_owned()),
                    _ => Parameter::Binary(Binary { bytes: bytes.len(), literal: literal(Some(17), format, bytes, 4096) }),
                },
            }).collect();
            prop_assert_eq!(parameters(read.values, |_| Some(17), |_| None), wanted);
            let built = build::execute(&name);
            prop_assert_eq!(execute(body(&built)).unwrap(), name.as_bytes());
            let built = build::close(b'P', &name);
            prop_assert_eq!(named("Close", body(&built)), Ok((Space::Portal, name.as_bytes())));
            let built = build::describe(b'S', &name);
            prop_assert_eq!(named("Describe", body(&built)), Ok((Space::Statement, name.as_bytes())));
        }

        #[test]
        fn arbitrary_bodies_never_panic(bytes: Vec<u8>) {
            let _ = (frame(&bytes), query(&bytes), parse(&bytes), execute(&bytes), named("Close", &bytes));
            if let Ok(bind) = bind(&bytes) {
                parameters(bind.values, |_| None, |_| None);
            }
            parameters(&bytes, |n| u32::try_from(n).ok(), |n| u32::try_from(n).ok());
        }
    }
}
