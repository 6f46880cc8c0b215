//! What is hidden wherever it is found: addresses, and numbers of cards and accounts.
//!
//! Owns the forms. Touches its arguments only. Invariant: a number counts only with a right check digit, so that an
//! order number stays one; what is found is replaced and nothing beside it.

use std::sync::LazyLock;

use regex::bytes::Regex;
use sallyport_policy::{Detector, MaskMethod};

use super::value::{self, Key};

/// Each is linear in the length of what is searched. Check digits are verified after.
static EMAIL: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?-u)[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,63}").ok()
});
static CARD: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"(?-u)\d(?:[ -]?\d){12,18}").ok());
static IBAN: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?-u)(?i)[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}").ok());

/// The detectors that hold for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Detectors(Vec<(Detector, MaskMethod)>);

impl Detectors {
    pub(crate) const fn new(detectors: Vec<(Detector, MaskMethod)>) -> Self {
        Self(detectors)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `text` with what was found replaced; `None` when nothing was.
    pub(crate) fn replaced(&self, text: &[u8], key: Option<&Key>) -> Option<Vec<u8>> {
        let mut result: Option<Vec<u8>> = None;
        for (detector, method) in &self.0 {
            let current = result.as_deref().unwrap_or(text);
            if let Some(next) = replaced(*detector, *method, current, key) {
                result = Some(next);
            }
        }
        result
    }
}

fn replaced(detector: Detector, method: MaskMethod, text: &[u8], key: Option<&Key>) -> Option<Vec<u8>> {
    // What no value can be without is looked for first.
    let (regex, possible): (_, fn(&u8) -> bool) = match detector {
        Detector::Email => (&*EMAIL, |byte| *byte == b'@'),
        Detector::CreditCard => (&*CARD, u8::is_ascii_digit),
        Detector::Iban => (&*IBAN, u8::is_ascii_digit),
    };
    if !text.iter().any(possible) {
        return None;
    }
    let Some(regex) = regex else { return Some(value::REDACTED.to_vec()) };
    let mut out: Vec<u8> = Vec::new();
    let mut kept = 0;
    let mut from = 0;
    while let Some(found) = regex.find_at(text, from) {
        let candidate = found.as_bytes();
        let Some(length) = proven(detector, text, found.start(), candidate) else {
            from = found.start() + 1;
            continue;
        };
        let end = found.start() + length;
        out.extend_from_slice(text.get(kept..found.start()).unwrap_or_default());
        replace(method, key, candidate.get(..length).unwrap_or(candidate), &mut out);
        (kept, from) = (end, end);
    }
    if kept == 0 {
        return None;
    }
    out.extend_from_slice(text.get(kept..).unwrap_or_default());
    Some(out)
}

fn replace(method: MaskMethod, key: Option<&Key>, found: &[u8], out: &mut Vec<u8>) {
    match (method, key) {
        (MaskMethod::Partial, _) => value::partial(found, out),
        (MaskMethod::Hash, Some(key)) => value::hash(key, found, out),
        (MaskMethod::Tokenize, Some(key)) => value::token(key, found, out),
        _ => out.extend_from_slice(value::REDACTED),
    }
}

/// How much of a candidate is what was looked for.
fn proven(detector: Detector, text: &[u8], start: usize, candidate: &[u8]) -> Option<usize> {
    let before = start.checked_sub(1).and_then(|at| text.get(at)).copied();
    match detector {
        Detector::Email => Some(candidate.len()),
        // Digits before it would make it another number.
        _ if before.is_some_and(|byte| byte.is_ascii_digit()) => None,
        Detector::CreditCard => {
            // The longest that has a right check digit; the text may go on with another number.
            let ends = (13..=19).rev().filter_map(|digits| nth_digit_end(candidate, digits));
            ends.into_iter().find(|end| {
                let next = text.get(start + end);
                luhn(candidate.get(..*end).unwrap_or_default()) && !next.is_some_and(u8::is_ascii_digit)
            })
        }
        Detector::Iban => {
            if before.is_some_and(|byte| byte.is_ascii_alphanumeric()) {
                return None;
            }
            (15..=candidate.len()).rev().find(|end| mod_97(candidate.get(..*end).unwrap_or_default()))
        }
    }
}

/// Where the `count`th digit ends.
fn nth_digit_end(text: &[u8], count: usize) -> Option<usize> {
    let mut digits = text.iter().enumerate().filter(|(_, byte)| byte.is_ascii_digit());
    digits.nth(count - 1).map(|(at, _)| at + 1)
}

/// The check digit of ISO/IEC 7812.
fn luhn(text: &[u8]) -> bool {
    let digits = text.iter().rev().filter(|byte| byte.is_ascii_digit()).map(|byte| u32::from(byte - b'0'));
    let sum: u32 = digits
        .enumerate()
        .map(|(at, digit)| match (at % 2, digit * 2) {
            (0, _) => digit,
            (_, doubled) if doubled > 9 => doubled - 9,
            (_, doubled) => doubled,
        })
        .sum();
    sum.is_multiple_of(10) && text.iter().any(|byte| matches!(byte, b'1'..=b'9'))
}

/// The check digits of ISO 13616.
fn mod_97(text: &[u8]) -> bool {
    let plain: Vec<u8> = text.iter().filter(|byte| **byte != b' ').map(u8::to_ascii_uppercase).collect();
    if !(15..=34).contains(&plain.len()) || text.last() == Some(&b' ') {
        return false;
    }
    let moved = plain.iter().skip(4).chain(plain.iter().take(4));
    let remainder = moved.fold(0u32, |sum, byte| match byte {
        b'0'..=b'9' => (sum * 10 + u32::from(byte - b'0')) % 97,
        letter => (sum * 100 + u32::from(letter.saturating_sub(b'A')) + 10) % 97,
    });
    remainder == 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(method: MaskMethod) -> Detectors {
        Detectors::new(vec![(Detector::Email, method), (Detector::CreditCard, method), (Detector::Iban, method)])
    }

    fn redacted(text: &str) -> String {
        let replaced = all(MaskMethod::Redact).replaced(text.as_bytes(), None);
        replaced.map_or_else(|| text.to_owned(), |bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn what_has_the_form_is_replaced_and_nothing_beside_it() {
        assert_eq!(redacted("write to bob@example.org, now"), "write to ****, now");
        assert_eq!(redacted("{\"a\":\"bob@example.org\",\"b\":1}"), "{\"a\":\"****\",\"b\":1}");
        assert_eq!(redacted("card 4111 1111 1111 1111 ok"), "card **** ok");
        assert_eq!(redacted("card 4111-1111-1111-1111."), "card ****.");
        assert_eq!(redacted("378282246310005"), "****");
        assert_eq!(redacted("DE89 3704 0044 0532 0130 00"), "****");
        assert_eq!(redacted("pay GB29NWBK60161331926819 today"), "pay **** today");
    }

    #[test]
    fn numbers_without_right_check_digits_stay() {
        for stays in ["4111 1111 1111 1112", "order 1234567890123", "0000000000000", "DE89370400440532013001", "a@b"] {
            assert_eq!(redacted(stays), stays);
        }
    }

    #[test]
    fn two_in_one_text_are_both_found() {
        assert_eq!(redacted("a@b.de b@c.org"), "**** ****");
        assert_eq!(redacted("4111111111111111,5500000000000004"), "****,****");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(text: Vec<u8>) {
            let _ = all(MaskMethod::Partial).replaced(&text, None);
        }

        #[test]
        fn an_address_never_survives(before in "[ ,;:\"]{0,3}", local in "[a-z0-9]{1,12}", after in "[ ,;:\"]{0,3}") {
            let address = format!("{local}@example.org");
            let shown = redacted(&format!("{before}{address}{after}"));
            prop_assert!(!shown.contains(&address), "{shown}");
        }
    }
}
