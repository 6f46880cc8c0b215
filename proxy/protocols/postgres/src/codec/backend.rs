//! What servers send, and the messages that we send in their place.
//!
//! Owns the types and limits of those messages and the few bodies that matter. Touches its arguments only.
//! Invariant: only what is read whole must fit a small limit; everything else can pass in pieces.

use bytes::BytesMut;

use super::{CodecError, Fields, LARGEST, header, message, total};

/// Longest of the messages that are read whole (libpq takes no more either).
pub(crate) const LONGEST_WHOLE: usize = 30_000;
/// How much of an ErrorResponse is looked at: severity and code stand first.
pub(crate) const ERROR_PEEK: usize = 256;

/// The messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Authentication,
    BackendKeyData,
    BindComplete,
    CloseComplete,
    CommandComplete,
    CopyBothResponse,
    CopyData,
    CopyDone,
    CopyInResponse,
    CopyOutResponse,
    DataRow,
    EmptyQueryResponse,
    ErrorResponse,
    NegotiateProtocolVersion,
    NoData,
    NoticeResponse,
    NotificationResponse,
    ParameterDescription,
    ParameterStatus,
    ParseComplete,
    PortalSuspended,
    ReadyForQuery,
    RowDescription,
}

/// A message whose header is there and possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    /// Size with the type byte.
    pub(crate) total: usize,
}

/// The message at the front of `input`; `None` until its header is there.
pub(crate) fn frame(input: &[u8]) -> Result<Option<Frame>, CodecError> {
    let Some(first) = input.first() else { return Ok(None) };
    let (kind, name, limit) = match first {
        b'D' => (Kind::DataRow, "DataRow", LARGEST),
        b'd' => (Kind::CopyData, "CopyData", LARGEST),
        b'C' => (Kind::CommandComplete, "CommandComplete", LONGEST_WHOLE),
        b'Z' => (Kind::ReadyForQuery, "ReadyForQuery", 5),
        b'1' => (Kind::ParseComplete, "ParseComplete", 4),
        b'2' => (Kind::BindComplete, "BindComplete", 4),
        b'3' => (Kind::CloseComplete, "CloseComplete", 4),
        b'T' => (Kind::RowDescription, "RowDescription", LARGEST),
        b'E' => (Kind::ErrorResponse, "ErrorResponse", LARGEST),
        b'N' => (Kind::NoticeResponse, "NoticeResponse", LARGEST),
        b'A' => (Kind::NotificationResponse, "NotificationResponse", LARGEST),
        b'S' => (Kind::ParameterStatus, "ParameterStatus", LONGEST_WHOLE),
        b'n' => (Kind::NoData, "NoData", 4),
        b's' => (Kind::PortalSuspended, "PortalSuspended", 4),
        b'I' => (Kind::EmptyQueryResponse, "EmptyQueryResponse", 4),
        b't' => (Kind::ParameterDescription, "ParameterDescription", LARGEST),
        b'G' => (Kind::CopyInResponse, "CopyInResponse", LONGEST_WHOLE),
        b'H' => (Kind::CopyOutResponse, "CopyOutResponse", LONGEST_WHOLE),
        b'W' => (Kind::CopyBothResponse, "CopyBothResponse", LONGEST_WHOLE),
        b'c' => (Kind::CopyDone, "CopyDone", 4),
        b'R' => (Kind::Authentication, "Authentication", LONGEST_WHOLE),
        b'K' => (Kind::BackendKeyData, "BackendKeyData", LONGEST_WHOLE),
        b'v' => (Kind::NegotiateProtocolVersion, "NegotiateProtocolVersion", LONGEST_WHOLE),
        other => return Err(CodecError::UnknownType(*other)),
    };
    let Some((_, length)) = header(input) else { return Ok(None) };
    Ok(Some(Frame { kind, total: total(name, length, limit)? }))
}

/// What matters of an ErrorResponse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The session is over with it (FATAL, PANIC).
    pub(crate) ends_session: bool,
    /// SQLSTATE.
    pub(crate) code: [u8; 5],
}

/// Reads severity and code from the beginning of an ErrorResponse's body; the rest may be missing.
pub(crate) fn failure(start: &[u8]) -> Failure {
    let mut fields = Fields::new("ErrorResponse", start);
    let mut failure = Failure { ends_session: false, code: *b"XX000" };
    while let Ok(field) = fields.byte() {
        let Ok(text) = fields.string() else { break };
        match field {
            // `V` is never translated; `S` may be, and counts where `V` is not sent.
            b'V' | b'S' => failure.ends_session |= text == b"FATAL" || text == b"PANIC",
            b'C' => {
                if let Ok(code) = text.try_into() {
                    failure.code = code;
                }
                break;
            }
            _ => {}
        }
    }
    failure
}

/// One field of an ErrorResponse that is there whole.
pub(crate) fn error_field(body: &[u8], wanted: u8) -> Option<String> {
    let mut fields = Fields::new("ErrorResponse", body);
    loop {
        let field = fields.byte().ok()?;
        let text = fields.string().ok()?;
        if field == wanted {
            return Some(String::from_utf8_lossy(text).into_owned());
        }
    }
}

/// The number of rows that a CommandComplete tells.
pub(crate) fn rows(body: &[u8]) -> Option<u64> {
    let tag = std::str::from_utf8(body.strip_suffix(b"\0")?).ok()?;
    tag.rsplit_once(' ')?.1.parse().ok()
}

