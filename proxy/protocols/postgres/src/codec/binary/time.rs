//! Days and times in binary form.
//!
//! Owns their reading. Touches its arguments only. Invariant: as in `binary.rs`; years that calendars write in several ways (before
//! the first, beyond the 9999th) are not read.

use jiff::Span;
use jiff::civil::date as day;

const MICROS: i64 = 1_000_000;
const DAY: i64 = 24 * 60 * 60 * MICROS;

/// Days since 2000, or beyond all.
pub(super) fn date(bytes: &[u8]) -> Option<String> {
    match i32::from_be_bytes(bytes.try_into().ok()?) {
        i32::MAX => Some("infinity".to_owned()),
        i32::MIN => Some("-infinity".to_owned()),
        days => written(days.into()),
    }
}

/// Microseconds since midnight, up to the next.
pub(super) fn time(bytes: &[u8]) -> Option<String> {
    let micros = i64::from_be_bytes(bytes.try_into().ok()?);
    (0..=DAY).contains(&micros).then(|| clock(micros))
}

/// Microseconds since 2000, on a clock in no place.
pub(super) fn timestamp(bytes: &[u8]) -> Option<String> {
    match i64::from_be_bytes(bytes.try_into().ok()?) {
        i64::MAX => Some("infinity".to_owned()),
        i64::MIN => Some("-infinity".to_owned()),
        micros => Some(format!("{} {}", written(micros.div_euclid(DAY))?, clock(micros.rem_euclid(DAY)))),
    }
}

/// Microseconds since 2000 in UTC: written so, whatever the session's zone.
pub(super) fn timestamptz(bytes: &[u8]) -> Option<String> {
    timestamp(bytes).map(|text| if text.ends_with("infinity") { text } else { format!("{text}+00") })
}

fn written(days: i64) -> Option<String> {
    let span = Span::new().try_days(days).ok()?;
    let date = day(2000, 1, 1).checked_add(span).ok()?;
    (date.year() >= 1).then(|| date.to_string())
}

fn clock(micros: i64) -> String {
    let (seconds, rest) = (micros / MICROS, micros % MICROS);
    let fraction = if rest == 0 { String::new() } else { format!(".{rest:06}") };
    format!("{:02}:{:02}:{:02}{fraction}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_times_with_all_their_ends() {
        let of = |days: i32| date(&days.to_be_bytes());
        assert_eq!(of(0).unwrap(), "2000-01-01");
        assert_eq!(of(-1).unwrap(), "1999-12-31");
        assert_eq!(of(59).unwrap(), "2000-02-29");
        assert_eq!(of(i32::MAX).unwrap(), "infinity");
        assert_eq!(of(i32::MIN).unwrap(), "-infinity");
        assert_eq!(of(-730_119).unwrap(), "0001-01-01");
        assert_eq!(of(2_921_939).unwrap(), "9999-12-31");
        assert!(of(-730_120).is_none() && of(2_921_940).is_none() && of(i32::MAX - 1).is_none());

        let of = |micros: i64| time(&micros.to_be_bytes());
        assert_eq!(of(0).unwrap(), "00:00:00");
        assert_eq!(of(DAY - 1).unwrap(), "23:59:59.999999");
        assert_eq!(of(DAY).unwrap(), "24:00:00");
        assert!(of(-1).is_none() && of(DAY + 1).is_none());

        let of = |micros: i64| timestamp(&micros.to_be_bytes());
        assert_eq!(of(-1).unwrap(), "1999-12-31 23:59:59.999999");
        assert_eq!(of(DAY + 1_500_000).unwrap(), "2000-01-02 00:00:01.500000");
        assert_eq!(of(i64::MAX).unwrap(), "infinity");
        assert!(of(i64::MAX - 1).is_none() && of(i64::MIN + 1).is_none());
        assert_eq!(timestamptz(&0_i64.to_be_bytes()).unwrap(), "2000-01-01 00:00:00+00");
        assert_eq!(timestamptz(&i64::MIN.to_be_bytes()).unwrap(), "-infinity");
        assert!(date(&[0; 8]).is_none() && time(&[0; 4]).is_none() && timestamp(&[]).is_none());
    }
}
