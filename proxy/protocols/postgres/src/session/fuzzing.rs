//! A session without core or sockets, for bytes from anywhere.
//!
//! Owns the laws that hold whatever either side sends. Touches memory only. Invariant: a broken law panics,
//! nothing else does.

use std::sync::Arc;

use bytes::{Buf, BytesMut};
use sallyport_core::protocol::{Conversation as _, Masking, Next};
use sallyport_core::sessions::SessionId;
use sallyport_policy::{ColumnPattern, Detector, MaskMethod, MaskPlan};

use super::{Beginning, Conversation};
use crate::cancel::Registry;
use crate::codec::{backend, frontend};
use crate::mask::Masks;
use crate::{refuse, sql};

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

struct Dry {
    session: Conversation,
    input: BytesMut,
    client: BytesMut,
    upstream: BytesMut,
    commands: u64,
    /// Every so many commands one is refused; 0: none.
    refuse_each: u64,
}

/// A masked column of whatever table, and something to be detected.
fn masks() -> Box<Masks> {
    let column = ColumnPattern::parse("*.*.x").map(|column| (column, MaskMethod::Partial));
    let plan = MaskPlan { columns: column.into_iter().collect(), detect: vec![(Detector::Email, MaskMethod::Redact)] };
    Box::new(Masks::new(Arc::new(Masking { plan, key: None })))
}

impl Dry {
    /// The lower two bits of `mode` say how often a command is refused, the third whether anything is masked.
    fn new(mode: u8) -> Self {
        let refuse_each = u64::from(mode & 3);
        let registered = Arc::new(Registry::default()).register(SessionId::from_random(0), 0);
        let front = Arc::new(sql::Front::new(sql::NameSettings::default()));
        let masks = (mode & 4 != 0).then(masks);
        let session = Conversation::new(Beginning { front, key: None, registered, pinned: Vec::new(), masks });
        let empty = BytesMut::new;
        Self { session, input: empty(), client: empty(), upstream: empty(), commands: 0, refuse_each }
    }

    /// The client sends; false when the session is over.
    fn send(&mut self, bytes: &[u8]) -> bool {
        self.input.extend_from_slice(bytes);
        loop {
            let command = match self.session.next(&mut self.input, &mut self.client) {
                Ok(Next::Command(command)) => command,
                Ok(Next::Handled) => continue,
                Ok(Next::Incomplete | Next::Full) => return true,
                Ok(Next::Goodbye) | Err(_) => return false,
            };
            self.commands += 1;
            let described = self.session.describe(&command);
            let denial = match (described.action, described.entry) {
                (Err(denial), _) => Some(denial),
                (Ok(_), Some(_)) if self.refuse_each > 0 && self.commands.is_multiple_of(self.refuse_each) => {
                    Some(sallyport_policy::Denial::not_understood("now and then"))
                }
                _ => None,
            };
            if let Some(denial) = denial {
                let error = refuse::command_refused(&denial, command.own_refusal());
                let constant = self.session.refuse_at(command.place(), error, &mut self.client);
                self.upstream.extend_from_slice(constant.unwrap_or_default());
            } else if self.session.forward_command(&command, Some(self.commands), &mut self.upstream).is_err() {
                return false;
            }
        }
    }
}

/// Whatever a client sends, in pieces that the first byte says: what goes upstream is whole messages, and
/// what the client is told is too.
pub fn client_bytes(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let mut dry = Dry::new(first >> 5);
    for piece in data.chunks(1 + usize::from(first & 31)) {
        if !dry.send(piece) {
            break;
        }
    }
    let mut upstream = dry.upstream;
    while let Ok(Some(frame)) = frontend::frame(&upstream) {
        if upstream.len() < frame.total {
            assert_eq!(frame.kind, frontend::Kind::CopyData, "only data goes in pieces");
            return;
        }
        upstream.advance(frame.total);
    }
    assert!(upstream.is_empty(), "bytes that are no message went upstream");
    assert_whole(&dry.client);
}

/// Whatever a server sends: in pieces or at once, the client sees the same, or the session ends.
pub fn server_bytes(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let run = |chunk: usize| {
        let mut dry = Dry::new(first >> 5);
        for message in IN_FLIGHT {
            dry.send(message);
        }
        let (mut held, mut seen) = (BytesMut::new(), BytesMut::new());
        let mut outcomes = Vec::new();
        for piece in data.chunks(chunk) {
            held.extend_from_slice(piece);
            if dry.session.answer(&mut held, &mut dry.client, &mut outcomes).is_err() {
                return None;
            }
            seen.extend_from_slice(&std::mem::take(&mut dry.client));
        }
        Some((seen, outcomes))
    };
    let whole = run(data.len().max(1));
    let pieces = run(1 + usize::from(first & 31));
    assert_eq!(whole, pieces, "the size of pieces must not matter");
}

