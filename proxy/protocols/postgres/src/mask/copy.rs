//! Rows of a COPY TO STDOUT: which of their values are masked, and the rows that are sent in their place.
//!
//! Owns the lines of COPY (PostgreSQL documentation, COPY, "File Formats"), each of which the server sends as one CopyData
//! (protocol, chapter "COPY Operations"). Touches its arguments only. Invariant: a row that is not just as many values in
//! the form that its command asked for is not passed at all.

use std::sync::Arc;

use bytes::BytesMut;
use sallyport_policy::MaskMethod;

use super::detect::Detectors;
use super::layout::Layout;
use super::rows::Rows;
use super::value::{Form, Key, masked};
use crate::codec::Fields;
use crate::sql::{CopySyntax, Line};

/// What a COPY in binary begins with: signature, no flags, no extension.
const BINARY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What it ends with.
const BINARY_TRAILER: &[u8] = b"\xff\xff";

/// How the rows of one COPY are masked.
#[derive(Debug)]
pub(crate) struct CopyRows {
    columns: Layout,
    /// None where no column is masked: then lines are searched as they are.
    syntax: Option<CopySyntax>,
    /// The names of the columns, or the signature, have passed.
    begun: bool,
    detectors: Arc<Detectors>,
    key: Option<Arc<Key>>,
}

/// What a CopyOutResponse says of the rows that come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Announced {
    pub(crate) binary: bool,
    pub(crate) columns: usize,
}

/// One value of a line.
struct Value<'a> {
    raw: &'a [u8],
    quoted: bool,
}

impl Announced {
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let mut fields = Fields::new("CopyOutResponse", body);
        let binary = match fields.byte().ok()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let columns = usize::from(fields.u16().ok()?);
        for _ in 0..columns {
            fields.u16().ok()?;
        }
        fields.end().ok()?;
        Some(Self { binary, columns })
    }
}

impl CopyRows {
    pub(super) fn new(columns: Layout, syntax: CopySyntax, detectors: Arc<Detectors>, key: Option<Arc<Key>>) -> Self {
        Self { columns, syntax: Some(syntax), begun: false, detectors, key }
    }

    /// Lines of which no column is masked, in whatever form they are written.
    pub(super) const fn searched(detectors: Arc<Detectors>, key: Option<Arc<Key>>) -> Self {
        Self { columns: Vec::new(), syntax: None, begun: false, detectors, key }
    }

    /// Appends what is to stand in the body of the CopyData in the place of this one; `None` when it is no row of these
    /// columns, and `out` is then of no use.
    pub(crate) fn mask(&mut self, body: &[u8], out: &mut BytesMut) -> Option<()> {
        let first = !std::mem::replace(&mut self.begun, true);
        match &self.syntax {
            None => {
                match self.detectors.replaced(body, self.key.as_deref()) {
                    Some(replaced) => out.extend_from_slice(&replaced),
                    None => out.extend_from_slice(body),
                }
                Some(())
            }
            Some(CopySyntax::Text(line)) => self.line(line, None, first && line.header, body, out),
            Some(CopySyntax::Csv { line, quote, escape }) => {
                self.line(line, Some((*quote, *escape)), first && line.header, body, out)
            }
            Some(CopySyntax::Binary) => self.binary(first, body, out),
        }
    }

    fn binary(&self, first: bool, body: &[u8], out: &mut BytesMut) -> Option<()> {
        // The server sends the signature with the first row, or with the end.
        let row = if first { body.strip_prefix(BINARY_HEADER)? } else { body };
        out.extend_from_slice(body.get(..body.len() - row.len())?);
        if row == BINARY_TRAILER {
            out.extend_from_slice(row);
            return Some(());
        }
        Rows::values(&self.columns, &self.detectors, self.key.as_deref(), row, out)
    }

