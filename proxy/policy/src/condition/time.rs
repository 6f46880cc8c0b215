//! Time in conditions: literals, zones, and what a clock and a calendar show.
//!
//! Owns their spelling. Touches the zones that are part of the program, never the machine's. Invariant: a zone is found
//! when a condition is compiled, or the condition is broken.

use jiff::tz::{Offset, TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};

/// What is asked of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    FullYear,
    Month,
    Date,
    DayOfMonth,
    DayOfWeek,
    DayOfYear,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}

impl Part {
    pub(super) fn find(function: &str) -> Option<Self> {
        Some(match function {
            "getFullYear" => Self::FullYear,
            "getMonth" => Self::Month,
            "getDate" => Self::Date,
            "getDayOfMonth" => Self::DayOfMonth,
            "getDayOfWeek" => Self::DayOfWeek,
            "getDayOfYear" => Self::DayOfYear,
            "getHours" => Self::Hours,
            "getMinutes" => Self::Minutes,
            "getSeconds" => Self::Seconds,
            "getMilliseconds" => Self::Milliseconds,
            _ => return None,
        })
    }

    /// As CEL counts: months, days of a month and days of a year from 0, dates from 1, Sunday is 0.
    pub(super) fn of(self, time: Timestamp, zone: &TimeZone) -> i64 {
        let local = zone.to_datetime(time);
        match self {
            Self::FullYear => local.year().into(),
            Self::Month => i64::from(local.month()) - 1,
            Self::Date => local.day().into(),
            Self::DayOfMonth => i64::from(local.day()) - 1,
            Self::DayOfWeek => local.weekday().to_sunday_zero_offset().into(),
            Self::DayOfYear => i64::from(local.day_of_year()) - 1,
            Self::Hours => local.hour().into(),
            Self::Minutes => local.minute().into(),
            Self::Seconds => local.second().into(),
            Self::Milliseconds => local.millisecond().into(),
        }
    }

    /// Of a duration: all of it in that unit.
    pub(super) const fn total(self, span: SignedDuration) -> Option<i64> {
        match self {
            Self::Hours => Some(span.as_secs() / 3600),
            Self::Minutes => Some(span.as_secs() / 60),
            Self::Seconds => Some(span.as_secs()),
            _ => None,
        }
    }
}

/// A zone by its name (`Europe/Amsterdam`) or its offset (`+02:00`).
pub(super) fn zone(name: &str) -> Result<TimeZone, String> {
    if name.starts_with(['+', '-']) {
        let offset = offset(name).ok_or_else(|| format!("{name:?} is no offset: one is written like +02:00"))?;
        return Ok(offset.to_time_zone());
    }
    let zone = TimeZoneDatabase::bundled().get(name).ok();
    // Names are spelled as they are: another program may not take another spelling.
    let zone = zone.filter(|zone| zone.iana_name() == Some(name));
    zone.ok_or_else(|| format!("there is no time zone {name:?}: one is written like Europe/Amsterdam or +02:00"))
}

fn offset(text: &str) -> Option<Offset> {
    let (sign, rest) = match text.split_at_checked(1)? {
        ("-", rest) => (-1, rest),
        (_, rest) => (1, rest),
    };
    let (hours, minutes) = rest.split_once(':')?;
    let two = |digits: &str, below: i32| {
        let plain = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<i32>().ok().filter(|number| plain && *number < below)
    };
    Offset::from_seconds(sign * (two(hours, 24)? * 3600 + two(minutes, 60)? * 60)).ok()
}

/// `2026-12-24T18:00:00Z`, `2026-12-24T18:00:00.5+01:00`.
pub(super) fn timestamp(text: &str) -> Option<Timestamp> {
    let form = |(at, byte): (usize, u8)| match at {
        4 | 7 => byte == b'-',
        10 => byte == b'T',
        13 | 16 => byte == b':',
        0..19 => byte.is_ascii_digit(),
        _ => byte.is_ascii_digit() || matches!(byte, b'.' | b'Z' | b'+' | b'-' | b':'),
    };
    let sound = text.len() >= 20 && text.bytes().enumerate().all(form);
    text.parse().ok().filter(|_| sound)
}

/// `90s`, `1h30m`, `-1.5h`.
pub(super) fn duration(text: &str) -> Option<SignedDuration> {
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanoseconds = 0_i128;
    while !rest.is_empty() {
        let number = rest.get(..rest.find(|c: char| c != '.' && !c.is_ascii_digit())?)?;
        let after = rest.get(number.len()..)?;
        let unit = after.get(..after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len()))?;
        let scale: i128 = match unit {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" => 1000,
            "ns" => 1,
            _ => return None,
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        // Digits enough for any duration there is; neither side may be all of nothing.
        if whole.len() + part.len() == 0 || whole.len() > 12 || part.len() > 9 || part.contains('.') {
            return None;
        }
        let digits = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<i128>().ok() };
        let fraction = digits(part)? * scale / 10_i128.pow(u32::try_from(part.len()).ok()?);
        nanoseconds += digits(whole)? * scale + fraction;
        rest = after.get(unit.len()..)?;
    }
    let seconds = i64::try_from(nanoseconds / 1_000_000_000).ok()?;
    let below = i32::try_from(nanoseconds % 1_000_000_000).ok()?;
    // What CEL and protocol buffers can hold: 10,000 years.
    let span = SignedDuration::new(seconds, below);
    let span = if negative { span.checked_neg()? } else { span };
    (seconds <= 315_576_000_000).then_some(span)
}
