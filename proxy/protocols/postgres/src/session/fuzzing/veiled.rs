//! A value that masks hide, at a server that is hostile in every other way.
//!
//! Owns where such a value may stand: in every column that comes from the masked table, and in every text of a server's that
//! speaks of values. Touches memory only. Invariant: it never gets to the client nor into what is recorded; a run in which it
//! does panics.
//!
//! What the server is trusted with is left out: the names that it gives columns, tags, codes, and messages of the few codes
//! that speak of names alone (`mask/texts.rs`).

use std::sync::Arc;

use sallyport_core::ports::MaskKey;
use sallyport_core::protocol::{Conversation as _, Masking};
use sallyport_policy::{ColumnPattern, Detector, MaskMethod, MaskPlan};

use super::Dry;
use super::script::{Script, one, push};
use crate::session::Awaits;

/// Every column of what these show comes from `public.people`.
const TEXTS: &[&str] = &[
    "select x from people",
    "select x, y from people",
    "select x || 'a' as y, upper(y) from public.people p",
    "update people set z = '1' returning x, y",
    "delete from people returning people.x",
    "copy (select x from people) to stdout",
    "copy people (x) to stdout",
    "declare c cursor for select x, y, x from people",
    "fetch c",
    "prepare a as select y from people",
    "execute a",
    "commit",
    "with w as (select x from people) select x from w union all select y from people",
    "set constraints all immediate",
    "create view v as select z from people",
];

/// The value, as text and as a number in eight bytes; no text of ours has a part of it.
const SECRET: &[u8] = b"Zq9-KxWvJ7-Hgf5";
const NUMBER: i64 = 918_273_645_546_372_819;

const METHODS: [MaskMethod; 5] =
    [MaskMethod::Redact, MaskMethod::Partial, MaskMethod::Tokenize, MaskMethod::Hash, MaskMethod::Null];

const MOST_STEPS: usize = 200;

/// What both sides do, step by step, with the value wherever a server could have it from the table.
pub fn mask(data: &[u8]) {
    let secrets = [SECRET.to_vec(), NUMBER.to_string().into_bytes(), NUMBER.to_be_bytes().to_vec()];
    // What a script says in words of its own is nobody's secret.
    if secrets.iter().any(|secret| holds(data, secret)) {
        return;
    }
    let mut script = Script(data);
    let (mode, method) = (script.byte(), usize::from(script.byte()) % METHODS.len());
    let plans = METHODS.get(method).map(|method| (masking(*method, mode), masking(MaskMethod::Redact, mode)));
    let Some((some, other)) = plans else { return };
    let mut dry = Dry::new(u64::from(mode & 3), Some(&some));
    if mode & 16 != 0 {
        dry.keep();
    }
    for _ in 0..MOST_STEPS {
        if script.is_over() || dry.over {
            break;
        }
        match script.byte() {
            // Data that is no message of a command's has no place here: a client that knows the value may say it.
            step @ 0..=79 => {
                let message = script.of_client(step % 8, TEXTS);
                dry.send(&message);
            }
            step @ 80..=159 => {
                let bytes = of_server(&mut script, step, &dry, &secrets);
                dry.serve(&bytes, usize::MAX);
            }
            160..=239 => {
                let bytes = script.honest(&dry);
                dry.serve(&bytes, usize::MAX);
            }
            240..=242 => {
                dry.session.mask(Some(&other));
            }
            243..=245 => {
                dry.session.mask(Some(&some));
            }
            _ => dry.interrupted(),
        }
        dry.pump();
        for secret in &secrets {
            assert!(!holds(&dry.seen, secret), "the client sees what masks hide");
        }
    }
    for part in &dry.kept {
        assert!(!secrets.iter().any(|secret| holds(part.kept(), secret)), "what masks hide is recorded of a result");
    }
    let recorded = format!("{:?}", dry.outcomes);
    assert!(!secrets.iter().any(|secret| holds(recorded.as_bytes(), secret)), "what masks hide is recorded");
    dry.assert_laws();
}

fn masking(method: MaskMethod, mode: u8) -> Arc<Masking> {
    let column = ColumnPattern::parse("public.people.*").map(|column| (column, method));
    let detect = if mode & 8 == 0 { Vec::new() } else { vec![(Detector::Email, method)] };
    let key = (mode & 4 != 0).then(|| MaskKey::new("a key of thirty-two characters..".to_owned().into()));
    Arc::new(Masking { plan: MaskPlan { columns: column.into_iter().collect(), detect }, key })
}

/// What a server may send that has the value, and what it may lie about.
fn of_server(script: &mut Script<'_>, step: u8, dry: &Dry, secrets: &[Vec<u8>; 3]) -> Vec<u8> {
    // Of these a server says nothing that it has read in a table.
    let due = dry.session.queue.front().map(|entry| entry.awaits);
    let reads = !matches!(due, Some(Awaits::Parse | Awaits::Bind | Awaits::Describe | Awaits::Close));
    let runs = dry.session.queue.front().and_then(|entry| entry.number);
    let text = dry.owed.front().filter(|(number, _)| Some(*number) == runs).map_or("", |(_, text)| text);
    let has_rows = !["commit", "set constraints all immediate"].contains(&text);
    let [text, digits, bytes] = secrets;
    let inside = [b"x ", text.as_slice(), b" y"].concat();
    let values: [&[u8]; 4] = [text, digits, bytes, &inside];
    match step % 10 {
        0 | 1 | 3 | 7 if !has_rows => script.row(&[b"x"]),
        0 | 1 => script.row(&values),
        2 => script.description(),
        // A line of a COPY is the same as a row, but has no description.
        3 => one(b'd', &[script.one_of(&values)]),
        4 | 5 if !reads => one(b'N', &[b"\0"]),
        4 => refusal(script, b'E', &values),
        5 => refusal(script, b'N', &values),
        6 => one(b'A', &[&[0, 0, 0, 7], b"l\0", script.one_of(&values), b"\0"]),
        // Our question is answered with it.
        7 => [script.catalog(), script.row(&values)].concat(),
        8 => one(script.one_of(b"GH"), &[&[script.byte() & 1, 0, 0]]),
        _ => script.of_server(step / 10),
    }
}

/// An error or notice with the value where servers have values: in the message of what speaks of data, or of what a function
/// raised, and in detail, hint, context and the like of any.
fn refusal(script: &mut Script<'_>, kind: u8, values: &[&[u8]]) -> Vec<u8> {
    let codes: [&[u8]; 6] = [b"22P02", b"P0001", b"23505", b"42703", b"XX000", b"23000"];
    let code: &[u8] = script.one_of(&codes);
    let of_names = matches!(code, b"23505" | b"42703");
    let raised: &[u8] = script.one_of(&[&b"exec_stmt_raise"[..], b"ri_ReportViolation", b""]);
    let mut body = [b"SERROR\0VERROR\0C", code, b"\0"].concat();
    let names: &[u8] = if raised == b"exec_stmt_raise" { b"MDHWqstcdn" } else { b"DHWq" };
    let fields: &[u8] = if of_names { names } else { b"MDHWq" };
    for _ in 0..=script.byte() % 3 {
        let (field, value) = (script.one_of(fields), script.one_of(values));
        push(&mut body, field, value);
    }
    if !raised.is_empty() {
        push(&mut body, b'R', raised);
    }
    body.push(0);
    one(kind, &[&body])
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
