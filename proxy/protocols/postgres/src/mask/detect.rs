//! What is hidden wherever it is found: addresses, and numbers of cards and accounts.
//!
//! Owns the forms. Touches its arguments only. Invariants: a number counts only with a right check digit, so that an
//! order number stays one; what is found is replaced and nothing beside it; a text is gone through once for each form,
//! with a bound on how often a byte is looked at again.

use std::ops::Range;

use sallyport_policy::{Detector, MaskMethod};

use super::value::{self, Key};

/// Of an address (RFC 5321, section 4.5.3.1; RFC 1035, section 2.3.4).
const LONGEST_LOCAL: usize = 64;
const LONGEST_LABEL: usize = 63;
/// Digits of a card's number (ISO/IEC 7812).
const FEWEST_DIGITS: usize = 13;
const MOST_DIGITS: usize = 19;
/// Characters of an account's number (ISO 13616).
const SHORTEST_IBAN: usize = 15;
const LONGEST_IBAN: usize = 34;

/// How long the account numbers of a country are (the registry of ISO 13616, and the countries that use its form without
/// being in it), by its code.
#[rustfmt::skip]
const LENGTHS: &[(&[u8; 2], usize)] = &[
    (b"AD", 24), (b"AE", 23), (b"AL", 28), (b"AO", 25), (b"AT", 20), (b"AZ", 28), (b"BA", 20), (b"BE", 16), (b"BF", 28),
    (b"BG", 22), (b"BH", 22), (b"BI", 27), (b"BJ", 28), (b"BR", 29), (b"BY", 28), (b"CF", 27), (b"CG", 27), (b"CH", 21),
    (b"CI", 28), (b"CM", 27), (b"CR", 22), (b"CV", 25), (b"CY", 28), (b"CZ", 24), (b"DE", 22), (b"DJ", 27), (b"DK", 18),
    (b"DO", 28), (b"DZ", 26), (b"EE", 20), (b"EG", 29), (b"ES", 24), (b"FI", 18), (b"FK", 18), (b"FO", 18), (b"FR", 27),
    (b"GA", 27), (b"GB", 22), (b"GE", 22), (b"GI", 23), (b"GL", 18), (b"GQ", 27), (b"GR", 27), (b"GT", 28), (b"GW", 25),
    (b"HN", 28), (b"HR", 21), (b"HU", 28), (b"IE", 22), (b"IL", 23), (b"IQ", 23), (b"IR", 26), (b"IS", 26), (b"IT", 27),
    (b"JO", 30), (b"KM", 27), (b"KW", 30), (b"KZ", 20), (b"LB", 28), (b"LC", 32), (b"LI", 21), (b"LT", 20), (b"LU", 20),
    (b"LV", 21), (b"LY", 25), (b"MA", 28), (b"MC", 27), (b"MD", 24), (b"ME", 22), (b"MG", 27), (b"MK", 19), (b"ML", 28),
    (b"MN", 20), (b"MR", 27), (b"MT", 31), (b"MU", 30), (b"MZ", 25), (b"NE", 28), (b"NI", 28), (b"NL", 18), (b"NO", 15),
    (b"OM", 23), (b"PK", 24), (b"PL", 28), (b"PS", 29), (b"PT", 25), (b"QA", 29), (b"RO", 24), (b"RS", 22), (b"RU", 33),
    (b"SA", 24), (b"SC", 31), (b"SD", 18), (b"SE", 24), (b"SI", 19), (b"SK", 24), (b"SM", 27), (b"SN", 28), (b"SO", 23),
    (b"ST", 25), (b"SV", 28), (b"TD", 27), (b"TG", 28), (b"TL", 23), (b"TN", 24), (b"TR", 26), (b"UA", 29), (b"VA", 22),
    (b"VG", 24), (b"XK", 20), (b"YE", 30),
];

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
    let next = match detector {
        Detector::Email => address,
        Detector::CreditCard => card,
        Detector::Iban => account,
    };
    let mut found = next(text, 0)?;
    let mut out: Vec<u8> = Vec::with_capacity(text.len());
    let mut kept = 0;
    loop {
        out.extend_from_slice(text.get(kept..found.start).unwrap_or_default());
        replace(method, key, text.get(found.clone()).unwrap_or_default(), &mut out);
        kept = found.end;
        match next(text, kept) {
            Some(another) => found = another,
            None => break,
        }
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

/// The first address of an e-mail from `from` on.
fn address(text: &[u8], from: usize) -> Option<Range<usize>> {
    let mut after = from;
    loop {
        let at = after + memchr::memchr(b'@', text.get(after..)?)?;
        let before = text.get(from..at)?.iter().rev();
        let local = before.take(LONGEST_LOCAL).take_while(|byte| is_local(**byte)).count();
        if local > 0
            && let Some(end) = domain_end(text, at + 1)
        {
            return Some(at - local..end);
        }
        after = at + 1;
    }
}

const fn is_local(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'/'
                | b'='
                | b'?'
                | b'^'
                | b'_'
                | b'`'
                | b'{'
                | b'|'
                | b'}'
                | b'~'
                | b'.'
                | b'-'
        )
}

