//! Rows: which of their values are masked, and the rows that are sent in their place.
//!
//! Owns the forms of RowDescription and DataRow (PostgreSQL protocol, chapter "Message Formats"). Touches its
//! arguments only. Invariant: a row that does not fit its description is not passed at all.

use std::sync::Arc;

use bytes::BytesMut;
use sallyport_policy::MaskMethod;

use super::detect::Detectors;
use super::value::{Form, Key, masked};
use crate::codec::{Fields, close};

/// Longest row that is masked: it is held whole.
pub(crate) const LONGEST_ROW: usize = 64 * 1024 * 1024;
/// Longest RowDescription that is read: 1,664 columns with names of 63 bytes take a tenth.
pub(crate) const LONGEST_DESCRIPTION: usize = 1024 * 1024;

/// One column of a RowDescription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Described {
    /// OID of the table it is a column of; 0 where it is none.
    pub(crate) table: u32,
    /// Its number there.
    pub(crate) number: i16,
    form: Form,
}

/// How the rows of one answer are masked.
#[derive(Debug)]
pub(crate) struct Rows {
    columns: Vec<(Form, Option<MaskMethod>)>,
    detectors: Arc<Detectors>,
    key: Option<Arc<Key>>,
}

/// The columns of a RowDescription's body.
pub(crate) fn columns(body: &[u8]) -> Option<Vec<Described>> {
    let mut fields = Fields::new("RowDescription", body);
    let count = fields.u16().ok()?;
    let mut columns = Vec::with_capacity(usize::from(count).min(1664));
    for _ in 0..count {
        fields.string().ok()?;
        let table = u32::from_be_bytes(fields.i32().ok()?.to_be_bytes());
        let number = i16::from_be_bytes(fields.u16().ok()?.to_be_bytes());
        let kind = u32::from_be_bytes(fields.i32().ok()?.to_be_bytes());
        let (_size, _modifier) = (fields.u16().ok()?, fields.i32().ok()?);
        let format = i16::from_be_bytes(fields.u16().ok()?.to_be_bytes());
        columns.push(Described { table, number, form: Form::of(kind, format) });
    }
    fields.end().ok()?;
    Some(columns)
}

impl Rows {
    pub(super) fn new(
        described: &[Described],
        methods: &[Option<MaskMethod>],
        detectors: Arc<Detectors>,
        key: Option<Arc<Key>>,
    ) -> Self {
        let columns = described.iter().zip(methods).map(|(column, method)| (column.form, *method)).collect();
        Self { columns, detectors, key }
    }

    /// Whether rows pass as they are.
    pub(crate) fn are_clear(&self) -> bool {
        self.detectors.is_empty() && self.columns.iter().all(|(_, method)| method.is_none())
    }

    /// Whether a row has as many values as were described, from the beginning of its body.
    pub(crate) fn fits(&self, body: &[u8]) -> bool {
        let count = body.first_chunk().map(|count| u16::from_be_bytes(*count));
        count.map(usize::from) == Some(self.columns.len())
    }

    /// Appends the DataRow that stands in the place of the one with this body; `None` when it does not fit.
    pub(crate) fn mask(&self, body: &[u8], out: &mut BytesMut) -> Option<()> {
        let start = out.len();
        let masked = self.append(body, out);
        if masked.is_none() {
            out.truncate(start);
        }
        masked
    }

    fn append(&self, body: &[u8], out: &mut BytesMut) -> Option<()> {
        let start = out.len();
        out.reserve(body.len() + 5);
        out.extend_from_slice(b"D\0\0\0\0");
        Self::values(&self.columns, &self.detectors, self.key.as_deref(), body, out)?;
        close(out, start)
    }