    fn line(&self, form: &Line, quotes: Option<(u8, u8)>, names: bool, body: &[u8], out: &mut BytesMut) -> Option<()> {
        let line = body.strip_suffix(b"\n")?;
        let mut values = Values { rest: Some(line), delimiter: form.delimiter, quotes };
        let start = out.len();
        for (at, (column, method)) in self.columns.iter().enumerate() {
            let value = values.next()?;
            if at > 0 {
                out.extend_from_slice(&[form.delimiter]);
            }
            let is_null = !value.quoted && *value.raw == *form.null;
            match method {
                // A value that reads like the client's own word for NULL would be told from all others by it.
                Some(_) if !names && quotes.is_none() && *form.null != *b"\\N" => out.extend_from_slice(&form.null),
                Some(method) if !names && !is_null => self.replace(*method, *column, form, quotes, &value, out)?,
                _ => out.extend_from_slice(value.raw),
            }
        }
        // A table without columns has empty lines.
        let over = values.rest.is_none() || self.columns.is_empty() && line.is_empty();
        if !over {
            return None;
        }
        if !names && let Some(found) = self.detectors.replaced(out.get(start..)?, self.key.as_deref()) {
            out.truncate(start);
            out.extend_from_slice(&found);
        }
        out.extend_from_slice(body.get(line.len()..)?);
        Some(())
    }

    fn replace(
        &self,
        method: MaskMethod,
        column: Form,
        form: &Line,
        quotes: Option<(u8, u8)>,
        value: &Value<'_>,
        out: &mut BytesMut,
    ) -> Option<()> {
        let plain = match quotes {
            Some((quote, escape)) if value.quoted => without_quotes(value.raw, quote, escape)?,
            Some(_) => value.raw.to_vec(),
            None => without_backslashes(value.raw),
        };
        let mut shown = Vec::with_capacity(plain.len());
        if !masked(method, column, self.key.as_deref(), &plain, &mut shown) {
            out.extend_from_slice(&form.null);
            return Some(());
        }
        match quotes {
            None => with_backslashes(&shown, form.delimiter, out),
            Some((quote, escape)) => {
                let special = |byte: &u8| [form.delimiter, quote, b'\n', b'\r'].contains(byte);
                if value.quoted || *shown == *form.null || shown.iter().any(special) || shown == b"\\." {
                    with_quotes(&shown, quote, escape, out);
                } else {
                    out.extend_from_slice(&shown);
                }
            }
        }
        Some(())
    }
}

/// The values of a line, as they are written.
struct Values<'a> {
    /// None when the line is over.
    rest: Option<&'a [u8]>,
    delimiter: u8,
    /// Quote and escape, in a CSV line.
    quotes: Option<(u8, u8)>,
}

impl<'a> Values<'a> {
    /// `None` where there is no other, or it has no end.
    fn next(&mut self) -> Option<Value<'a>> {
        let rest = self.rest?;
        let quoted = self.quotes.is_some_and(|(quote, _)| rest.first() == Some(&quote));
        let end = match self.quotes {
            Some((quote, escape)) if quoted => quoted_end(rest, quote, escape)?,
            Some(_) => rest.iter().position(|byte| *byte == self.delimiter).unwrap_or(rest.len()),
            None => unescaped_end(rest, self.delimiter),
        };
        let raw = rest.get(..end)?;
        self.rest = match rest.get(end..)?.split_first() {
            None => None,
            Some((byte, rest)) if *byte == self.delimiter => Some(rest),
            // Behind a closing quote.
            Some(_) => return None,
        };
        Some(Value { raw, quoted })
    }
}

/// Where a value in quotes ends, behind its closing quote.
fn quoted_end(text: &[u8], quote: u8, escape: u8) -> Option<usize> {
    let mut at = 1;
    loop {
        let byte = *text.get(at)?;
        let next = text.get(at + 1).copied();
        if byte == escape && (next == Some(quote) || next == Some(escape)) {
            at += 2;
        } else if byte == quote {
            return Some(at + 1);
        } else {
            at += 1;
        }
    }
}

/// Where a value in the text format ends: before a delimiter that has no backslash before it.
fn unescaped_end(text: &[u8], delimiter: u8) -> usize {
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            byte if *byte == delimiter => return at,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

fn without_quotes(raw: &[u8], quote: u8, escape: u8) -> Option<Vec<u8>> {
    let inner = raw.get(1..raw.len().checked_sub(1)?)?;
    let mut plain = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let escaped = if byte == escape { bytes.next_if(|next| *next == quote || *next == escape) } else { None };
        plain.push(escaped.unwrap_or(byte));
    }
    Some(plain)
}

