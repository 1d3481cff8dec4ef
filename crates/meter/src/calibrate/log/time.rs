//! Times as meters and loggers write them.

use wattle_runlog::clock::parse_wall;

/// 2001 and 2261: a number of seconds before the one or after the other is no time of a log, nor of 64-bit nanoseconds.
const SECONDS: std::ops::Range<f64> = 1e9..9.2e9;

/// A time in nanoseconds since 1970 UTC, and whether its zone is known: RFC 3339, a date and a time without a zone, or
/// Unix time in seconds, milliseconds, microseconds or nanoseconds.
pub(super) fn wall_ns(text: &str, utc_offset_s: Option<i32>) -> Option<(i64, bool)> {
    let text = text.trim();
    match text.parse::<f64>() {
        Ok(number) => unix_ns(number).map(|ns| (ns, true)),
        Err(_) => parse_wall(text, utc_offset_s.unwrap_or(0)),
    }
}

/// Unix time of any of the usual units.
pub(super) fn unix_ns(number: f64) -> Option<i64> {
    let units = [1.0, 1e3, 1e6, 1e9];
    let unit = units.into_iter().find(|unit| SECONDS.contains(&(number / unit)))?;
    // Whole and broken seconds apart: together they need more than 53 bits.
    let seconds = (number / unit).floor();
    let rest = number - seconds * unit;
    Some(seconds as i64 * 1_000_000_000 + (rest * (1e9 / unit)).round() as i64)
}

/// What a message says about a text that is not a time.
pub(super) fn expected(text: &str) -> String {
    format!("expected a time such as 2026-11-23T15:00:00Z or Unix seconds, got {text:?}")
}

/// Seconds that a clock is ahead of UTC, from `+02:00`, `-5` or `Z`.
///
/// # Errors
/// If `text` is none of them, with what was expected.
pub fn utc_offset(text: &str) -> Result<i32, String> {
    let fault = || format!("expected an offset from UTC such as +02:00, got {text:?}");
    if text.eq_ignore_ascii_case("z") || text.eq_ignore_ascii_case("utc") {
        return Ok(0);
    }
    let (sign, digits) = match text.split_at_checked(1) {
        Some(("-", digits)) => (-1, digits),
        Some(("+", digits)) => (1, digits),
        _ => (1, text),
    };
    let (hours, minutes) = digits.split_once(':').unwrap_or((digits, "0"));
    let number = |digits: &str, most: i32| {
        let is_number = !digits.is_empty() && digits.len() <= 2 && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse::<i32>().ok().filter(|n| is_number && *n <= most).ok_or_else(fault)
    };
    Ok(sign * (number(hours, 14)? * 3600 + number(minutes, 59)? * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unix_times_are_read_in_every_unit_to_the_microsecond() {
        let ns = 1_790_000_000_250_000_000;
        for number in
            [1_790_000_000.25, 1_790_000_000_250.0, 1_790_000_000_250_000.0, 1_790_000_000_250_000_000.0]
        {
            assert!((unix_ns(number).unwrap() - ns).abs() < 1_000, "{number}");
        }
        for number in [0.0, 17.0, -1.79e9, 9e8, 9.5e9, 9.5e18, 1e19, f64::NAN, f64::INFINITY] {
            assert_eq!(unix_ns(number), None, "{number}");
        }
    }

    #[test]
    fn an_offset_has_hours_and_minutes() {
        let read = ["+02:00", "2", "-5", "+05:30", "Z", "UTC"].map(|text| utc_offset(text).unwrap());
        assert_eq!(read, [7200, 7200, -18_000, 19_800, 0, 0]);
        for text in ["", "+", "CET", "+25:00", "2:75", "+2:-30", "ä"] {
            assert!(utc_offset(text).is_err(), "{text}");
        }
    }
}
