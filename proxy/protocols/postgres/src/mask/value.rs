//! What stands in the place of one value.
//!
//! Owns the methods and what each makes of a value of which type. Touches its arguments only. Invariants: what comes
//! out is a value of the type that the answer promises, or NULL; without a key what needs one is a constant.

use aws_lc_rs::hmac;
use sallyport_policy::MaskMethod;

/// What a redacted text reads.
pub(crate) const REDACTED: &[u8] = b"****";

/// RFC 1035, section 2.3.4.
const LONGEST_DOMAIN: usize = 255;

/// How a value is written in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it reads, whatever the format.
    Text,
    /// An integer in digits.
    Digits(Width),
    /// An integer in so many bytes.
    Integer(Width),
    /// A number in digits.
    Numeric,
    /// A UUID in hexadecimal.
    Uuid,
    /// A UUID in 16 bytes.
    UuidBytes,
    /// Readable, of another type.
    Readable,
    /// In a form of its own.
    Opaque,
}

/// Bytes of an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    Two,
    Four,
    Eight,
}

impl Form {
    /// Of a value of this type (an OID of `pg_type`) in this format (0 text, 1 binary).
    pub(crate) const fn of(oid: u32, format: i16) -> Self {
        let text = format == 0;
        match oid {
            // text, varchar, bpchar, name, unknown
            25 | 1043 | 1042 | 19 | 705 => Self::Text,
            21 if text => Self::Digits(Width::Two),
            23 if text => Self::Digits(Width::Four),
            20 if text => Self::Digits(Width::Eight),
            21 => Self::Integer(Width::Two),
            23 => Self::Integer(Width::Four),
            20 => Self::Integer(Width::Eight),
            1700 if text => Self::Numeric,
            2950 if text => Self::Uuid,
            2950 => Self::UuidBytes,
            _ if text => Self::Readable,
            // json is as it reads in either format.
            114 => Self::Readable,
            _ => Self::Opaque,
        }
    }
}

/// The key of one target's hashes and tokens.
pub(crate) struct Key(hmac::Key);