/// Where the longest domain ends that begins here: labels, and one of two or more letters.
fn domain_end(text: &[u8], start: usize) -> Option<usize> {
    let run = |at: usize, most: usize, is: fn(&u8) -> bool| {
        text.get(at..).unwrap_or_default().iter().take(most).take_while(|byte| is(byte)).count()
    };
    let (mut at, mut end) = (start, None);
    loop {
        let label = run(at, LONGEST_LABEL, |byte| byte.is_ascii_alphanumeric() || *byte == b'-');
        if label == 0 || text.get(at + label) != Some(&b'.') {
            return end;
        }
        at += label + 1;
        let letters = run(at, LONGEST_LABEL, u8::is_ascii_alphabetic);
        if letters >= 2 {
            end = Some(at + letters);
        }
    }
}

/// The first number of a card from `from` on: digits, with at most one space or hyphen between two, of which the last is
/// right, and no digit before or behind.
fn card(text: &[u8], from: usize) -> Option<Range<usize>> {
    // The next group of digits may begin a number, too.
    first_of_runs(text, from, u8::is_ascii_digit, card_end)
}

/// The first of the runs of such bytes from `from` on, not begun before it, where something begins that ends.
fn first_of_runs(
    text: &[u8],
    from: usize,
    is: fn(&u8) -> bool,
    end: fn(&[u8], usize) -> Option<usize>,
) -> Option<Range<usize>> {
    let mut at = from;
    loop {
        at += text.get(at..)?.iter().position(is)?;
        let begins = !at.checked_sub(1).and_then(|before| text.get(before)).is_some_and(is);
        if begins && let Some(end) = end(text, at) {
            return Some(at..end);
        }
        at += text.get(at..)?.iter().position(|byte| !is(byte))?;
    }
}

fn card_end(text: &[u8], start: usize) -> Option<usize> {
    let mut digits = [0; MOST_DIGITS];
    let mut ends = [0; MOST_DIGITS];
    let (mut count, mut next) = (0, start);
    for (digit, end) in digits.iter_mut().zip(&mut ends) {
        if count > 0 && matches!(text.get(next), Some(b' ' | b'-')) {
            next += 1;
        }
        let Some(byte) = text.get(next).filter(|byte| byte.is_ascii_digit()) else { break };
        next += 1;
        count += 1;
        (*digit, *end) = (byte - b'0', next);
    }
    // The longest that has a right check digit; the text may go on with another number.
    (FEWEST_DIGITS..=count).rev().find_map(|length| {
        let end = ends.get(length - 1).copied()?;
        let right = luhn(digits.get(..length)?) && !text.get(end).is_some_and(u8::is_ascii_digit);
        right.then_some(end)
    })
}

/// The check digit of ISO/IEC 7812.
fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, digit)| match (at % 2, u32::from(*digit) * 2) {
            (0, _) => u32::from(*digit),
            (_, doubled) if doubled > 9 => doubled - 9,
            (_, doubled) => doubled,
        })
        .sum();
    sum.is_multiple_of(10) && digits.iter().any(|digit| *digit != 0)
}

/// The first number of an account from `from` on: a country, check digits and as much more as the country's numbers have,
/// with at most one space between two of them; no letter or digit before.
fn account(text: &[u8], from: usize) -> Option<Range<usize>> {
    first_of_runs(text, from, u8::is_ascii_alphanumeric, account_end)
}

fn account_end(text: &[u8], start: usize) -> Option<usize> {
    let head = text.get(start..)?.first_chunk::<4>()?.map(|byte| byte.to_ascii_uppercase());
    let [country @ .., _, _] = &head;
    let [one, two, check @ ..] = &head;
    if !(one.is_ascii_uppercase() && two.is_ascii_uppercase() && check.iter().all(u8::is_ascii_digit)) {
        return None;
    }
    let length = LENGTHS.binary_search_by_key(&country, |(country, _)| country).ok();
    let length = length.and_then(|at| LENGTHS.get(at)).map(|(_, length)| *length);
    let most = length.unwrap_or(LONGEST_IBAN);
    let (mut remainder, mut next, mut found) = (0, start + head.len(), None);
    for count in head.len() + 1..=most {
        if text.get(next) == Some(&b' ') {
            next += 1;
        }
        let Some(byte) = text.get(next).filter(|byte| byte.is_ascii_alphanumeric()) else { break };
        next += 1;
        remainder = mod_97(remainder, *byte);
        // A country that is not known has numbers of any length, which end where the word does.
        let ends = match length {
            Some(length) => count == length,
            None => count >= SHORTEST_IBAN && !text.get(next).is_some_and(u8::is_ascii_alphanumeric),
        };
        // The check digits of ISO 13616: of the number with its head behind it.
        if ends && head.iter().fold(remainder, |remainder, byte| mod_97(remainder, *byte)) == 1 {
            found = Some(next);
        }
    }
    found
}

