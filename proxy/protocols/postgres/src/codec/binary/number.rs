//! Numbers in binary form.
//!
//! Owns their reading. Touches its arguments only. Invariant: as in `binary.rs`; of floats the shortest digits that read back as
//! the same number, of NaNs the one that machines make.

use std::fmt::Write as _;

use crate::codec::Fields;

/// Digits before and behind the point that are written out.
const MOST_DIGITS: i32 = 1000;
/// Ten thousand to the power of one is four digits.
const BASE_DIGITS: i32 = 4;
const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const NEGATIVE_INFINITY: u16 = 0xF000;

pub(super) fn int2(bytes: &[u8]) -> Option<String> {
    bytes.try_into().ok().map(|bytes| i16::from_be_bytes(bytes).to_string())
}

pub(super) fn int4(bytes: &[u8]) -> Option<String> {
    bytes.try_into().ok().map(|bytes| i32::from_be_bytes(bytes).to_string())
}

pub(super) fn int8(bytes: &[u8]) -> Option<String> {
    bytes.try_into().ok().map(|bytes| i64::from_be_bytes(bytes).to_string())
}

pub(super) fn oid(bytes: &[u8]) -> Option<String> {
    bytes.try_into().ok().map(|bytes| u32::from_be_bytes(bytes).to_string())
}

pub(super) fn float4(bytes: &[u8]) -> Option<String> {
    let number = f32::from_be_bytes(bytes.try_into().ok()?);
    if number.is_nan() && number.to_bits() != 0x7fc0_0000 {
        return None;
    }
    Some(float(number.is_infinite(), number.is_sign_negative(), &format!("{number:?}")))
}

pub(super) fn float8(bytes: &[u8]) -> Option<String> {
    let number = f64::from_be_bytes(bytes.try_into().ok()?);
    if number.is_nan() && number.to_bits() != 0x7ff8_0000_0000_0000 {
        return None;
    }
    Some(float(number.is_infinite(), number.is_sign_negative(), &format!("{number:?}")))
}

fn float(infinite: bool, negative: bool, digits: &str) -> String {
    match (infinite, negative) {
        (true, true) => "-Infinity".to_owned(),
        (true, false) => "Infinity".to_owned(),
        _ => digits.strip_suffix(".0").unwrap_or(digits).to_owned(),
    }
}

/// How many digits of base 10000, the weight of the first, sign, digits behind the point; then the digits. The server drops
/// what stands behind the digits that it is told of, and leading and trailing zeros: with these it has another writing.
pub(super) fn numeric(bytes: &[u8]) -> Option<String> {
    let mut fields = Fields::new("numeric", bytes);
    let count = usize::from(fields.u16().ok()?);
    let weight = i32::from(fields.u16().ok()?.cast_signed());
    let sign = fields.u16().ok()?;
    let scale = i32::from(fields.u16().ok()?);
    let digits = (0..count).map(|_| fields.u16().ok().filter(|digit| *digit < 10_000));
    let digits = digits.collect::<Option<Vec<_>>>()?;
    fields.end().ok()?;
    let special = match sign {
        0 | NEGATIVE => None,
        NAN => Some(("NaN", 0)),
        // The server itself writes them so.
        INFINITY => Some(("Infinity", 32)),
        NEGATIVE_INFINITY => Some(("-Infinity", 32)),
        _ => return None,
    };
    if let Some((special, written)) = special {
        return (count == 0 && weight == 0 && scale == written).then(|| special.to_owned());
    }
    if scale > MOST_DIGITS || weight.abs() > MOST_DIGITS / BASE_DIGITS {
        return None;
    }
    let width = usize::try_from(scale).ok()?;
    let (Some(first), Some(last)) = (digits.first(), digits.last()) else {
        // Zero: of one sign and one weight.
        return (sign == 0 && weight == 0).then(|| point("0".to_owned(), &"0".repeat(width)));
    };
    if *first == 0 || *last == 0 {
        return None;
    }
    // The digit of the place of 10000 to the power of `at`.
    let digit = |at: i32| {
        let index = usize::try_from(weight - at).ok();
        index.and_then(|index| digits.get(index)).copied().unwrap_or(0)
    };
    let mut whole = String::new();
    for at in (0..=weight.max(0)).rev() {
        match whole.is_empty() {
            true => write!(whole, "{}", digit(at)).ok()?,
            false => write!(whole, "{:04}", digit(at)).ok()?,
        }
    }
    let lowest = weight - i32::try_from(count).ok()? + 1;
    let mut fraction = String::new();
    for at in (lowest.min(0)..0).rev() {
        write!(fraction, "{:04}", digit(at)).ok()?;
    }
    if fraction.len() > width && fraction.split_at(width).1.bytes().any(|digit| digit != b'0') {
        return None;
    }
    let sign = if sign == NEGATIVE { "-" } else { "" };
    Some(format!("{sign}{}", point(whole, &format!("{fraction:0<width$.width$}"))))
}

