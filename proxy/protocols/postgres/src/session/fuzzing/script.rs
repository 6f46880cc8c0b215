//! Bytes read as a script: what the two sides of a session do next.
//!
//! Owns how a choice is read, and how messages are made of choices. Touches its arguments only. Invariant: any bytes are a
//! script, and a script that is at its end goes on with zeros.

use bytes::BytesMut;

use super::Dry;
use crate::codec::message;
use crate::session::Awaits;

/// Names of statements and portals.
const NAMES: &[&str] = &["", "a", "b", "c", "sallyport catalog"];

/// OIDs of tables as a server tells them: none, one that is known by its name, others.
const TABLES: &[u32] = &[16400, 0, 16401, 1259];

/// OIDs of types, of every form that a value is written in.
const TYPES: &[u32] = &[25, 20, 23, 21, 1700, 2950, 114, 17];

/// A script.
pub(super) struct Script<'a>(pub(super) &'a [u8]);

impl<'a> Script<'a> {
    pub(super) const fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// So many bytes as the next one says, if there are as many.
    pub(super) fn bytes(&mut self) -> &'a [u8] {
        let count = usize::from(self.byte()).min(self.0.len());
        let (taken, rest) = self.0.split_at_checked(count).unwrap_or_default();
        self.0 = rest;
        taken
    }

    pub(super) fn one_of<T: Copy + Default>(&mut self, all: &[T]) -> T {
        let at = usize::from(self.byte()).checked_rem(all.len()).unwrap_or_default();
        all.get(at).copied().unwrap_or_default()
    }

    pub(super) fn name(&mut self) -> &'static str {
        self.one_of(NAMES)
    }

    /// A message that a client sends; `texts` are the statements it knows.
    pub(super) fn of_client(&mut self, choice: u8, texts: &[&str]) -> Vec<u8> {
        match choice % 12 {
            0 => one(b'Q', &[self.one_of(texts).as_bytes(), b"\0"]),
            1 => {
                let name = self.name();
                one(b'P', &[name.as_bytes(), b"\0", self.one_of(texts).as_bytes(), b"\0\0\0"])
            }
            2 => {
                let (portal, statement) = (self.name(), self.name());
                one(b'B', &[portal.as_bytes(), b"\0", statement.as_bytes(), b"\0\0\0\0\0\0\0"])
            }
            3 => one(b'D', &[self.one_of(&[&b"S"[..], b"P"]), self.name().as_bytes(), b"\0"]),
            4 => one(b'E', &[self.name().as_bytes(), b"\0\0\0\0", &[self.byte() & 1]]),
            5 => one(b'C', &[self.one_of(&[&b"S"[..], b"P"]), self.name().as_bytes(), b"\0"]),
            6 => one(b'S', &[]),
            7 => one(b'H', &[]),
            8 => one(b'd', &[self.bytes()]),
            9 => one(self.one_of(b"cfX"), &[]),
            10 => one(b'F', &[&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]]),
            _ => self.bytes().to_vec(),
        }
    }

    /// A message that a server sends.
    pub(super) fn of_server(&mut self, choice: u8) -> Vec<u8> {
        match choice % 12 {
            0 => one(self.one_of(b"123nsIc"), &[]),
            1 => self.description(),
            2 => self.row(&[b"a", b"bob@example.org", b"\0\0\0\x01"]),
            3 => {
                let tags: [&[u8]; 6] =
                    [b"SELECT 1", b"BEGIN", b"DEALLOCATE ALL", b"DISCARD ALL", b"COPY 18446744073709551615", b""];
                one(b'C', &[self.one_of(&tags), b"\0"])
            }
            4 => one(b'Z', &[&[self.one_of(b"ITE?")]]),
            5 => self.texts(b'E', &[b"no", b"bob@example.org"]),
            6 => self.texts(b'N', &[b"no", b"bob@example.org"]),
            7 => one(b'A', &[&[0, 0, 0, 7], b"l\0", self.bytes(), b"\0"]),
            8 => {
                let pairs: [&[u8]; 4] =
                    [b"client_encoding\0UTF8", b"client_encoding\0LATIN1", b"search_path\0x", b"TimeZone\0UTC"];
                one(b'S', &[self.one_of(&pairs), b"\0"])
            }
            9 => one(self.one_of(b"GHW"), &[&[self.byte() & 1, 0, 0]]),
            10 => one(self.one_of(b"dtRK"), &[self.bytes()]),
            _ => self.bytes().to_vec(),
        }
    }

    /// A RowDescription of up to three columns.
    pub(super) fn description(&mut self) -> Vec<u8> {
        let columns = self.byte() % 4;
        let mut body = vec![0, columns];
        for _ in 0..columns {
            body.extend_from_slice(b"x\0");
            body.extend(self.one_of(TABLES).to_be_bytes());
            body.extend([0, self.byte() % 5]);
            body.extend(self.one_of(TYPES).to_be_bytes());
            body.extend([0; 7]);
            body.push(self.byte() & 1);
        }
        one(b'T', &[&body])
    }

    /// A DataRow of up to three values out of these.
    pub(super) fn row(&mut self, values: &[&[u8]]) -> Vec<u8> {
        let columns = self.byte() % 4;
        let mut body = vec![0, columns];
        for _ in 0..columns {
            match self.byte() % 4 {
                0 => body.extend((-1i32).to_be_bytes()),
                1 => value(&mut body, self.bytes()),
                _ => value(&mut body, self.one_of(values)),
            }
        }
        one(b'D', &[&body])
    }

    /// An error or a notice of this kind, with some of these texts.
    pub(super) fn texts(&mut self, kind: u8, texts: &[&[u8]]) -> Vec<u8> {
        let severities: [&[u8]; 3] = [b"ERROR", b"NOTICE", b"FATAL"];
        let codes: [&[u8]; 6] = [b"22P02", b"42703", b"23505", b"P0001", b"57014", b"XX"];
        let mut body = Vec::new();
        let severity = self.one_of(&severities);
        for (field, text) in [(b'S', severity), (b'V', severity), (b'C', self.one_of(&codes))] {
            push(&mut body, field, text);
        }
        for _ in 0..self.byte() % 5 {
            let field = self.one_of(b"MDHWqPRsct");
            push(&mut body, field, self.one_of(texts));
        }
        if self.byte() & 1 == 0 {
            body.push(0);
        }
        one(kind, &[&body])
    }

    /// What an honest server would say to what is due now.
    pub(super) fn honest(&mut self, dry: &Dry) -> Vec<u8> {
        let Some(entry) = dry.session.queue.front() else { return one(b'N', &[b"\0"]) };
        let status = self.one_of(b"ITE");
        let ready = one(b'Z', &[&[status]]);
        let fails = entry.refusal.is_some() || status == b'E';
        let failed = one(b'E', &[b"SERROR\0C22012\0Mno\0\0"]);
        match entry.awaits {
            Awaits::Query if fails => [failed, ready].concat(),
            Awaits::Sync => ready,
            Awaits::OurQuestion if fails => [failed, ready].concat(),
            Awaits::OurQuestion => [&b"3\0\0\0\x041\0\0\0\x042\0\0\0\x04"[..], &self.catalog(), &ready].concat(),
            _ if fails => failed,
            Awaits::Query => [self.description(), self.row(&[b"a"]), one(b'C', &[b"SELECT 1\0"]), ready].concat(),
            Awaits::Parse => one(b'1', &[]),
            Awaits::Bind => one(b'2', &[]),
            Awaits::Close => one(b'3', &[]),
            Awaits::Describe | Awaits::OurDescribe => self.description(),
            Awaits::Execute => [self.row(&[b"a"]), one(b'C', &[b"SELECT 1\0"])].concat(),
        }
    }

    /// The catalog of a database with one table, and a view on it; sometimes something else.
    pub(super) fn catalog(&mut self) -> Vec<u8> {
        let mut rows = vec![
            catalog_row(&["r", "16400", "public", "people", "3"]),
            catalog_row(&["r", "16401", "public", "seen", "2"]),
            catalog_row(&["a", "16400", "1", "x", "25:"]),
            catalog_row(&["a", "16400", "2", "y", "25:"]),
            catalog_row(&["a", "16401", "1", "x", "25:"]),
            catalog_row(&["v", "16401", " SELECT x, y FROM people", "", ""]),
            catalog_row(&["i", "16401", "16400", "", ""]),
        ];
        let change = self.byte();
        if change & 1 == 1 && !rows.is_empty() {
            rows.remove(usize::from(change >> 1) % rows.len());
        }
        rows.push(one(b'C', &[b"SELECT 7\0"]));
        rows.concat()
    }
}

/// One message.
pub(super) fn one(kind: u8, body: &[&[u8]]) -> Vec<u8> {
    let mut out = BytesMut::new();
    message(&mut out, kind, body);
    out.to_vec()
}

/// Appends a field of an error or notice.
pub(super) fn push(body: &mut Vec<u8>, field: u8, text: &[u8]) {
    body.push(field);
    body.extend_from_slice(text);
    body.push(0);
}

fn value(body: &mut Vec<u8>, value: &[u8]) {
    body.extend(i32::try_from(value.len()).unwrap_or_default().to_be_bytes());
    body.extend_from_slice(value);
}

fn catalog_row(values: &[&str]) -> Vec<u8> {
    let mut body = vec![0, 5];
    for text in values {
        value(&mut body, text.as_bytes());
    }
    one(b'D', &[&body])
}
