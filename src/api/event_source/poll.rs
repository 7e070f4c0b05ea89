//! How often and how much is asked.

#![expect(unreachable_pub, reason = "KubeSchema derives a second, private type with the visibility of the first")]

use std::time;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::api::Duration;

/// No source is ever asked more often (DESIGN 1), whatever an object says.
pub const LEAST_MIN_INTERVAL: time::Duration = time::Duration::from_millis(200);

/// How often and how much is asked.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("duration(self.minInterval) >= duration('200ms')")
        .message("`minInterval` must be greater than or equal to 200ms")
        .field_path(".minInterval"),
    validation = Rule::new("duration(self.maxIdleInterval) >= duration(self.minInterval)")
        .message("`maxIdleInterval` must be greater than or equal to `minInterval`; where it is not given it is 5s")
        .field_path(".maxIdleInterval"),
    validation = Rule::new("duration(self.maxIdleInterval) <= duration('24h')")
        .message("`maxIdleInterval` must be no more than 24h")
        .field_path(".maxIdleInterval"),
    validation = Rule::new("duration(self.maxErrorInterval) >= duration(self.minInterval)")
        .message("`maxErrorInterval` must be greater than or equal to `minInterval`; where it is not given it is 5m")
        .field_path(".maxErrorInterval"),
    validation = Rule::new("duration(self.maxErrorInterval) <= duration('24h')")
        .message("`maxErrorInterval` must be no more than 24h")
        .field_path(".maxErrorInterval")
)]
pub struct Poll {
    /// Least time between the starts of two requests to this source, across all replicas and with every retry counted.
    /// A duration such as 200ms or 1m30s; at least 200ms. Default: 200ms.
    #[serde(default = "default_min_interval")]
    pub min_interval: Duration,
    /// While polls bring nothing, the interval grows by half each time, from `minInterval` up to this. A poll may come up
    /// to two fifths sooner, never before `minInterval`, so that sources spread out and share statements. A duration;
    /// from `minInterval` to 24h. Default: 5s.
    #[serde(default = "default_max_idle_interval")]
    pub max_idle_interval: Duration,
    /// While polls fail, the interval doubles, with jitter, up to this; a longer Retry-After is obeyed. A duration; from
    /// `minInterval` to 24h. Default: 5m.
    #[serde(default = "default_max_error_interval")]
    pub max_error_interval: Duration,
    /// Most events asked for in one request, sent in `http.limitParam`. A source that does not sort its answers by id must
    /// not send fewer than this while it has more: a shorter page of such a source is taken for everything there is, and
    /// smaller ids that it left out are never asked for. Set it to the source's own limit or below. Events; 1 to 10000.
    /// Default: 1000.
    #[serde(default = "default_batch_size")]
    #[schemars(range(min = 1, max = 10_000))]
    pub batch_size: i32,
}

fn default_min_interval() -> Duration {
    LEAST_MIN_INTERVAL.into()
}

fn default_max_idle_interval() -> Duration {
    time::Duration::from_secs(5).into()
}

fn default_max_error_interval() -> Duration {
    time::Duration::from_mins(5).into()
}

fn default_batch_size() -> i32 {
    1000
}

impl Default for Poll {
    fn default() -> Self {
        Self {
            min_interval: default_min_interval(),
            max_idle_interval: default_max_idle_interval(),
            max_error_interval: default_max_error_interval(),
            batch_size: default_batch_size(),
        }
    }
}

impl Poll {
    /// The least time between two request starts. Never under [`LEAST_MIN_INTERVAL`]: an object that was stored while the
    /// rules were another CRD's must not break the promise.
    #[must_use]
    pub fn min_interval(&self) -> time::Duration {
        time::Duration::from(self.min_interval).max(LEAST_MIN_INTERVAL)
    }

    /// Where idle back-off ends; never under [`Poll::min_interval`].
    #[must_use]
    pub fn max_idle_interval(&self) -> time::Duration {
        time::Duration::from(self.max_idle_interval).max(self.min_interval())
    }

    /// Where error back-off ends; never under [`Poll::min_interval`].
    #[must_use]
    pub fn max_error_interval(&self) -> time::Duration {
        time::Duration::from(self.max_error_interval).max(self.min_interval())
    }

    /// The most events of one request; at least 1.
    #[must_use]
    pub fn batch_size(&self) -> u32 {
        u32::try_from(self.batch_size).unwrap_or(1).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_object_makes_us_ask_more_often_than_every_200_ms() {
        let hasty = Poll {
            min_interval: time::Duration::from_millis(1).into(),
            max_idle_interval: time::Duration::ZERO.into(),
            max_error_interval: time::Duration::ZERO.into(),
            batch_size: -1,
        };
        assert_eq!(hasty.min_interval(), LEAST_MIN_INTERVAL);
        assert_eq!(hasty.max_idle_interval(), LEAST_MIN_INTERVAL);
        assert_eq!(hasty.max_error_interval(), LEAST_MIN_INTERVAL);
        assert_eq!(hasty.batch_size(), 1);
    }
}
