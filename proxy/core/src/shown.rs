//! What a client is shown of a command's result, and what it sends beside a command, in the form in which it is recorded.
//!
//! Owns that form and its bounds. Touches memory only. Invariants: a value is told whole or by its beginning, its size
//! and its hash, so that whoever has it can be proven to have been shown it; however large a result is, one part of it
//! takes memory for little more than one row's bound.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::ser::{SerializeMap, SerializeSeq, Serializer};
use serde::{Deserialize, Serialize};

use crate::record::Event;

/// Bytes of a value that are kept at most; of a longer one the beginning is.
pub const LONGEST_VALUE: usize = 16 * 1024;
/// Bytes of a row that are kept at most, but for values that are [`ALWAYS`] kept.
const LONGEST_ROW: usize = 256 * 1024;
/// A value of no more bytes is kept whatever stands before it in its row: a long one hides none behind it.
const ALWAYS: usize = 64;
/// A part that has this much takes no further row.
const FULL: usize = 48 * 1024;
/// What a value counts beside its bytes.
const EACH: usize = 8;

/// A column of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name, as the client is told it.
    pub name: String,
    /// Its type, as the target numbers it.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<u32>,
    /// Its values come in a form that is no text.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub binary: bool,
}

/// What the values of a part are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Rows of a result with columns.
    Rows,
    /// Lines of a copy.
    Lines,
    /// What the client sends for a copy: a stream, whole, in pieces of any size.
    Sent,
}

/// A part of what the client of one command is shown.
#[derive(Debug)]
pub struct Part {
    command: u64,
    number: u64,
    layout: Layout,
    /// Where a result begins.
    columns: Option<Arc<[Column]>>,
    /// What is kept of all values, one behind the other.
    bytes: Vec<u8>,
    values: Vec<Value>,
    digests: Vec<[u8; 32]>,
    /// Where in `values` each row ends.
    rows: Vec<usize>,
    /// Where in `bytes` the row that is being written begins.
    row: usize,
}

#[derive(Debug, Clone, Copy)]
struct Value {
    form: Form,
    from: usize,
    to: usize,
    /// Its size, and which digest is its own, where it was cut.
    cut: Option<(usize, usize)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Null,
    Text,
    Binary,
}

impl Part {
    /// A part with nothing in it yet; `number` counts the parts of a command from 1, `columns` stand where a result
    /// begins.
    #[must_use]
    pub const fn new(command: u64, number: u64, layout: Layout, columns: Option<Arc<[Column]>>) -> Self {
        Self {
            command,
            number,
            layout,
            columns,
            bytes: Vec::new(),
            values: Vec::new(),
            digests: Vec::new(),
            rows: Vec::new(),
            row: 0,
        }
    }

    /// The command that it is of.
    #[must_use]
    pub const fn command(&self) -> u64 {
        self.command
    }

    /// How many rows or lines it holds.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Whether further rows belong into the next part.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.bytes.len() + EACH * self.values.len() >= FULL
    }

    /// Whether it holds such values.
    #[must_use]
    pub fn is_of(&self, layout: Layout) -> bool {
        self.layout == layout
    }

    /// Adds a value to the row that is being written; none is the target's null.
    pub fn value(&mut self, value: Option<&[u8]>, binary: bool) {
        let from = self.bytes.len();
        let Some(value) = value else {
            return self.values.push(Value { form: Form::Null, from, to: from, cut: None });
        };
        let text = !binary && std::str::from_utf8(value).is_ok();
        let room = LONGEST_ROW.saturating_sub(from - self.row).clamp(ALWAYS, LONGEST_VALUE);
        let kept = if value.len() <= room { value } else { beginning(value, room, text) };
        let cut = (kept.len() < value.len()).then(|| {
            let mut hash = [0; 32];
            if let Some(bytes) = digest(&SHA256, value).as_ref().first_chunk() {
                hash = *bytes;
            }
            self.digests.push(hash);
            (value.len(), self.digests.len() - 1)
        });
        self.bytes.extend_from_slice(kept);
        let form = if text { Form::Text } else { Form::Binary };
        self.values.push(Value { form, from, to: self.bytes.len(), cut });
    }

    /// The row is whole.
    pub fn end_row(&mut self) {
        self.rows.push(self.values.len());
        self.row = self.bytes.len();
    }

    /// What is kept of all values, as it is: for whoever searches it for what must not stand there.
    #[must_use]
    pub fn kept(&self) -> &[u8] {
        &self.bytes
    }

    /// Adds what a client sent. All of it is kept: of a stream, one piece hangs on the other. A character that stands in
    /// two pieces leaves the rest of them readable.
    pub fn sent(&mut self, data: &[u8], binary: bool) {
        for piece in data.chunks(LONGEST_VALUE) {
            let head = piece.iter().take(3).take_while(|byte| (0x80..0xc0).contains(*byte)).count();
            let (head, rest) = piece.split_at_checked(head).unwrap_or((piece, b""));
            let whole = match std::str::from_utf8(rest) {
                Err(error) if error.error_len().is_none() => error.valid_up_to(),
                _ => rest.len(),
            };
            let (middle, tail) = rest.split_at_checked(whole).unwrap_or((rest, b""));
            let parts = if binary { [piece, b"", b""] } else { [head, middle, tail] };
            for part in parts.into_iter().filter(|part| !part.is_empty()) {
                self.value(Some(part), binary);
                self.end_row();
            }
        }
    }

    /// As it is recorded.
    #[must_use]
    pub fn event(&self) -> Event<'_> {
        let columns = self.columns.as_deref().unwrap_or_default();
        let (shown, lines) = match self.layout {
            Layout::Rows => (Some(Rows(self)), None),
            Layout::Lines => (None, Some(Lines(self))),
            Layout::Sent => return Event::Data { command: self.command, part: self.number, sent: Lines(self) },
        };
        Event::Result { command: self.command, part: self.number, columns, shown, lines }
    }
}

