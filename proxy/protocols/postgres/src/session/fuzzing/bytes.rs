//! Raw bytes from either side: the codec in both directions, through the session.
//!
//! Owns what is in flight when a server's bytes come. Touches memory only. Invariant: a broken law panics, nothing else
//! does.

use std::sync::Arc;

use sallyport_core::protocol::Masking;
use sallyport_policy::{ColumnPattern, Detector, MaskMethod, MaskPlan};

use super::Dry;

/// Each client message that the server's answers are fed against: one of every kind that is answered.
const IN_FLIGHT: &[&[u8]] = &[
    b"Q\0\0\0\x0dselect 1\0",
    b"P\0\0\0\x11s\0select 1\0\0\0",
    b"B\0\0\0\x0ep\0s\0\0\0\0\0\0\0",
    b"D\0\0\0\x07Pp\0",
    b"E\0\0\0\x0ap\0\0\0\0\0",
    b"C\0\0\0\x07Sx\0",
    b"S\0\0\0\x04",
    b"Q\0\0\0\x0dselect 2\0",
    b"S\0\0\0\x04",
];

/// The lower two bits of `mode` say how often a command is refused, the third whether anything is masked: some column of
/// whatever table, and something that is detected.
fn dry(mode: u8) -> Dry {
    let column = ColumnPattern::parse("*.*.x").map(|column| (column, MaskMethod::Partial));
    let plan = MaskPlan { columns: column.into_iter().collect(), detect: vec![(Detector::Email, MaskMethod::Redact)] };
    let masking = Arc::new(Masking { plan, key: None });
    Dry::new(u64::from(mode & 3), (mode & 4 != 0).then_some(&masking))
}

/// Whatever a client sends, in pieces that the first byte says.
pub fn client_bytes(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let mut dry = dry(first >> 5);
    for piece in data.chunks(1 + usize::from(first & 31)) {
        dry.send(piece);
    }
    dry.assert_laws();
}

/// Whatever a server sends: in pieces or at once, the client sees the same, its last words included.
pub fn server_bytes(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let run = |piece: usize| {
        let mut dry = dry(first >> 5);
        for message in IN_FLIGHT {
            dry.send(message);
        }
        dry.serve(data, piece);
        dry.assert_laws();
        (dry.over, dry.seen, dry.upstream, dry.outcomes)
    };
    let whole = run(data.len());
    let pieces = run(1 + usize::from(first & 31));
    assert_eq!(whole, pieces, "the size of pieces must not matter");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_messages_in_flight_are_what_they_should_be() {
        let mut dry = dry(0);
        for message in IN_FLIGHT {
            dry.send(message);
        }
        assert_eq!(dry.upstream, IN_FLIGHT.concat());
    }
}
