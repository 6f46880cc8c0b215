//! Texts that a server writes: errors, notices, notifications.
//!
//! Owns what of them may pass. Touches its arguments only. Invariant: where a masked column may have a part in a text,
//! only what cannot hold a value of it passes: severity, code, position, and names from the catalog.

use bytes::BytesMut;

use super::Veil;
use crate::codec::{self, Fields};

/// How much of an error or a notice is read; what comes after is left out.
pub(crate) const LONGEST_TEXTS: usize = 64 * 1024;

/// What a client reads in a text's place.
const WITHHELD: &str = "the server's words are withheld: they could hold values of a masked column";

/// Appends an ErrorResponse or NoticeResponse (its type is `kind`) of which nothing reads what masks hide.
/// `hidden`: columns that the command touches are masked.
pub(crate) fn texts_withheld(kind: u8, body: &[u8], hidden: bool, veil: &Veil, out: &mut BytesMut) {
    let mut fields = Fields::new("ErrorResponse", body);
    let mut read: Vec<(u8, &[u8])> = Vec::new();
    while let Ok(field) = fields.byte() {
        if field == 0 {
            break;
        }
        let Ok(text) = fields.string() else { break };
        read.push((field, text));
    }
    let of = |wanted: u8| read.iter().find(|(field, _)| *field == wanted).map(|(_, text)| *text);
    let passes = !hidden || is_of_the_text_alone(of(b'C'), of(b'P'), of(b'R'));
    let mut written = Vec::new();
    for (field, text) in &read {
        let text = match field {
            // Severity, code, position in the client's own text.
            b'S' | b'V' | b'C' | b'P' => Some(text.to_vec()),
            b'M' if !passes => Some(WITHHELD.as_bytes().to_vec()),
            // Names of schema, table, column, type, constraint; place in the server's source.
            b's' | b't' | b'c' | b'd' | b'n' | b'F' | b'L' | b'R' if !raised(of(b'R')) || !hidden => {
                Some(text.to_vec())
            }
            b'M' => Some(text.to_vec()),
            _ if hidden => None,
            _ => Some(text.to_vec()),
        };
        if let Some(text) = text {
            written.push(*field);
            written.extend(veil.detected(&text).unwrap_or(text));
            written.push(0);
        }
    }
    codec::message(out, kind, &[&written, b"\0"]);
}

/// Appends a NotificationResponse without its payload.
pub(crate) fn payload_withheld(body: &[u8], out: &mut BytesMut) {
    let mut fields = Fields::new("NotificationResponse", body);
    if let (Ok(process), Ok(channel)) = (fields.i32(), fields.string()) {
        codec::message(out, b'A', &[&process.to_be_bytes(), channel, b"\0\0"]);
    }
}

/// Whether a message speaks of the client's text and of names in the catalog, and never of a value: what is wrong with
/// the text where it says where (a cast that fails says the value, and not where), what was cancelled or timed out, and
/// what a constraint refused. Not what a function raised itself.
fn is_of_the_text_alone(code: Option<&[u8]>, position: Option<&[u8]>, routine: Option<&[u8]>) -> bool {
    if raised(routine) {
        return false;
    }
    match code.unwrap_or_default() {
        [b'4', b'2', ..] | b"0A000" => position.is_some(),
        // Which constraint; the values are in the detail. Not 23000, which extensions use.
        b"23502" | b"23503" | b"23505" | b"23514" | b"23P01" => true,
        b"25P02" | b"25001" | b"25006" | b"40001" | b"40P01" | b"55P03" | b"57014" => true,
        [b'0', b'8', ..] | [b'5', b'3', ..] | [b'5', b'7', b'P', ..] => true,
        _ => false,
    }
}

/// RAISE of PL/pgSQL, which can say anything under any code.
fn raised(routine: Option<&[u8]>) -> bool {
    routine.is_none_or(|routine| routine == b"exec_stmt_raise")
}
