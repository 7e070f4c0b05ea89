use std::{borrow::Cow, fmt, str::FromStr, time};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What CEL and the parser accept (GEP-2257); a strict subset of Go's durations.
const PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";
/// Four parts of five digits and a unit: the longest text that [`PATTERN`] takes.
const LONGEST: usize = 28;

/// Milliseconds per unit, largest unit first.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A duration as users write it: `200ms`, `5s`, `1h30m` (GEP-2257).
///
/// `kube::core::Duration` prints one and a half seconds as `1.5s`, which the API server refuses to read back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Duration {
    milliseconds: u64,
}

/// A text is no GEP-2257 duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be a duration such as 200ms, 5s or 1h30m: up to four numbers of at most five digits, each with h, m, s or ms"
)]
pub struct ParseDurationError;

/// Rounds up to whole milliseconds, so that an interval never gets shorter on its way through an object.
impl From<time::Duration> for Duration {
    fn from(duration: time::Duration) -> Self {
        let milliseconds = duration.as_nanos().div_ceil(1_000_000);
        Self { milliseconds: u64::try_from(milliseconds).unwrap_or(u64::MAX) }
    }
}

impl From<Duration> for time::Duration {
    fn from(duration: Duration) -> Self {
        Self::from_millis(duration.milliseconds)
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.milliseconds == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.milliseconds;
        for (unit, size) in UNITS {
            if rest >= size {
                write!(f, "{}{unit}", rest / size)?;
                rest %= size;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Duration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut milliseconds = 0;
        let mut rest = text;
        for part in 0.. {
            if rest.is_empty() && part > 0 {
                break;
            }
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, after) = rest.split_at(digits);
            let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, after) = after.split_at(letters);
            let size = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, size)| size);
            match (number.parse::<u64>(), size) {
                (Ok(number), Some(size)) if digits <= 5 && part < 4 => milliseconds += number * size,
                _ => return Err(ParseDurationError),
            }
            rest = after;
        }
        Ok(Self { milliseconds })
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl schemars::JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::generate::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "maxLength": LONGEST, "pattern": PATTERN })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_duration_reads_as_users_write_it() {
        let read = |text: &str| text.parse::<Duration>().map(time::Duration::from);
        assert_eq!(read("200ms"), Ok(time::Duration::from_millis(200)));
        assert_eq!(read("1h30m"), Ok(time::Duration::from_mins(90)));
        assert_eq!(read("90s"), Ok(time::Duration::from_secs(90)));
        for text in ["", "5", "s", "1.5s", "-1s", "5d", "100000s", "1s1s1s1s1s", "5 s", "5s "] {
            assert_eq!(read(text), Err(ParseDurationError), "{text:?}");
        }
    }

    #[test]
    fn a_duration_is_written_so_that_the_api_server_takes_it() {
        let written = |milliseconds| Duration::from(time::Duration::from_millis(milliseconds)).to_string();
        assert_eq!(written(0), "0s");
        assert_eq!(written(200), "200ms");
        assert_eq!(written(1_500), "1s500ms");
        assert_eq!(written(300_000), "5m");
        assert_eq!(Duration::from(time::Duration::from_nanos(1)).to_string(), "1ms", "never rounded down to nothing");
    }

    proptest! {
        #[test]
        fn a_duration_survives_the_round_trip(milliseconds in 0_u64..=4 * 99_999 * 3_600_000 / 4) {
            let duration = Duration { milliseconds };
            let text = duration.to_string();
            prop_assert!(text.len() <= LONGEST);
            prop_assert_eq!(text.parse::<Duration>(), Ok(duration));
        }
    }
}
