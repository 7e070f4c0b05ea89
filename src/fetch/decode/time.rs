//! When an event happened, read from what the source says.

use std::borrow::Cow;

use jiff::Timestamp;

/// 0000-01-01T00:00:00Z, the first second of RFC 3339; PostgreSQL goes further back, jiff does too.
const FIRST_SECOND: i64 = -62_167_219_200;

/// How many digits of a fraction are kept, and jiff can read.
const DIGITS: usize = 9;

/// Whole numbers from here on are milliseconds: as seconds this is the year 5138, as milliseconds March 1973.
const FIRST_MILLISECOND: u64 = 100_000_000_000;

/// Reads the raw JSON value at `mapping.timePath`: an RFC 3339 text, or a whole number of seconds since 1970, or of
/// milliseconds from 100,000,000,000 on. Of a fraction of a second, nanoseconds are kept.
///
/// Anything else is `None`: an event is worth more than its time, and a field that nothing depends on must not stop the
/// cursor. So is a time before the year 0000, and one after 9999-12-30T22:00:00Z, where jiff ends.
pub(super) fn occurred_at(raw: &str) -> Option<Timestamp> {
    let time = if let Some(text) = super::text::string(raw) {
        cut_fraction(&text).parse().ok()?
    } else {
        let number: i64 = raw.parse().ok()?;
        let read = if number.unsigned_abs() < FIRST_MILLISECOND {
            Timestamp::from_second(number)
        } else {
            Timestamp::from_millisecond(number)
        };
        read.ok()?
    };
    (time.as_second() >= FIRST_SECOND).then_some(time)
}

/// Without the digits of a fraction that are not kept. The rest is judged as it stands.
fn cut_fraction(text: &str) -> Cow<'_, str> {
    let Some((seconds, rest)) = text.split_once('.') else { return Cow::Borrowed(text) };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    if digits <= DIGITS {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{seconds}.{}{}", &rest[..DIGITS], &rest[digits..]))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(r#""2026-11-22T09:14:03Z""#, "2026-11-22T09:14:03Z")]
    #[case(r#""2026-11-22t09:14:03.123456789+02:00""#, "2026-11-22T07:14:03.123456789Z")]
    #[case(r#""2026\u002d11-22T09:14:03z""#, "2026-11-22T09:14:03Z")]
    #[case(r#""0000-01-01T00:00:00Z""#, "0000-01-01T00:00:00Z")]
    #[case(r#""2016-12-31T23:59:60Z""#, "2016-12-31T23:59:59Z")]
    #[case(r#""2026-11-22T09:14:03.1234567891Z""#, "2026-11-22T09:14:03.123456789Z")]
    #[case(r#""2026-11-22T09:14:03.000000000000000000000000000009-05:30""#, "2026-11-22T14:44:03Z")]
    #[case("1795338843", "2026-11-22T09:14:03Z")]
    #[case("1795338843123", "2026-11-22T09:14:03.123Z")]
    #[case("0", "1970-01-01T00:00:00Z")]
    #[case("-1", "1969-12-31T23:59:59Z")]
    fn a_time_is_rfc_3339_or_a_count_since_1970(#[case] raw: &str, #[case] time: &str) {
        assert_eq!(occurred_at(raw).map(|time| time.to_string()).as_deref(), Some(time));
    }

    #[rstest]
    #[case(r#""yesterday""#)]
    #[case(r#""2026-11-22T09:14:03""#)]
    #[case(r#""2026-11-22""#)]
    #[case(r#""-009000-01-01T00:00:00Z""#)]
    #[case(r#""+012026-01-01T00:00:00Z""#)]
    #[case(r#""2026-11-22T09:14:03.1234567891x9Z""#)]
    #[case(r#""2026-11-22T09:14:03.1234567891""#)]
    #[case(r#""2026-11-22T09:14:03.Z""#)]
    #[case(r#""9999-12-31T23:59:59Z""#)]
    #[case(r#""\ud800""#)]
    #[case("1795338843.5")]
    #[case("9999999999999999")]
    #[case("9999999999999999999999999")]
    #[case("-99999999999999")]
    #[case("null")]
    #[case("true")]
    #[case("{}")]
    fn what_is_no_time_leaves_the_event_without_one(#[case] raw: &str) {
        assert_eq!(occurred_at(raw), None);
    }
}