/// The remainder of a number to which this is added: a letter counts as two digits.
fn mod_97(remainder: u32, byte: u8) -> u32 {
    match byte.to_ascii_uppercase() {
        digit @ b'0'..=b'9' => (remainder * 10 + u32::from(digit - b'0')) % 97,
        letter => (remainder * 100 + u32::from(letter.saturating_sub(b'A')) + 10) % 97,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::bytes::Regex;

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

    /// What is looked for, as regular expressions say it: slow, and plain.
    fn by_expression(detector: Detector, text: &[u8]) -> Vec<Range<usize>> {
        let expression = match detector {
            Detector::Email => r"(?-u)[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,63}",
            Detector::CreditCard => r"(?-u)\d(?:[ -]?\d){12,18}",
            Detector::Iban => r"(?-u)(?i)[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}",
        };
        let expression = Regex::new(expression).unwrap();
        let (mut found, mut from) = (Vec::new(), 0);
        while let Some(candidate) = expression.find_at(text, from) {
            match proven(detector, text, candidate.start(), candidate.as_bytes()) {
                Some(length) => {
                    found.push(candidate.start()..candidate.start() + length);
                    from = candidate.start() + length;
                }
                None => from = candidate.start() + 1,
            }
        }
        found
    }

    fn proven(detector: Detector, text: &[u8], start: usize, candidate: &[u8]) -> Option<usize> {
        let before = start.checked_sub(1).map(|at| text[at]);
        let plain = |end: usize| -> Vec<u8> {
            candidate[..end].iter().filter(|c| c.is_ascii_alphanumeric()).copied().collect()
        };
        match detector {
            Detector::Email => Some(candidate.len()),
            Detector::CreditCard if before.is_some_and(|byte| byte.is_ascii_digit()) => None,
            Detector::CreditCard => (1..=candidate.len()).rev().find(|end| {
                let digits = plain(*end);
                let sum: u32 = digits
                    .iter()
                    .rev()
                    .enumerate()
                    .map(|(at, digit)| {
                        let digit = u32::from(digit - b'0');
                        if at % 2 == 0 { digit } else { digit * 2 / 10 + digit * 2 % 10 }
                    })
                    .sum();
                digits.len() >= 13
                    && candidate[end - 1].is_ascii_digit()
                    && !text.get(start + end).is_some_and(u8::is_ascii_digit)
                    && sum.is_multiple_of(10)
                    && digits.iter().any(|digit| *digit != b'0')
            }),
            Detector::Iban if before.is_some_and(|byte| byte.is_ascii_alphanumeric()) => None,
            Detector::Iban => (15..=candidate.len()).rev().find(|end| {
                let plain = plain(*end);
                let length = LENGTHS.iter().find(|(country, _)| plain.to_ascii_uppercase().starts_with(*country));
                let whole = plain[4..].iter().chain(&plain[..4]);
                let number: String = whole.map(|c| (*c as char).to_digit(36).unwrap().to_string()).collect();
                let rest = number.bytes().fold(0, |rest, digit| (rest * 10 + u32::from(digit - b'0')) % 97);
                let ends = match length {
                    Some((_, length)) => plain.len() == *length,
                    None => plain.len() >= 15 && !text.get(start + end).is_some_and(u8::is_ascii_alphanumeric),
                };
                ends && rest == 1 && candidate[end - 1] != b' '
            }),
        }
    }

    fn all_of(detector: Detector, text: &[u8]) -> Vec<Range<usize>> {
        let next = match detector {
            Detector::Email => address,
            Detector::CreditCard => card,
            Detector::Iban => account,
        };
        std::iter::successors(next(text, 0), |found| next(text, found.end)).collect()
    }

    #[test]
    fn countries_are_in_order_and_their_lengths_possible() {
        assert!(
            LENGTHS.is_sorted() && LENGTHS.iter().all(|(_, length)| (SHORTEST_IBAN..=LONGEST_IBAN).contains(length))
        );
        assert_eq!(redacted("FR1420041010050500013M02606 and NO9386011117947"), "**** and ****");
        // Words that a check digit happens to fit.
        let words = (0..97).filter(|n| redacted(&format!("SK{n:02} words go on and on and on x")).contains("****"));
        assert_eq!(words.count(), 1);
    }

    /// Pieces of what is looked for, and what stands between.
    fn pieces() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            2 => "[0-9]{1,8}",
            2 => "[ @.-]",
            2 => "[A-Za-z]{1,3}",
            1 => Just("4111111111111111".to_owned()),
            1 => Just("4111 1111 1111 1111".to_owned()),
            1 => Just("DE89 3704 0044 0532 0130 00".to_owned()),
            1 => Just("GB29NWBK60161331926819".to_owned()),
            1 => Just("ZZ".to_owned()),
            1 => "[a-z.]{1,70}@[a-z0-9-]{1,66}[.][a-z]{1,66}",
            1 => "[\\x00-\\x7f]{1,4}",
        ];
        proptest::collection::vec(piece, 1..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn what_is_found_is_what_an_expression_says(text in pieces()) {
            for detector in [Detector::Email, Detector::CreditCard, Detector::Iban] {
                prop_assert_eq!(all_of(detector, text.as_bytes()), by_expression(detector, text.as_bytes()), "{:?}", detector);
            }
        }

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