impl Key {
    pub(crate) fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// `purpose` keeps what is made of one value for one purpose from being of use for another.
    fn digest(&self, purpose: u8, counter: u8, value: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&[purpose, counter]);
        context.update(value);
        let mut digest = [0; 32];
        if let Some(bytes) = context.sign().as_ref().first_chunk() {
            digest = *bytes;
        }
        digest
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

/// Appends what stands in the place of `value`; false when that is NULL.
pub(crate) fn masked(method: MaskMethod, form: Form, key: Option<&Key>, value: &[u8], out: &mut Vec<u8>) -> bool {
    match (method, form, key) {
        (MaskMethod::Null, _, _) => false,
        (MaskMethod::Partial, Form::Text, _) => {
            partial(value, out);
            true
        }
        (MaskMethod::Hash, Form::Text, Some(key)) => {
            hash(key, value, out);
            true
        }
        (MaskMethod::Tokenize, Form::Text, Some(key)) => {
            token(key, value, out);
            true
        }
        (_, Form::Text, _) => {
            out.extend_from_slice(REDACTED);
            true
        }
        (MaskMethod::Hash | MaskMethod::Tokenize, form, Some(key)) => other_token(key, form, value, out),
        _ => false,
    }
}

/// A keyed hash in 32 hexadecimal digits.
pub(crate) fn hash(key: &Key, value: &[u8], out: &mut Vec<u8>) {
    for byte in key.digest(b'h', 0, value).iter().take(16) {
        out.extend_from_slice(&hexadecimal(*byte));
    }
}

/// The first letter and the domain of what looks like an address; the last four characters of what has at least
/// twelve; nothing of anything shorter.
pub(crate) fn partial(value: &[u8], out: &mut Vec<u8>) {
    let text = String::from_utf8_lossy(value);
    let mut letter = [0; 4];
    // Nothing but a domain may stand behind the @: a text of another kind says there what it likes.
    let is_domain = |domain: &str| {
        domain.len() <= LONGEST_DOMAIN && domain.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-'))
    };
    if let Some((local, domain)) = text.rsplit_once('@')
        && let Some(first) = local.chars().next()
        && is_domain(domain)
    {
        out.extend_from_slice(first.encode_utf8(&mut letter).as_bytes());
        out.extend_from_slice(b"***@");
        out.extend_from_slice(domain.as_bytes());
        return;
    }
    out.extend_from_slice(REDACTED);
    let count = text.chars().count();
    if count >= 12 {
        for character in text.chars().skip(count - 4) {
            out.extend_from_slice(character.encode_utf8(&mut letter).as_bytes());
        }
    }
}

/// Another text of the same form: a digit for a digit, a letter for a letter, what else there is as it is.
pub(crate) fn token(key: &Key, value: &[u8], out: &mut Vec<u8>) {
    let text = String::from_utf8_lossy(value);
    let mut stream = Stream::new(key, value);
    let mut changed = false;
    let mut letter = [0; 4];
    let start = out.len();
    for character in text.chars() {
        let by = match character {
            '0'..='9' => b'0' + stream.below(10),
            'a'..='z' => b'a' + stream.below(26),
            'A'..='Z' => b'A' + stream.below(26),
            other if other.is_ascii() => {
                out.extend_from_slice(other.encode_utf8(&mut letter).as_bytes());
                continue;
            }
            _ => b'a' + stream.below(26),
        };
        changed = true;
        out.push(by);
    }
    if !changed {
        out.truncate(start);
        out.extend_from_slice(REDACTED);
    }
}

fn other_token(key: &Key, form: Form, value: &[u8], out: &mut Vec<u8>) -> bool {
    match form {
        Form::Digits(width) => {
            let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            let Some(number) = number else { return false };
            let Some(token) = integer(key, width, number) else { return false };
            out.extend_from_slice(token.to_string().as_bytes());
        }
        Form::Integer(width) => {
            let read = |bytes: &[u8]| match width {
                Width::Two => bytes.try_into().ok().map(|bytes| i64::from(i16::from_be_bytes(bytes))),
                Width::Four => bytes.try_into().ok().map(|bytes| i64::from(i32::from_be_bytes(bytes))),
                Width::Eight => bytes.try_into().ok().map(i64::from_be_bytes),
            };
            let Some(number) = read(value) else { return false };
            let Some(token) = integer(key, width, number) else { return false };
            let bytes = token.to_be_bytes();
            out.extend(bytes.iter().skip(8 - value.len().min(8)));
        }
        Form::Numeric if value.iter().any(u8::is_ascii_alphabetic) => return false,
        Form::Numeric => token(key, value, out),
        Form::Uuid => {
            // The hash of its digits, whatever their case, as a UUID; so equal stays equal in both formats.
            let mut raw = Vec::with_capacity(16);
            let digits: Vec<u8> = value.iter().filter(|byte| **byte != b'-').copied().collect();
            for pair in digits.chunks(2) {
                let byte = std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
                let Some(byte) = byte else { return false };
                raw.push(byte);
            }
            for (at, byte) in key.digest(b'u', 0, &raw).iter().take(16).enumerate() {
                if matches!(at, 4 | 6 | 8 | 10) {
                    out.push(b'-');
                }
                out.extend_from_slice(&hexadecimal(*byte));
            }
        }
        Form::UuidBytes => out.extend(key.digest(b'u', 0, value).iter().take(16)),
        Form::Text | Form::Readable | Form::Opaque => return false,
    }
    true
}

/// Another integer of as many digits and the same sign; none where no integer of that width has as many.
fn integer(key: &Key, width: Width, number: i64) -> Option<i64> {
    let largest = match width {
        Width::Two => i64::from(i16::MAX),
        Width::Four => i64::from(i32::MAX),
        Width::Eight => i64::MAX,
    };
    let magnitude = number.unsigned_abs();
    let low = magnitude.checked_ilog10().map_or(0, |digits| if digits == 0 { 0 } else { 10_u64.pow(digits) });
    let high = low.max(1).saturating_mul(10).saturating_sub(1).min(largest.unsigned_abs());
    let digest = key.digest(b'i', 0, &number.to_be_bytes());
    let drawn = digest.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    let token = low + drawn % (high.checked_sub(low)? + 1);
    let token = i64::try_from(token).unwrap_or(largest);
    Some(if number < 0 { -token } else { token })
}

/// Bytes that hang on the key and the value alone.
struct Stream<'k> {
    key: &'k Key,
    value: &'k [u8],
    block: [u8; 32],
    counter: u8,
    at: usize,
}

impl<'k> Stream<'k> {
    fn new(key: &'k Key, value: &'k [u8]) -> Self {
        Self { key, value, block: key.digest(b't', 0, value), counter: 0, at: 0 }
    }

    fn below(&mut self, bound: u8) -> u8 {
        if self.at == self.block.len() {
            self.counter = self.counter.wrapping_add(1);
            self.block = self.key.digest(b't', self.counter, self.value);
            self.at = 0;
        }
        let byte = self.block.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte % bound
    }
}

