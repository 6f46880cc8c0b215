//! Parameters in binary form, as people read them.
//!
//! Owns the reading of the well-known types and the form in which a value is shown. Touches its arguments only.
//! Invariant: what is shown says the type and the value to the last bit, so that two different parameters never look the
//! same. What could be written in another way as well, or has no plain reading, is shown as its bytes.

mod number;
mod time;

use std::fmt::Write as _;

use super::Fields;

/// What a value of a type reads as; `None` where it is not one, or not in the one way that counts.
type Reading = fn(&[u8]) -> Option<String>;

/// Types by their OIDs, which no server gives to another type, with the OIDs of their arrays.
const TYPES: [(u32, u32, &str, Reading); 20] = [
    (16, 1000, "bool", boolean),
    (17, 1001, "bytea", bytea),
    (19, 1003, "name", text),
    (20, 1016, "int8", number::int8),
    (21, 1005, "int2", number::int2),
    (23, 1007, "int4", number::int4),
    (25, 1009, "text", text),
    (26, 1028, "oid", number::oid),
    (114, 199, "json", text),
    (700, 1021, "float4", number::float4),
    (701, 1022, "float8", number::float8),
    (1042, 1014, "bpchar", text),
    (1043, 1015, "varchar", text),
    (1082, 1182, "date", time::date),
    (1083, 1183, "time", time::time),
    (1114, 1115, "timestamp", time::timestamp),
    (1184, 1185, "timestamptz", time::timestamptz),
    (1700, 1231, "numeric", number::numeric),
    (2950, 2951, "uuid", uuid),
    (3802, 3807, "jsonb", jsonb),
];

/// A value that did not come as text: `'42'::int4` where its type is well known, else its bytes as hex with its form and its type,
/// which no such literal and no text looks like. `None` where it is longer than `longest`: what is shown is shown whole.
pub(crate) fn literal(of: Option<u32>, format: u16, bytes: &[u8], longest: usize) -> Option<String> {
    if bytes.len() > longest {
        return None;
    }
    let read = if format == 1 { of.and_then(|of| read(of, bytes)) } else { None };
    let shown = read.unwrap_or_else(|| {
        let form = match format {
            0 => "text that is not UTF-8".to_owned(),
            1 => "binary".to_owned(),
            other => format!("format {other}"),
        };
        let of = of.map_or_else(|| "of a type that is not known here".to_owned(), |of| format!("type {of}"));
        format!("{} ({form}, {of})", hex(bytes))
    });
    (shown.len() <= longest).then_some(shown)
}

/// A text that is to be read as that type: as it would stand in a statement, where the type is well known.
pub(crate) fn typed(of: u32, text: &str) -> String {
    let known = TYPES.iter().find(|(oid, array, ..)| [*oid, *array].contains(&of));
    match known {
        Some((oid, _, name, _)) => format!("{}::{name}{}", quoted(text), if *oid == of { "" } else { "[]" }),
        None => format!("{} (type {of})", quoted(text)),
    }
}

fn read(of: u32, bytes: &[u8]) -> Option<String> {
    if let Some((_, _, name, reading)) = TYPES.iter().find(|(oid, ..)| *oid == of) {
        return Some(format!("{}::{name}", quoted(&reading(bytes)?)));
    }
    let (element, _, name, reading) = TYPES.iter().find(|(_, array, ..)| *array == of)?;
    Some(format!("{}::{name}[]", quoted(&array(*element, *reading, bytes)?)))
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("\\x".to_owned(), |mut out, byte| {
        // Writing to a String cannot fail.
        let _written = write!(out, "{byte:02x}");
        out
    })
}

fn boolean(bytes: &[u8]) -> Option<String> {
    match bytes {
        [0] => Some("false".to_owned()),
        [1] => Some("true".to_owned()),
        // The server takes it for true.
        _ => None,
    }
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0')).map(str::to_owned)
}

#[expect(clippy::unnecessary_wraps, reason = "a Reading")]
fn bytea(bytes: &[u8]) -> Option<String> {
    Some(hex(bytes))
}

