//! How refusals and endings are said in PostgreSQL's words.
//!
//! Owns the ErrorResponses we make, their SQLSTATEs, and the constants that make a server fail in a refused
//! command's place. Touches its arguments only. Invariant: nothing of a target's side stands in them but what
//! a fault or denial says aloud.

use bytes::{Bytes, BytesMut};
use sallyport_core::Fault;
use sallyport_core::protocol::{Ending, Notice, Reached};
use sallyport_policy::{Denial, DenyReason, NotApproved};

use crate::codec::backend::{error_response, notice_response};
use crate::login;

/// A Query that no server can parse.
pub(crate) const QUERY_THAT_FAILS: &[u8] = b"Q\0\0\0\x3cSALLYPORT REFUSED A COMMAND HERE: ITS RECORDS SAY WHICH\0";
/// A Parse that no server can parse, of a name of its own: a failed Parse of the unnamed statement would
/// destroy the client's.
pub(crate) const PARSE_THAT_FAILS: &[u8] =
    b"P\0\0\0\x50sallyport refusal\0SALLYPORT REFUSED A COMMAND HERE: ITS RECORDS SAY WHICH\0\0\0";

/// The ErrorResponse for a refused command. `own` is a refusal that the session itself had cause for.
pub(crate) fn command_refused(denial: &Denial, own: Option<(Denial, &'static str)>) -> Bytes {
    let code = match own {
        Some((cause, code)) if cause == *denial => code,
        _ => command_code(denial),
    };
    said("ERROR", code, denial)
}

/// What became of a command whose answer was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The server failed it, or the transaction that it is part of.
    Undone,
    /// It had come to its end before it could be stopped.
    Stands,
}

/// The ErrorResponse for a command whose answer is longer than a policy allows.
pub(crate) fn too_long(reached: &Reached, most: u64, effect: Effect) -> Bytes {
    let what = if reached.limit == "rowsPerCommand" { "rows" } else { "bytes of rows" };
    let policy = format!("policy {}", reached.policy);
    let became = match effect {
        Effect::Undone => "the command was stopped and has failed",
        Effect::Stands => "the rest is withheld; the command itself had come to its end, and what it changed stands",
    };
    let message = format!("the answer has more than the {most} {what} that {policy} allows one command: {became}");
    let mut out = BytesMut::new();
    // What the server says where a limit of its own is exceeded.
    let fields: [(u8, &str); 6] = [
        (b'S', "ERROR"),
        (b'V', "ERROR"),
        (b'C', "54000"),
        (b'M', &message),
        (b'D', &policy),
        (b'H', "ask for less at once"),
    ];
    error_response(&mut out, &fields);
    out.freeze()
}

/// The last words to a client whose session ends from our side.
pub(crate) fn farewell(ending: &Ending) -> Bytes {
    match ending {
        Ending::Denied(denial) => said("FATAL", session_code(denial), denial),
        Ending::Draining => fatal("57P01", "this proxy is going away: connect again"),
        Ending::Client(cause) => fatal("08P01", cause),
        Ending::Upstream(cause) => fatal("08006", cause),
    }
}

/// The words to a client whose session does not begin.
pub(crate) fn session_refused(fault: &Fault) -> Bytes {
    let code = match fault {
        Fault::Policy(denial) => return said("FATAL", session_code(denial), denial),
        Fault::Client(cause) if *cause == TLS_REQUIRED => "28000",
        Fault::Client(_) => "08P01",
        Fault::Upstream { told, .. } => login::code_of(told),
        Fault::Internal { .. } => "57P03",
    };
    fatal(code, &fault.told())
}

/// What a client reads that does not ask for TLS.
pub(crate) const TLS_REQUIRED: &str =
    "TLS with a client certificate is required: set sslmode=verify-full, sslcert and sslkey";

fn command_code(denial: &Denial) -> &'static str {
    match &denial.reason {
        DenyReason::NoRoomToRecord => "53100",
        DenyReason::Stale { .. } => "57P03",
        // What the server itself says of a statement that its client has cancelled.
        DenyReason::NotApproved { why, .. } if matches!(**why, NotApproved::Cancelled { .. }) => "57014",
        DenyReason::TooManySessions { .. } => "53300",
        DenyReason::TooManyCommands { .. } => "53400",
        // 42501 is what the server itself says where privileges are missing: clients know it.
        _ => "42501",
    }
}

fn session_code(denial: &Denial) -> &'static str {
    match &denial.reason {
        // What the server itself says when it is shut down: clients and pools know to connect again.
        _ if denial.asks_to_reconnect() => "57P01",
        _ if denial.ends_session() => "28000",
        _ => command_code(denial),
    }
}

