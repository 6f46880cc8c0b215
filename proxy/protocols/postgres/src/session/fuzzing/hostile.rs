//! A session between a hostile client and a hostile server, in any order of what they do.
//!
//! Owns the steps of such a session. Touches memory only. Invariant: a broken law panics, nothing else does.

use std::sync::Arc;

use bytes::BytesMut;
use sallyport_core::protocol::{Conversation as _, Masking, Outcome};
use sallyport_policy::{Allowance, Bound, ColumnPattern, Detector, MaskMethod, MaskPlan};

use super::Dry;
use super::script::{Script, one};

/// What a client says: every kind of statement that a session has to remember.
const TEXTS: &[&str] = &[
    "select 1",
    "begin",
    "commit",
    "rollback",
    "select forbidden",
    "copy t from stdin",
    "copy t to stdout",
    "prepare a as select 2",
    "execute a",
    "declare c cursor for select 3",
    "fetch c",
    "close c",
    "deallocate a",
    "deallocate all",
    "discard all",
    "set search_path to x",
    "select x from people",
    "select 1; select 2",
    "selec",
    "",
    "savepoint s",
    "rollback to s",
    "create view v as select x from people",
    "declare c cursor with hold for select x from people",
    "prepare b as select forbidden",
    "/* forbidden */ fetch c; execute b",
];

/// The bit of the mode that limits rows.
const LIMITED: u8 = 8;

/// The bit of the mode that has kept what the client is shown.
const KEPT: u8 = 16;

/// Steps of one session at most.
const MOST_STEPS: usize = 300;

/// What both sides do, step by step. The size of pieces must not matter, and the laws hold in whatever order.
pub fn session(data: &[u8]) {
    let Some((mode, data)) = data.split_first() else { return };
    let whole = run(*mode, data, usize::MAX);
    let pieces = run(*mode, data, 1 + usize::from(mode >> 4));
    // A limit is told of in the middle of an answer: whether its end has come by then decides if a cancel is under way.
    if mode & LIMITED == 0 {
        assert_eq!(whole, pieces, "the size of pieces must not matter");
    }
}

fn masking(method: MaskMethod) -> Arc<Masking> {
    let column = ColumnPattern::parse("public.people.x").map(|column| (column, method));
    let plan = MaskPlan { columns: column.into_iter().collect(), detect: vec![(Detector::Email, MaskMethod::Redact)] };
    Arc::new(Masking { plan, key: None })
}

/// What both have seen, what became of the commands, and whether nothing is in flight.
type Seen = (BytesMut, BytesMut, Vec<Outcome>, bool);

fn run(mode: u8, data: &[u8], piece: usize) -> Seen {
    let (some, other) = (masking(MaskMethod::Partial), masking(MaskMethod::Null));
    let mut dry = Dry::new(u64::from(mode & 3), (mode & 4 != 0).then_some(&some));
    if mode & KEPT != 0 {
        dry.keep();
    }
    if mode & LIMITED != 0 {
        let rows = Some(Bound { most: 2, policy: "p".into() });
        dry.allowance = Some(Arc::new(Allowance { rows, bytes: None }));
    }
    let mut script = Script(data);
    for _ in 0..MOST_STEPS {
        if script.is_over() || dry.over {
            break;
        }
        let step = script.byte();
        match step {
            0..=99 => {
                let bytes = script.of_client(step, TEXTS);
                for bytes in bytes.chunks(piece.min(bytes.len().max(1))) {
                    dry.send(bytes);
                }
            }
            100..=179 => {
                let bytes = script.of_server(step);
                dry.serve(&bytes, piece.min(bytes.len()));
            }
            180..=239 => {
                let bytes = script.honest(&dry);
                dry.serve(&bytes, piece.min(bytes.len()));
            }
            240..=242 => dry.interrupted(),
            243..=245 => dry.notice(),
            246..=247 => dry.hasten(),
            248..=250 => {
                // The world changes between two commands.
                let masking = [None, Some(&some), Some(&other)].get(usize::from(step - 248)).copied().flatten();
                assert!(dry.session.mask(masking), "masks can always be had");
                dry.masked |= masking.is_some();
            }
            251..=252 => {
                // Until as many are in flight as may be.
                dry.send(&one(b'S', &[]).repeat(512));
            }
            _ => {
                assert!(dry.session.interruption().is_some() || dry.session.idle(), "what runs can be interrupted");
                let _ = (dry.session.transaction(), dry.session.overtaken());
            }
        }
        // What the server has said may let the client go on.
        dry.pump();
    }
    dry.assert_laws();
    (dry.seen, dry.upstream, dry.outcomes, dry.session.idle())
}