/// The beginning of a value, of a text up to where a character ends.
fn beginning(value: &[u8], room: usize, text: bool) -> &[u8] {
    let start = value.get(..room).unwrap_or(value);
    let whole = match std::str::from_utf8(start) {
        Err(error) if text => error.valid_up_to(),
        _ => start.len(),
    };
    start.get(..whole).unwrap_or_default()
}

/// The rows of a part, each a list of values.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'p>(&'p Part);

/// The lines of a part.
#[derive(Debug, Clone, Copy)]
pub struct Lines<'p>(&'p Part);

/// Some of a part's values.
struct Values<'p>(&'p Part, usize, usize);

struct Shown<'p>(&'p Part, Value);

/// The bytes of a value, as a text where they are one.
struct Content<'p>(Form, &'p [u8]);

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rows = serializer.serialize_seq(Some(self.0.rows.len()))?;
        let mut from = 0;
        for to in &self.0.rows {
            rows.serialize_element(&Values(self.0, from, *to))?;
            from = *to;
        }
        rows.end()
    }
}

impl Serialize for Lines<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Values(self.0, 0, self.0.rows.last().copied().unwrap_or_default()).serialize(serializer)
    }
}

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(
            self.0.values.get(self.1..self.2).unwrap_or_default().iter().map(|value| Shown(self.0, *value)),
        )
    }
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(part, value) = self;
        let content = Content(value.form, part.bytes.get(value.from..value.to).unwrap_or_default());
        let Some((bytes, digest)) = value.cut else { return content.serialize(serializer) };
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("cut", &content)?;
        map.serialize_entry("bytes", &bytes)?;
        let digest = part.digests.get(digest).copied().unwrap_or_default();
        map.serialize_entry("sha256", &Hex(digest))?;
        map.end()
    }
}

impl Serialize for Content<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self.0, std::str::from_utf8(self.1)) {
            (Form::Null, _) => serializer.serialize_none(),
            (Form::Text, Ok(text)) => serializer.serialize_str(text),
            _ => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("base64", &STANDARD.encode(self.1))?;
                map.end()
            }
        }
    }
}