fn uuid(bytes: &[u8]) -> Option<String> {
    let mut out = String::new();
    for (n, byte) in <[u8; 16]>::try_from(bytes).ok()?.iter().enumerate() {
        if matches!(n, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        write!(out, "{byte:02x}").ok()?;
    }
    Some(out)
}

/// A version, and text.
fn jsonb(bytes: &[u8]) -> Option<String> {
    text(bytes.strip_prefix(&[1])?)
}

/// An array of one dimension that counts from one: drivers make no others.
fn array(element: u32, reading: Reading, bytes: &[u8]) -> Option<String> {
    let mut fields = Fields::new("array", bytes);
    let dimensions = fields.i32().ok()?;
    let says_nulls = fields.i32().ok()?;
    if u32::try_from(fields.i32().ok()?) != Ok(element) {
        return None;
    }
    let count = match dimensions {
        0 => 0,
        1 => usize::try_from(fields.i32().ok()?).ok().filter(|count| *count > 0)?,
        _ => return None,
    };
    if dimensions == 1 && fields.i32().ok()? != 1 {
        return None;
    }
    let (mut out, mut nulls) = ("{".to_owned(), 0);
    for n in 0..count {
        out.push_str(if n == 0 { "" } else { "," });
        match fields.i32().ok()? {
            -1 => {
                nulls = 1;
                out.push_str("NULL");
            }
            length => {
                let value = reading(fields.bytes(usize::try_from(length).ok()?).ok()?)?;
                write!(out, "\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")).ok()?;
            }
        }
    }
    fields.end().ok()?;
    out.push('}');
    // The server does not look at it; here it must be as it would be written.
    (says_nulls == nulls).then_some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(of: u32, bytes: &[u8]) -> String {
        literal(Some(of), 1, bytes, 4096).unwrap()
    }

    #[test]
    fn each_type_reads_as_the_server_would_write_it() {
        let uuid = *b"\x12\x3e\x45\x67\xe8\x9b\x12\xd3\xa4\x56\x42\x66\x14\x17\x40\x00";
        let cases: &[(u32, &[u8], &str)] = &[
            (16, &[1], "'true'::bool"),
            (16, &[0], "'false'::bool"),
            (17, b"\x00\xffa", r"'\x00ff61'::bytea"),
            (17, b"", r"'\x'::bytea"),
            (25, b"it's", "'it''s'::text"),
            (25, b"", "''::text"),
            (1043, "ümläut".as_bytes(), "'ümläut'::varchar"),
            (2950, &uuid, "'123e4567-e89b-12d3-a456-426614174000'::uuid"),
            (3802, b"\x01{\"a\": 1}", "'{\"a\": 1}'::jsonb"),
            (114, b"[]", "'[]'::json"),
            (23, &42_i32.to_be_bytes(), "'42'::int4"),
        ];
        for (of, bytes, expected) in cases {
            assert_eq!(shown(*of, bytes), *expected, "{of} {bytes:?}");
        }
    }

    #[test]
    fn what_is_not_of_its_type_or_of_no_known_one_is_shown_as_its_bytes() {
        let cases: &[(u32, &[u8], &str)] = &[
            (16, &[2], r"\x02 (binary, type 16)"),
            (16, &[], r"\x (binary, type 16)"),
            (23, &[0, 0, 42], r"\x00002a (binary, type 23)"),
            (25, &[0xff], r"\xff (binary, type 25)"),
            (25, b"a\0b", r"\x610062 (binary, type 25)"),
            (2950, &[0; 15], r"\x000000000000000000000000000000 (binary, type 2950)"),
            (3802, b"\x02{}", r"\x027b7d (binary, type 3802)"),
            (600, &[0, 1], r"\x0001 (binary, type 600)"),
            (70000, &[0, 1], r"\x0001 (binary, type 70000)"),
        ];
        for (of, bytes, expected) in cases {
            assert_eq!(shown(*of, bytes), *expected);
        }
        assert_eq!(literal(None, 1, &[9], 99).unwrap(), r"\x09 (binary, of a type that is not known here)");
        assert_eq!(literal(Some(25), 0, &[0xff], 99).unwrap(), r"\xff (text that is not UTF-8, type 25)");
        // The server knows of no other format; whatever it is, it is not taken for one of the two.
        assert_eq!(literal(Some(23), 2, &[0, 0, 0, 1], 99).unwrap(), r"\x00000001 (format 2, type 23)");
    }

    #[test]
    fn what_is_too_long_is_not_shown_at_all() {
        assert_eq!(literal(Some(25), 1, &[b'a'; 50], 58).map(|shown| shown.len()), Some(58));
        assert_eq!(literal(Some(25), 1, &[b'a'; 51], 58), None);
        assert_eq!(literal(Some(17), 1, &[0; 40], 58), None);
        assert_eq!(literal(None, 1, &vec![0; 64 * 1024 * 1024], 58), None);
    }

    fn of_ints(nulls: i32, element: i32, lower: i32, elements: &[Option<i32>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in [1, nulls, element, i32::try_from(elements.len()).unwrap(), lower] {
            bytes.extend(part.to_be_bytes());
        }
        for element in elements {
            bytes.extend(element.map_or(-1_i32, |_| 4).to_be_bytes());
            bytes.extend(element.iter().flat_map(|element| element.to_be_bytes()));
        }
        bytes
    }

    #[test]
    fn arrays_read_as_literals_where_they_are_plain_lists() {
        let empty = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 23];
        assert_eq!(shown(1007, &empty), "'{}'::int4[]");
        assert_eq!(shown(1007, &of_ints(0, 23, 1, &[Some(1), Some(-2)])), r#"'{"1","-2"}'::int4[]"#);
        assert_eq!(shown(1007, &of_ints(1, 23, 1, &[None, Some(3)])), r#"'{NULL,"3"}'::int4[]"#);
        let mut quotes = of_ints(0, 25, 1, &[]);
        quotes[15] = 1;
        quotes.extend(b"\0\0\0\x06a\"b\\c'");
        assert_eq!(shown(1009, &quotes), r#"'{"a\"b\\c''"}'::text[]"#);
        // Of another element, said to hold what it does not, from another bound, of no elements in one dimension.
        for odd in [
            of_ints(0, 25, 1, &[Some(1)]),
            of_ints(1, 23, 1, &[Some(1)]),
            of_ints(0, 23, 0, &[Some(1)]),
            of_ints(0, 23, 1, &[]),
        ] {
            assert!(shown(1007, &odd).starts_with("\\x"), "{odd:?}");
        }
    }

    #[test]
    fn types_stand_in_order_and_once() {
        let mut oids: Vec<_> = TYPES.iter().flat_map(|(one, many, ..)| [*one, *many]).collect();
        assert!(TYPES.is_sorted_by_key(|(oid, ..)| *oid));
        oids.sort_unstable();
        oids.dedup();
        assert_eq!(oids.len(), TYPES.len() * 2);
    }

    /// Bytes that are near to what the types want, so that many of them read.
    fn value() -> impl Strategy<Value = Vec<u8>> {
        let small = prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(255), any::<u8>()], 0..17);
        let ints = prop::collection::vec(prop::option::of(-2_i32..3), 0..3);
        let array = (0_i32..2, prop_oneof![Just(23), Just(25)], 0_i32..3, ints);
        let numeric = prop::collection::vec(prop_oneof![Just(0_u16), Just(1), Just(2), Just(9999), any::<u16>()], 4..8);
        prop_oneof![
            small,
            array.prop_map(|(nulls, element, lower, ints)| of_ints(nulls, element, lower, &ints)),
            numeric.prop_map(|parts| parts.iter().flat_map(|part| part.to_be_bytes()).collect()),
            any::<i64>().prop_map(|number| number.to_be_bytes().to_vec()),
            "[a'\"\\\\]{0,4}".prop_map(String::into_bytes),
        ]
    }

    fn kind() -> impl Strategy<Value = Option<u32>> {
        let known = prop::sample::select(TYPES.iter().flat_map(|(one, many, ..)| [*one, *many]).collect::<Vec<_>>());
        prop_oneof![8 => known.prop_map(Some), 1 => Just(Some(600)), 1 => Just(None)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        // What people approve is compared by what they were shown.
        #[test]
        fn two_parameters_that_differ_never_look_the_same(
            one in (kind(), 0_u16..3, value()), other in (kind(), 0_u16..3, value()), text in "[a-z0-9':]{0,9}",
        ) {
            let shown = |(of, format, bytes): &(Option<u32>, u16, Vec<u8>)| literal(*of, *format, bytes, 4096).unwrap();
            let same_kind = (one.0, one.1, other.2.clone());
            prop_assert_eq!(one == other, shown(&one) == shown(&other));
            prop_assert_eq!(one == same_kind, shown(&one) == shown(&same_kind));
            // Nor like one that came as text, or none at all.
            prop_assert_ne!(shown(&one), quoted(&text));
            prop_assert!(!shown(&one).ends_with('\'') && shown(&one) != "NULL");
        }

        #[test]
        fn arbitrary_bytes_never_panic(of: u32, known in kind(), format: u16, bytes: Vec<u8>) {
            let _ = (literal(Some(of), format, &bytes, 4096), literal(known, 1, &bytes, 4096));
        }
    }
}
