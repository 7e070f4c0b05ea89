//! The events of a fake source: every one is computed from its index, so that anybody can say what should be stored.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Multiplier that scrambles opaque ids. Odd, so it has an inverse modulo 2^64.
const SCRAMBLE: u64 = 0x9E37_79B9_7F4A_7C15;
/// Its inverse.
const UNSCRAMBLE: u64 = 0xF1DE_83E1_9937_733D;

/// How ids look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum IdStyle {
    /// `1`, `2`, `3`, …
    #[default]
    Number,
    /// Texts that do not sort in the order of the feed.
    Opaque,
}

/// The feed of one source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Feed {
    /// The name in the URL and in the events.
    pub name: String,
    #[serde(default)]
    pub ids: IdStyle,
    /// Events that exist from the beginning.
    pub initial: u64,
    /// New events per second after that.
    #[serde(default)]
    pub per_second: f64,
    /// Never more than this many.
    pub total: u64,
    /// The rough size of an event in bytes.
    pub event_bytes: usize,
}

impl Feed {
    /// How many events exist `elapsed_us` after the beginning. Index 1 is the first event.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rate needs no more"
    )]
    pub fn available(&self, elapsed_us: u64) -> u64 {
        let grown = (elapsed_us as f64 / 1e6 * self.per_second) as u64;
        (self.initial + grown).min(self.total)
    }

    /// The id of an event, as it stands in `afterId` and in the store.
    #[must_use]
    pub fn id(&self, index: u64) -> String {
        match self.ids {
            IdStyle::Number => index.to_string(),
            IdStyle::Opaque => format!("e{:016x}", index.wrapping_mul(SCRAMBLE)),
        }
    }

    /// The index behind an id; 0 for no id. `None` when the id is not one of this feed.
    #[must_use]
    pub fn index(&self, id: &str) -> Option<u64> {
        match self.ids {
            _ if id.is_empty() => Some(0),
            IdStyle::Number => id.parse().ok(),
            IdStyle::Opaque => Some(u64::from_str_radix(id.strip_prefix('e')?, 16).ok()?.wrapping_mul(UNSCRAMBLE)),
        }
    }

    /// One event as it is sent, byte for byte.
    #[must_use]
    pub fn event(&self, index: u64) -> String {
        let id = match self.ids {
            IdStyle::Number => self.id(index),
            IdStyle::Opaque => format!("\"{}\"", self.id(index)),
        };
        let mut event = format!(
            "{{\"id\":{id},\"type\":\"order.placed\",\"occurredAt\":\"2026-11-22T10:{:02}:{:02}Z\",\"subject\":\"{}-{}\",\"note\":\"",
            index / 60 % 60,
            index % 60,
            self.name,
            index % 97,
        );
        // Not all the same text: compression and padding bugs would hide behind it.
        let mut seed = index.wrapping_mul(SCRAMBLE) | 1;
        while event.len() + 2 < self.event_bytes {
            event.push(char::from(b'a' + (seed % 26) as u8));
            seed = seed.rotate_right(5).wrapping_mul(SCRAMBLE);
        }
        event.push_str("\"}");
        event
    }

    /// The SHA-256 of an event's bytes, in hex.
    #[must_use]
    pub fn fingerprint(&self, index: u64) -> String {
        fingerprint(self.event(index).as_bytes())
    }
}

/// The SHA-256 of a payload, in hex.
#[must_use]
pub fn fingerprint(payload: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(payload).iter().fold(String::with_capacity(64), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a String takes every write");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(ids: IdStyle) -> Feed {
        Feed { name: "orders".into(), ids, initial: 10, per_second: 2.0, total: 20, event_bytes: 300 }
    }

    #[test]
    fn an_id_leads_back_to_its_event() {
        for ids in [IdStyle::Number, IdStyle::Opaque] {
            let feed = feed(ids);
            for index in [1, 2, 999, 1_000_000] {
                assert_eq!(feed.index(&feed.id(index)), Some(index));
            }
            assert_eq!(feed.index(""), Some(0));
        }
    }

    #[test]
    fn a_feed_grows_with_time_up_to_its_total() {
        let feed = feed(IdStyle::Number);
        assert_eq!([0, 1_000_000, 60_000_000].map(|at| feed.available(at)), [10, 12, 20]);
    }

    #[test]
    fn an_event_is_json_of_about_the_asked_size() {
        let event = feed(IdStyle::Opaque).event(7);
        assert_eq!(event.len(), 300);
        let parsed: serde_json::Value = serde_json::from_str(&event).unwrap();
        assert_eq!(parsed["type"], "order.placed");
    }
}