fn point(whole: String, fraction: &str) -> String {
    if fraction.is_empty() { whole } else { format!("{whole}.{fraction}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(weight: i16, sign: u16, scale: u16, digits: &[u16]) -> Vec<u8> {
        let head = [u16::try_from(digits.len()).unwrap(), weight.cast_unsigned(), sign, scale];
        head.iter().chain(digits).flat_map(|part| part.to_be_bytes()).collect()
    }

    #[test]
    fn integers_and_floats_with_all_their_ends() {
        assert_eq!(int2(&i16::MIN.to_be_bytes()).unwrap(), "-32768");
        assert_eq!(int4(&(-1_i32).to_be_bytes()).unwrap(), "-1");
        assert_eq!(int8(&i64::MIN.to_be_bytes()).unwrap(), "-9223372036854775808");
        assert_eq!(oid(&u32::MAX.to_be_bytes()).unwrap(), "4294967295");
        assert!(int8(&[0; 4]).is_none() && int4(&[0; 8]).is_none() && int2(&[]).is_none() && float8(&[0; 4]).is_none());
        let eight = |number: f64| float8(&number.to_be_bytes());
        let expected = [
            (0.0, "0"),
            (-0.0, "-0"),
            (0.1, "0.1"),
            (1e300, "1e300"),
            (-2.5, "-2.5"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
        ];
        for (number, text) in expected {
            assert_eq!(eight(number).unwrap(), text);
        }
        assert_eq!(float8(&0x7ff8_0000_0000_0000_u64.to_be_bytes()).unwrap(), "NaN");
        // A NaN that carries something.
        assert!(float8(&0x7ff8_0000_0000_0001_u64.to_be_bytes()).is_none());
        assert!(float8(&0xfff8_0000_0000_0000_u64.to_be_bytes()).is_none());
        assert_eq!(float4(&0.1_f32.to_be_bytes()).unwrap(), "0.1");
        assert_eq!(float4(&f32::NEG_INFINITY.to_be_bytes()).unwrap(), "-Infinity");
        assert!(float4(&0x7fc0_0001_u32.to_be_bytes()).is_none());
    }

    #[test]
    fn numerics_to_the_last_digit() {
        let cases: &[(i16, u16, u16, &[u16], &str)] = &[
            (0, 0, 0, &[], "0"),
            (0, 0, 2, &[], "0.00"),
            (0, 0, 2, &[12, 3400], "12.34"),
            (0, NEGATIVE, 2, &[12, 3400], "-12.34"),
            (0, 0, 3, &[12, 3400], "12.340"),
            (1, 0, 0, &[1, 2345], "12345"),
            (2, 0, 0, &[1], "100000000"),
            (1, 0, 1, &[7, 0, 5000], "70000.5"),
            (-1, 0, 4, &[1], "0.0001"),
            (-2, 0, 8, &[10], "0.00000010"),
            (0, NAN, 0, &[], "NaN"),
            (0, INFINITY, 32, &[], "Infinity"),
            (0, NEGATIVE_INFINITY, 32, &[], "-Infinity"),
        ];
        for (weight, sign, scale, digits, expected) in cases {
            assert_eq!(numeric(&of(*weight, *sign, *scale, digits)).as_deref(), Some(*expected));
        }
    }

    #[test]
    fn a_numeric_that_the_server_would_read_otherwise_than_it_stands_there_is_not_read() {
        let cases: &[(i16, u16, u16, &[u16])] = &[
            (0, 0, 1, &[12, 3400]),
            (0, 0, 0, &[0]),
            (1, 0, 0, &[0, 5]),
            (1, 0, 0, &[5, 0]),
            (1, 0, 0, &[]),
            (0, NEGATIVE, 0, &[]),
            (0, 0, 0, &[10_000]),
            (0, 1, 0, &[1]),
            (0, NAN, 0, &[1]),
            (0, NAN, 32, &[]),
            (0, INFINITY, 0, &[]),
            (i16::MAX, 0, 0, &[1]),
            (i16::MIN, 0, 0, &[1]),
            (0, 0, 0x3fff, &[1]),
        ];
        for (weight, sign, scale, digits) in cases {
            assert_eq!(numeric(&of(*weight, *sign, *scale, digits)), None, "{weight} {sign} {scale} {digits:?}");
        }
        assert_eq!(numeric(&[0, 1, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(numeric(&[0; 9]), None);
    }

    proptest! {
        #[test]
        fn a_float_reads_back_as_itself(bits: u64) {
            if let Some(text) = float8(&bits.to_be_bytes()) {
                let back: f64 = text.parse().unwrap();
                prop_assert!(back.to_bits() == bits || back.is_nan());
            }
        }
    }
}