fn hexadecimal(byte: u8) -> [u8; 2] {
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    [digit(byte >> 4), digit(byte & 15)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const METHODS: [MaskMethod; 5] =
        [MaskMethod::Partial, MaskMethod::Tokenize, MaskMethod::Hash, MaskMethod::Redact, MaskMethod::Null];

    fn key() -> Key {
        Key::new(b"a key of a test, thirty-two bytes")
    }

    fn text(method: MaskMethod, value: &str) -> Option<String> {
        let mut out = Vec::new();
        masked(method, Form::Text, Some(&key()), value.as_bytes(), &mut out).then(|| String::from_utf8(out).unwrap())
    }

    #[test]
    fn each_method_does_what_it_says() {
        assert_eq!(text(MaskMethod::Redact, "bob@example.org").unwrap(), "****");
        assert_eq!(text(MaskMethod::Null, "bob@example.org"), None);
        assert_eq!(text(MaskMethod::Partial, "bob@example.org").unwrap(), "b***@example.org");
        assert_eq!(text(MaskMethod::Partial, "4111 1111 1111 1234").unwrap(), "****1234");
        assert_eq!(text(MaskMethod::Partial, "short").unwrap(), "****");
        assert_eq!(text(MaskMethod::Partial, "ring me @ 5, code 1234").unwrap(), "****1234", "that is no domain");
        assert_eq!(text(MaskMethod::Hash, "bob").unwrap().len(), 32);
        let token = text(MaskMethod::Tokenize, "Bob-42@example.org").unwrap();
        assert_eq!(token.len(), "Bob-42@example.org".len());
        assert!(token.as_bytes()[3] == b'-' && token.as_bytes()[6] == b'@' && token != "Bob-42@example.org");
        assert_eq!(text(MaskMethod::Tokenize, "--").unwrap(), "****", "nothing of it would change");
    }

    #[test]
    fn without_a_key_nothing_hangs_on_the_value() {
        for method in [MaskMethod::Hash, MaskMethod::Tokenize] {
            let mut out = Vec::new();
            assert!(masked(method, Form::Text, None, b"bob", &mut out));
            assert_eq!(out, REDACTED);
            assert!(!masked(method, Form::Integer(Width::Four), None, &[0, 0, 0, 1], &mut Vec::new()));
        }
    }

    #[test]
    fn what_no_integer_of_its_type_can_be_is_null() {
        for method in [MaskMethod::Hash, MaskMethod::Tokenize] {
            for text in ["100000", "-100000", "918273645546372819"] {
                let mut out = Vec::new();
                assert!(!masked(method, Form::Digits(Width::Two), Some(&key()), text.as_bytes(), &mut out), "{text}");
            }
            assert!(masked(method, Form::Digits(Width::Two), Some(&key()), b"-32768", &mut Vec::new()));
        }
    }

    #[test]
    fn the_same_value_is_the_same_in_both_formats() {
        let mut digits = Vec::new();
        assert!(masked(MaskMethod::Tokenize, Form::Digits(Width::Four), Some(&key()), b"-4711", &mut digits));
        let mut bytes = Vec::new();
        let form = Form::Integer(Width::Four);
        assert!(masked(MaskMethod::Tokenize, form, Some(&key()), &(-4711i32).to_be_bytes(), &mut bytes));
        let number = i32::from_be_bytes(bytes.try_into().unwrap());
        assert_eq!(String::from_utf8(digits).unwrap(), number.to_string());
        let raw = [0x5a; 16];
        let (mut shown, mut binary) = (Vec::new(), Vec::new());
        let written = b"5a5a5a5a-5a5a-5A5A-5a5a-5a5a5a5a5a5a";
        assert!(masked(MaskMethod::Hash, Form::Uuid, Some(&key()), written, &mut shown));
        assert!(masked(MaskMethod::Hash, Form::UuidBytes, Some(&key()), &raw, &mut binary));
        let joined: String = binary.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(String::from_utf8(shown).unwrap().replace('-', ""), joined);
    }

    proptest! {
        #[test]
        fn equal_stays_equal_and_nothing_panics(value: Vec<u8>, oid in 0u32..3000, format in 0i16..2) {
            let form = Form::of(oid, format);
            for method in METHODS {
                let (mut one, mut other) = (Vec::new(), Vec::new());
                let first = masked(method, form, Some(&key()), &value, &mut one);
                prop_assert_eq!(first, masked(method, form, Some(&key()), &value, &mut other));
                prop_assert_eq!(one, other);
            }
        }

        #[test]
        fn another_key_is_another_token(value in "[a-zA-Z0-9]{12,40}") {
            let (mut one, mut other) = (Vec::new(), Vec::new());
            token(&key(), value.as_bytes(), &mut one);
            token(&Key::new(b"another"), value.as_bytes(), &mut other);
            prop_assert_ne!(&one, &other);
            prop_assert_ne!(one, value.into_bytes());
        }

        #[test]
        fn integers_stay_within_their_type(number: i64, small: i16) {
            for (width, number, largest) in [
                (Width::Eight, number, i64::MAX),
                (Width::Four, i64::from(number as i32), i64::from(i32::MAX)),
                (Width::Two, i64::from(small), i64::from(i16::MAX)),
            ] {
                let token = integer(&key(), width, number).unwrap();
                prop_assert!(token.unsigned_abs() <= largest.unsigned_abs());
                prop_assert_eq!(token.to_string().len().abs_diff(number.to_string().len()) <= 1, true);
            }
        }
    }
}