/// The NoticeResponse to a client whose command waits.
pub(crate) fn notice(notice: &Notice) -> Bytes {
    let mut fields = vec![(b'S', "NOTICE"), (b'V', "NOTICE"), (b'C', "00000"), (b'M', notice.text.as_str())];
    fields.extend(notice.hint.as_deref().map(|hint| (b'H', hint)));
    let mut out = BytesMut::new();
    notice_response(&mut out, &fields);
    out.freeze()
}

fn said(severity: &str, code: &str, denial: &Denial) -> Bytes {
    let message = denial.to_string();
    let rule = denial.rule().map(|(policy, rule)| format!("policy {policy}, rule {rule}"));
    let rule = rule.or_else(|| denial.policy().map(|policy| format!("policy {policy}")));
    let mut fields = vec![(b'S', severity), (b'V', severity), (b'C', code), (b'M', message.as_str())];
    if let Some(rule) = &rule {
        fields.push((b'D', rule));
    }
    if let DenyReason::NotAllowed { .. } = denial.reason {
        fields.push((b'H', "ask the target's owner for a rule that allows it"));
    }
    let mut out = BytesMut::new();
    error_response(&mut out, &fields);
    out.freeze()
}

fn fatal(code: &str, message: &str) -> Bytes {
    let mut out = BytesMut::new();
    error_response(&mut out, &[(b'S', "FATAL"), (b'V', "FATAL"), (b'C', code), (b'M', message)]);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::backend::{error_field, failure};
    use crate::codec::frontend;

    #[test]
    fn the_constants_are_whole_messages() {
        let frame = frontend::frame(QUERY_THAT_FAILS).unwrap().unwrap();
        assert_eq!(frame.total, QUERY_THAT_FAILS.len());
        frontend::query(&QUERY_THAT_FAILS[5..]).unwrap();
        let frame = frontend::frame(PARSE_THAT_FAILS).unwrap().unwrap();
        assert_eq!(frame.total, PARSE_THAT_FAILS.len());
        assert_eq!(frontend::parse(&PARSE_THAT_FAILS[5..]).unwrap().name, b"sallyport refusal");
    }

    #[test]
    fn a_rule_that_refused_is_named() {
        let denial: Denial =
            DenyReason::Rule { policy: "p".into(), rule: "r".into(), message: Some("not on Fridays".into()) }.into();
        let error = command_refused(&denial, None);
        assert_eq!(failure(&error[5..]).code, *b"42501");
        assert_eq!(error_field(&error[5..], b'M').unwrap(), "refused by policy p, rule r: not on Fridays");
        assert_eq!(error_field(&error[5..], b'D').unwrap(), "policy p, rule r");
    }

    #[test]
    fn endings_are_fatal_and_tell_apart_who_is_to_blame() {
        let code = |ending: &Ending| {
            let bytes = farewell(ending);
            let failure = failure(&bytes[5..]);
            assert!(failure.ends_session);
            String::from_utf8(failure.code.to_vec()).unwrap()
        };
        assert_eq!(code(&Ending::Denied(DenyReason::Suspended.into())), "28000");
        assert_eq!(code(&Ending::Draining), "57P01");
        assert_eq!(code(&Ending::Client("x".into())), "08P01");
        assert_eq!(code(&Ending::Upstream("x".into())), "08006");
    }

    #[test]
    fn a_full_record_store_is_told_as_a_full_disk() {
        let denial: Denial = DenyReason::NoRoomToRecord.into();
        assert_eq!(failure(&command_refused(&denial, None)[5..]).code, *b"53100");
        assert_eq!(failure(&session_refused(&Fault::Policy(denial))[5..]).code, *b"53100");
    }

    #[test]
    fn who_may_come_again_at_once_is_told_to_reconnect() {
        for reason in [
            DenyReason::CertificateExpired,
            DenyReason::Distrusted,
            DenyReason::SessionTooLong { seconds: 1 },
            DenyReason::SessionIdle { seconds: 1 },
        ] {
            let told = farewell(&Ending::Denied(reason.into()));
            assert_eq!(failure(&told[5..]).code, *b"57P01");
            assert!(error_field(&told[5..], b'M').unwrap().contains("connect again"));
        }
    }

    #[test]
    fn a_proxy_that_knows_too_little_is_told_as_a_server_that_cannot_be_used_now() {
        let denial: Denial = DenyReason::Stale { seconds: 90 }.into();
        assert_eq!(failure(&command_refused(&denial, None)[5..]).code, *b"57P03");
        assert_eq!(failure(&session_refused(&Fault::Policy(denial))[5..]).code, *b"57P03");
    }
}