fn with_quotes(plain: &[u8], quote: u8, escape: u8, out: &mut BytesMut) {
    out.extend_from_slice(&[quote]);
    for byte in plain {
        if *byte == quote || *byte == escape {
            out.extend_from_slice(&[escape]);
        }
        out.extend_from_slice(&[*byte]);
    }
    out.extend_from_slice(&[quote]);
}

fn without_backslashes(raw: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied();
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'b') => 8,
                Some(b'f') => 12,
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'v') => 11,
                Some(other) => other,
                None => b'\\',
            },
            other => other,
        });
    }
    plain
}

fn with_backslashes(plain: &[u8], delimiter: u8, out: &mut BytesMut) {
    for byte in plain {
        let escaped = match byte {
            8 => b'b',
            12 => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            11 => b'v',
            b'\\' => b'\\',
            byte if *byte == delimiter => *byte,
            _ => {
                out.extend_from_slice(&[*byte]);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', escaped]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sallyport_policy::Detector;

    use super::*;

    fn rows(syntax: CopySyntax, methods: &[Option<MaskMethod>]) -> CopyRows {
        let columns = methods.iter().map(|method| (Form::Text, *method)).collect();
        CopyRows::new(columns, syntax, Arc::new(Detectors::new(Vec::new())), None)
    }

    fn line(delimiter: u8, null: &str) -> Line {
        Line { delimiter, null: null.as_bytes().into(), header: false }
    }

    fn csv() -> CopySyntax {
        CopySyntax::Csv { line: line(b',', ""), quote: b'"', escape: b'"' }
    }

    fn masked_line(rows: &mut CopyRows, body: &[u8]) -> Option<String> {
        let mut out = BytesMut::new();
        rows.mask(body, &mut out).map(|()| String::from_utf8(out.to_vec()).unwrap())
    }

    const SECOND: [Option<MaskMethod>; 3] = [None, Some(MaskMethod::Partial), None];

    #[test]
    fn a_masked_value_of_a_line_is_replaced_and_nothing_beside_it() {
        let text = || CopySyntax::Text(line(b'\t', "\\N"));
        for (syntax, shown, hidden) in [
            (text(), "1\tbob@example.org\tx\\\\y\n", "1\tb***@example.org\tx\\\\y\n"),
            (text(), "1\t\\N\t\\N\n", "1\t\\N\t\\N\n"),
            (text(), "\\\t\tb\\\tb@example.org\t\n", "\\\t\tb***@example.org\t\n"),
            (CopySyntax::Text(line(b'|', "\\N")), "1|a\\|b\\n12345678901234|x\n", "1|****1234|x\n"),
            (CopySyntax::Text(line(b'|', "bob")), "1|bob|bob\n", "1|bob|bob\n"),
            (CopySyntax::Text(line(b'|', "bob")), "1|eve|bob\n", "1|bob|bob\n"),
            (csv(), "1,\"\",\n", "1,\"****\",\n"),
            (csv(), "1,bob@example.org,\n", "1,b***@example.org,\n"),
            (csv(), "\"a,b\",\"bob\"\"x,@example.org\",\"\n\"\n", "\"a,b\",\"b***@example.org\",\"\n\"\n"),
            (csv(), ",,\n", ",,\n"),
            (csv(), ",\"\",\n", ",\"****\",\n"),
        ] {
            assert_eq!(masked_line(&mut rows(syntax.clone(), &SECOND), shown.as_bytes()).as_deref(), Some(hidden));
        }
    }

    #[test]
    fn what_is_no_line_of_these_columns_does_not_pass() {
        for body in ["1\t2\n", "1\t2\t3\t4\n", "1\t2\t3", "", "\n"] {
            let text = CopySyntax::Text(line(b'\t', "\\N"));
            assert_eq!(masked_line(&mut rows(text, &SECOND), body.as_bytes()), None, "{body:?}");
        }
        for body in ["1,2\n", "1,\"2,3\n", "1,\"2\"x,3\n", "1,2,3,4\n", "\"\",\"\n"] {
            assert_eq!(masked_line(&mut rows(csv(), &SECOND), body.as_bytes()), None, "{body:?}");
        }
        for body in [&b"\0\x03"[..], b"PGCOPY\n\xff\r\n\0\0\0\0\x01\0\0\0\0\xff\xff", b"\xff\xff"] {
            let mut rows = rows(CopySyntax::Binary, &SECOND);
            assert_eq!(rows.mask(body, &mut BytesMut::new()), None, "{body:?}");
        }
    }

    #[test]
    fn in_binary_the_signature_comes_with_the_first_row() {
        let mut rows = rows(CopySyntax::Binary, &[Some(MaskMethod::Redact)]);
        for (body, passes) in [
            ([BINARY_HEADER, b"\0\x01\0\0\0\x06secret"].concat(), [BINARY_HEADER, b"\0\x01\0\0\0\x04****"].concat()),
            (b"\0\x01\xff\xff\xff\xff".to_vec(), b"\0\x01\xff\xff\xff\xff".to_vec()),
            (BINARY_TRAILER.to_vec(), BINARY_TRAILER.to_vec()),
        ] {
            let mut out = BytesMut::new();
            assert_eq!(rows.mask(&body, &mut out), Some(()));
            assert_eq!(&out[..], passes);
        }
    }

    #[test]
    fn a_header_is_no_row_and_what_is_detected_is_hidden_in_every_column() {
        let form = Line { header: true, ..line(b'\t', "\\N") };
        let detectors = Arc::new(Detectors::new(vec![(Detector::Email, MaskMethod::Redact)]));
        let columns = vec![(Form::Text, Some(MaskMethod::Null)), (Form::Text, None)];
        let mut rows = CopyRows::new(columns, CopySyntax::Text(form), detectors, None);
        assert_eq!(masked_line(&mut rows, b"secret\tnote\n").as_deref(), Some("secret\tnote\n"));
        assert_eq!(masked_line(&mut rows, b"1\tto a@example.org\n").as_deref(), Some("\\N\tto ****\n"));
    }

    fn written(values: &[Option<String>], syntax: &CopySyntax) -> Vec<u8> {
        let mut out = BytesMut::new();
        let (CopySyntax::Text(form) | CopySyntax::Csv { line: form, .. }) = syntax else { panic!() };
        for (at, value) in values.iter().enumerate() {
            if at > 0 {
                out.extend_from_slice(&[form.delimiter]);
            }
            match (value, syntax) {
                (None, _) => out.extend_from_slice(&form.null),
                (Some(value), CopySyntax::Csv { quote, escape, .. }) => {
                    with_quotes(value.as_bytes(), *quote, *escape, &mut out);
                }
                (Some(value), _) => with_backslashes(value.as_bytes(), form.delimiter, &mut out),
            }
        }
        out.extend_from_slice(b"\n");
        out.to_vec()
    }

    fn syntaxes() -> impl Strategy<Value = CopySyntax> {
        prop_oneof![
            Just(CopySyntax::Text(line(b'\t', "\\N"))),
            Just(CopySyntax::Text(line(b'|', "\\N"))),
            Just(csv()),
            Just(CopySyntax::Csv { line: line(b';', "N"), quote: b'\'', escape: b'\\' }),
        ]
    }

    proptest! {
        #[test]
        fn whatever_values_are_masked_is_one_column(
            syntax in syntaxes(),
            before in proptest::option::of("[ab,;|\t\n\r\"'\\\\]{0,9}"),
            secret in "[ab,;|\t\n\r\"'\\\\]{0,9}",
            after in proptest::option::of("[ab,;|\t\n\r\"'\\\\]{0,9}"),
        ) {
            let shown = [before.clone(), Some(secret), after.clone()];
            let hidden = [before, Some("****".to_owned()), after];
            let masks = [None, Some(MaskMethod::Redact), None];
            let out = masked_line(&mut rows(syntax.clone(), &masks), &written(&shown, &syntax));
            prop_assert_eq!(out.map(String::into_bytes), Some(written(&hidden, &syntax)));
        }

        #[test]
        fn arbitrary_bytes_never_panic(syntax in syntaxes(), body: Vec<u8>) {
            let mut rows = rows(syntax, &SECOND);
            let _ = rows.mask(&body, &mut BytesMut::new());
            let _ = Announced::read(&body);
        }
    }
}