struct Hex([u8; 32]);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let hex: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&hex)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    use super::*;

    fn told(part: &Part) -> Json {
        serde_json::to_value(part.event()).unwrap()
    }

    fn sha256(bytes: &[u8]) -> String {
        digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn rows_are_lists_and_what_is_no_text_is_told_apart() {
        let column = |name: &str, binary| Column { name: name.to_owned(), kind: Some(23), binary };
        let columns: Arc<[Column]> = vec![column("id", true), column("note", false)].into();
        let mut part = Part::new(7, 1, Layout::Rows, Some(columns));
        for note in [Some(&b"a\"b"[..]), None, Some(b"\xff")] {
            part.value(Some(&[0, 0, 0, 7]), true);
            part.value(note, false);
            part.end_row();
        }
        let id = json!({"base64": "AAAABw=="});
        let expected = json!({
            "event": "result", "command": 7, "part": 1,
            "columns": [{"name": "id", "type": 23, "binary": true}, {"name": "note", "type": 23}],
            "shown": [[id, "a\"b"], [id, null], [id, {"base64": "/w=="}]],
        });
        assert_eq!(told(&part), expected);
        let mut part = Part::new(7, 2, Layout::Lines, None);
        part.value(Some(b"1\tx\n"), false);
        part.end_row();
        assert_eq!(told(&part), json!({"event": "result", "command": 7, "part": 2, "lines": ["1\tx\n"]}));
    }

    #[test]
    fn a_long_value_is_told_by_its_beginning_its_size_and_its_hash() {
        let long = "ä".repeat(LONGEST_VALUE);
        let mut part = Part::new(1, 1, Layout::Rows, None);
        part.value(Some(format!("x{long}").as_bytes()), false);
        part.value(Some(b"behind"), false);
        part.end_row();
        let told = told(&part);
        let (cut, behind) = (&told["shown"][0][0], &told["shown"][0][1]);
        assert_eq!(behind, "behind");
        assert_eq!(cut["bytes"], 2 * LONGEST_VALUE + 1);
        assert_eq!(cut["sha256"], sha256(format!("x{long}").as_bytes()));
        // Up to the end of a character.
        let text = cut["cut"].as_str().unwrap();
        assert!(long.starts_with(&text[1..]) && text.len() == LONGEST_VALUE - 1, "{}", text.len());
    }

    #[test]
    fn many_long_values_hide_no_short_one_and_take_no_more_than_a_row_may() {
        let mut part = Part::new(1, 1, Layout::Rows, None);
        for _ in 0..1000 {
            part.value(Some(&[b'x'; LONGEST_VALUE]), false);
        }
        part.value(Some(b"the point"), false);
        part.end_row();
        assert_eq!(told(&part)["shown"][0][1000], "the point");
        assert!(part.kept().len() <= LONGEST_ROW + 1001 * ALWAYS, "{}", part.kept().len());
        // And the next row has a room of its own.
        part.value(Some(&[b'y'; LONGEST_VALUE]), false);
        part.end_row();
        assert_eq!(told(&part)["shown"][1][0].as_str().unwrap().len(), LONGEST_VALUE);
    }

    proptest! {
        #[test]
        fn what_was_sent_is_kept_whole_in_whatever_pieces(
            text in "(\\PC|[äß€😀]){0,200}", times in 1_usize..200, cuts: Vec<prop::sample::Index>, binary: bool,
        ) {
            let text = text.repeat(times);
            let data = text.as_bytes();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(data.len() + 1)).chain([0, data.len()]).collect();
            cuts.sort_unstable();
            let mut part = Part::new(1, 1, Layout::Sent, None);
            for piece in cuts.windows(2) {
                part.sent(&data[piece[0]..piece[1]], binary);
            }
            let told = told(&part);
            let mut back = Vec::new();
            let mut readable = 0;
            for piece in told["sent"].as_array().unwrap() {
                match piece {
                    Json::String(text) => {
                        readable += text.len();
                        back.extend_from_slice(text.as_bytes());
                    }
                    other => back.extend(STANDARD.decode(other["base64"].as_str().unwrap()).unwrap()),
                }
            }
            prop_assert_eq!(&back, data);
            let torn = 8 * (cuts.len() + data.len() / LONGEST_VALUE + 1);
            prop_assert!(if binary { readable == 0 } else { readable + torn >= data.len() }, "{} of {}", readable, data.len());
        }

        #[test]
        fn every_value_is_told_whole_or_can_be_proven(
            rows in prop::collection::vec(prop::collection::vec(prop::option::of(
                (any::<Vec<u8>>(), prop_oneof![3 => Just(1_usize), 1 => Just(4000)], any::<bool>())), 0..4), 0..4),
        ) {
            let mut part = Part::new(1, 1, Layout::Rows, None);
            let rows: Vec<Vec<_>> = rows.into_iter().map(|row| row.into_iter()
                .map(|value| value.map(|(bytes, times, binary)| (bytes.repeat(times), binary))).collect()).collect();
            for row in &rows {
                for value in row {
                    part.value(value.as_ref().map(|(bytes, _)| &**bytes), value.as_ref().is_some_and(|(_, binary)| *binary));
                }
                part.end_row();
            }
            let told = told(&part);
            let content = |value: &Json| match value {
                Json::String(text) => text.clone().into_bytes(),
                other => STANDARD.decode(other["base64"].as_str().unwrap()).unwrap(),
            };
            for (row, shown) in rows.iter().zip(told["shown"].as_array().unwrap()) {
                for (value, shown) in row.iter().zip(shown.as_array().unwrap()) {
                    match value {
                        None => prop_assert!(shown.is_null()),
                        Some((bytes, _)) if shown["cut"].is_null() => prop_assert_eq!(&content(shown), bytes),
                        Some((bytes, _)) => {
                            prop_assert!(bytes.starts_with(&content(&shown["cut"])));
                            prop_assert_eq!(shown["sha256"].as_str(), Some(&*sha256(bytes)));
                        }
                    }
                }
            }
        }
    }
}