    /// Appends the values of a row, how many there are first, as they are in a DataRow or a COPY in binary.
    pub(super) fn values(
        columns: &[(Form, Option<MaskMethod>)],
        detectors: &Detectors,
        key: Option<&Key>,
        body: &[u8],
        out: &mut BytesMut,
    ) -> Option<()> {
        let mut fields = Fields::new("DataRow", body);
        let count = fields.u16().ok()?;
        if usize::from(count) != columns.len() {
            return None;
        }
        out.extend_from_slice(&count.to_be_bytes());
        let mut scratch = Vec::new();
        for (form, method) in columns {
            let length = fields.i32().ok()?;
            if length == -1 {
                out.extend_from_slice(&length.to_be_bytes());
                continue;
            }
            let value = fields.bytes(usize::try_from(length).ok()?).ok()?;
            scratch.clear();
            let by = match method {
                Some(method) => {
                    let shown = masked(*method, *form, key, value, &mut scratch);
                    shown.then_some(scratch.as_slice())
                }
                None => match found(detectors, key, *form, value) {
                    None => Some(value),
                    Some(Some(replaced)) => {
                        scratch = replaced;
                        Some(scratch.as_slice())
                    }
                    Some(None) => None,
                },
            };
            match by {
                None => out.extend_from_slice(&(-1i32).to_be_bytes()),
                Some(bytes) => {
                    out.extend_from_slice(&i32::try_from(bytes.len()).ok()?.to_be_bytes());
                    out.extend_from_slice(bytes);
                }
            }
        }
        fields.end().ok()
    }
}

/// What stands in the place of a value in which something was found: `Some(None)` is NULL, `None` that nothing was.
fn found(detectors: &Detectors, key: Option<&Key>, form: Form, value: &[u8]) -> Option<Option<Vec<u8>>> {
    if detectors.is_empty() {
        return None;
    }
    match form {
        Form::Text | Form::Readable => detectors.replaced(value, key).map(Some),
        Form::Integer(_) => {
            let digits = integer(value)?.to_string();
            detectors.replaced(digits.as_bytes(), None).map(|_| None)
        }
        // Its form would be broken by what stands in its place.
        Form::Digits(_) | Form::Numeric | Form::Uuid | Form::UuidBytes | Form::Opaque => {
            detectors.replaced(value, None).map(|_| None)
        }
    }
}

fn integer(value: &[u8]) -> Option<i64> {
    match value.len() {
        2 => value.try_into().ok().map(|bytes| i64::from(i16::from_be_bytes(bytes))),
        4 => value.try_into().ok().map(|bytes| i64::from(i32::from_be_bytes(bytes))),
        8 => value.try_into().ok().map(i64::from_be_bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sallyport_policy::Detector;

    use super::*;

    fn row(values: &[Option<&[u8]>]) -> Vec<u8> {
        let mut body = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
        for value in values {
            match value {
                None => body.extend((-1i32).to_be_bytes()),
                Some(value) => {
                    body.extend(i32::try_from(value.len()).unwrap().to_be_bytes());
                    body.extend_from_slice(value);
                }
            }
        }
        body
    }

    fn rows(columns: Vec<(Form, Option<MaskMethod>)>, detect: Vec<(Detector, MaskMethod)>) -> Rows {
        Rows { columns, detectors: Arc::new(Detectors::new(detect)), key: None }
    }

    #[test]
    fn only_masked_columns_change() {
        let rows = rows(vec![(Form::Text, None), (Form::Text, Some(MaskMethod::Redact)), (Form::Text, None)], vec![]);
        let mut out = BytesMut::new();
        rows.mask(&row(&[Some(b"a"), Some(b"secret"), None]), &mut out).unwrap();
        assert_eq!(&out[5..], &*row(&[Some(b"a"), Some(b"****"), None]));
        assert_eq!(i32::from_be_bytes(out[1..5].try_into().unwrap()), i32::try_from(out.len() - 1).unwrap());
    }

    #[test]
    fn a_row_that_does_not_fit_is_not_passed() {
        let rows = rows(vec![(Form::Text, Some(MaskMethod::Redact))], vec![]);
        for body in
            [row(&[]), row(&[None, None]), b"\0\x01\0\0\0\x09short".to_vec(), b"\0\x01\xff\xff\xff\xfe".to_vec()]
        {
            let mut out = BytesMut::from(&b"before"[..]);
            assert_eq!(rows.mask(&body, &mut out), None);
            assert_eq!(&out[..], b"before");
        }
    }

    #[test]
    fn a_card_number_in_eight_bytes_is_found() {
        let rows = rows(
            vec![(Form::Integer(super::super::value::Width::Eight), None)],
            vec![(Detector::CreditCard, MaskMethod::Redact)],
        );
        let mut out = BytesMut::new();
        rows.mask(&row(&[Some(&4_111_111_111_111_111_i64.to_be_bytes())]), &mut out).unwrap();
        assert_eq!(&out[5..], &*row(&[None]));
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(body: Vec<u8>) {
            let rows = rows(vec![(Form::Text, Some(MaskMethod::Partial)); 3], vec![]);
            let _ = (rows.mask(&body, &mut BytesMut::new()), columns(&body));
        }
    }
}