/// Name and value of a ParameterStatus.
pub(crate) fn parameter_status(body: &[u8]) -> Result<(&[u8], &[u8]), CodecError> {
    let mut fields = Fields::new("ParameterStatus", body);
    let pair = (fields.string()?, fields.string()?);
    fields.end()?;
    Ok(pair)
}

/// Where a session's transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Idle,
    InTransaction,
    Failed,
}

impl Status {
    /// As ReadyForQuery tells it.
    pub(crate) fn read(body: &[u8]) -> Result<Self, CodecError> {
        match body {
            b"I" => Ok(Self::Idle),
            b"T" => Ok(Self::InTransaction),
            b"E" => Ok(Self::Failed),
            _ => Err(CodecError::Malformed("ReadyForQuery")),
        }
    }
}

/// Appends a ReadyForQuery.
pub(crate) fn ready_for_query(out: &mut BytesMut, status: Status) {
    let status = match status {
        Status::Idle => b"I",
        Status::InTransaction => b"T",
        Status::Failed => b"E",
    };
    message(out, b'Z', &[status]);
}

/// Appends an ErrorResponse of its fields, in their order.
pub(crate) fn error_response(out: &mut BytesMut, fields: &[(u8, &str)]) {
    told(out, b'E', fields);
}

/// Appends a NoticeResponse of its fields, in their order.
pub(crate) fn notice_response(out: &mut BytesMut, fields: &[(u8, &str)]) {
    told(out, b'N', fields);
}

fn told(out: &mut BytesMut, kind: u8, fields: &[(u8, &str)]) {
    let mut body = Vec::new();
    for (field, text) in fields {
        body.push(*field);
        // A zero byte would end the field early.
        body.extend(text.bytes().filter(|byte| *byte != 0));
        body.push(0);
    }
    message(out, kind, &[&body, b"\0"]);
}

/// Appends an AuthenticationOk.
pub(crate) fn authentication_ok(out: &mut BytesMut) {
    message(out, b'R', &[&[0, 0, 0, 0]]);
}

/// Appends a BackendKeyData.
pub(crate) fn backend_key_data(out: &mut BytesMut, pid: i32, secret: &[u8]) {
    message(out, b'K', &[&pid.to_be_bytes(), secret]);
}

/// Appends a NegotiateProtocolVersion: the newest minor version spoken here and the options not known here.
pub(crate) fn negotiate_protocol_version(out: &mut BytesMut, minor: u16, unknown: &[String]) {
    let count = i32::try_from(unknown.len()).unwrap_or(i32::MAX);
    let names: Vec<u8> = unknown.iter().flat_map(|name| name.bytes().chain([0])).collect();
    message(out, b'v', &[&(super::startup::VERSION_3 | i32::from(minor)).to_be_bytes(), &count.to_be_bytes(), &names]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn severity_and_code_are_found_at_the_front() {
        let mut out = BytesMut::new();
        error_response(&mut out, &[(b'S', "ERREUR"), (b'V', "ERROR"), (b'C', "42601"), (b'M', "no")]);
        assert_eq!(failure(&out[5..]), Failure { ends_session: false, code: *b"42601" });
        assert_eq!(failure(&out[5..30]), Failure { ends_session: false, code: *b"42601" });
        assert_eq!(error_field(&out[5..], b'M').as_deref(), Some("no"));
        assert_eq!(error_field(&out[5..], b'H'), None);
        assert!(failure(b"SFATAL\0C57P01\0").ends_session);
        assert!(failure(b"SFATAL\0VFATAL\0C57P01\0").ends_session);
    }

    #[test]
    fn rows_come_from_the_end_of_the_tag() {
        for (tag, wanted) in [
            ("SELECT 5", Some(5)),
            ("INSERT 0 7", Some(7)),
            ("COPY 2", Some(2)),
            ("BEGIN", None),
            ("CREATE TABLE", None),
        ] {
            assert_eq!(rows(format!("{tag}\0").as_bytes()), wanted, "{tag}");
        }
    }

    #[test]
    fn an_error_text_cannot_end_its_field() {
        let mut out = BytesMut::new();
        error_response(&mut out, &[(b'M', "a\0Cevil")]);
        assert_eq!(error_field(&out[5..], b'M').as_deref(), Some("aCevil"));
    }

    #[test]
    fn impossible_lengths_and_types_are_refused() {
        for kind in *b"DdCZ123TENASnsItGHWcRKv" {
            for length in [-1i32, 0, 3, i32::MAX] {
                let mut bytes = vec![kind];
                bytes.extend_from_slice(&length.to_be_bytes());
                assert!(frame(&bytes).is_err(), "{} {length}", char::from(kind));
            }
        }
        assert_eq!(frame(b"V"), Err(CodecError::UnknownType(b'V')));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = (frame(&bytes), failure(&bytes), error_field(&bytes, b'M'), rows(&bytes));
            let _ = (parameter_status(&bytes), Status::read(&bytes));
        }

        #[test]
        fn status_is_read_as_written(n in 0usize..3) {
            let status = [Status::Idle, Status::InTransaction, Status::Failed][n];
            let mut out = BytesMut::new();
            ready_for_query(&mut out, status);
            prop_assert_eq!(frame(&out).unwrap().unwrap().total, out.len());
            prop_assert_eq!(Status::read(&out[5..]).unwrap(), status);
        }
    }
}