fn assert_whole(mut bytes: &[u8]) {
    while let Ok(Some(frame)) = backend::frame(bytes) {
        let Some((_, rest)) = bytes.split_at_checked(frame.total) else { break };
        bytes = rest;
    }
    assert!(bytes.is_empty(), "the client was told half a message");
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    use super::*;
    use crate::codec::frontend::build;

    /// How long each of the two runs; raised by hand for a long run.
    fn budget() -> Duration {
        let seconds = std::env::var("SALLYPORT_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
        Duration::from_secs(seconds.unwrap_or(3))
    }

    /// Bytes that are messages, almost.
    fn nearly(messages: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
        let one = prop::sample::select(messages);
        let many = prop::collection::vec(one, 0..20).prop_map(|messages| messages.concat());
        let flips = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
        (any::<u8>(), many, flips, any::<bool>()).prop_map(|(first, mut bytes, flips, spoil)| {
            if spoil && !bytes.is_empty() {
                for (at, byte) in flips {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            bytes.insert(0, first);
            bytes
        })
    }

    fn run_for(strategy: impl Strategy<Value = Vec<u8>>, body: impl Fn(&[u8])) {
        let until = Instant::now() + budget();
        while Instant::now() < until {
            let mut runner = TestRunner::new(Config { cases: 200, ..Config::default() });
            runner
                .run(&strategy, |bytes| {
                    body(&bytes);
                    Ok(())
                })
                .unwrap();
        }
    }

    #[test]
    fn the_messages_in_flight_are_what_they_should_be() {
        let mut dry = Dry::new(0);
        for message in IN_FLIGHT {
            assert!(dry.send(message));
        }
        assert_eq!(dry.upstream, IN_FLIGHT.concat());
    }

    #[test]
    fn no_client_breaks_the_laws() {
        let messages = vec![
            build::query("select 1"),
            build::query("copy t from stdin"),
            build::query("begin"),
            build::parse("", "select $1"),
            build::parse("s", "insert into t values (1)"),
            build::bind("", "s", &[Some(b"x"), None], 0),
            build::bind("p", "", &[], 1),
            build::execute("p"),
            build::execute(""),
            build::describe(b'S', "s"),
            build::close(b'P', "p"),
            build::sync(),
            build::flush(),
            build::copy_data(b"1\t2\n"),
            build::copy_done(),
            build::copy_fail("no"),
            build::function_call(),
        ];
        run_for(nearly(messages), client_bytes);
        run_for(prop::collection::vec(any::<u8>(), 0..200), client_bytes);
    }

    #[test]
    fn no_server_breaks_the_laws() {
        let with = |kind: u8, body: &[u8]| {
            let mut out = BytesMut::new();
            crate::codec::message(&mut out, kind, &[body]);
            out.to_vec()
        };
        let mut messages: Vec<Vec<u8>> = b"123nsIc".iter().map(|kind| with(*kind, b"")).collect();
        messages.extend([
            with(b'T', &[0, 0]),
            with(b'D', &[0; 40]),
            with(b'C', b"SELECT 1\0"),
            with(b'Z', b"I"),
            with(b'Z', b"T"),
            with(b'E', b"SERROR\0VERROR\0C22012\0Mno\0\0"),
            with(b'E', &[&b"SERROR\0C22012\0M"[..], &[b'x'; 600], b"\0\0"].concat()),
            with(b'N', &[b'x'; 50]),
            with(b'S', b"TimeZone\0UTC\0"),
            with(b'G', &[0, 0, 0]),
            with(b'H', &[0, 0, 0]),
            with(b'd', b"1\n"),
        ]);
        // In the order of what is in flight, so that the later states are reached too.
        let good = [
            with(b'T', &[0, 0]),
            with(b'C', b"SELECT 0\0"),
            with(b'Z', b"I"),
            with(b'1', b""),
            with(b'2', b""),
            with(b'n', b""),
            with(b'C', b"SELECT 0\0"),
            with(b'3', b""),
        ];
        let prefix = (0..=good.len()).prop_map(move |count| good[..count].concat());
        let prefixed = (prefix, nearly(messages.clone())).prop_map(|(prefix, mut bytes)| {
            let first = bytes.remove(0) & 31;
            [vec![first], prefix, bytes].concat()
        });
        run_for(nearly(messages), server_bytes);
        run_for(prefixed, server_bytes);
    }
}
