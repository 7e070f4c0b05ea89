//! When to ask next, and for how much. Pure: no clock, and the randomness is passed in.

use std::time::Duration;

use rand::{Rng, RngExt};

use super::settings::Settings;
use crate::{
    backoff::{Backoff, jittered},
    fetch::LONGEST_RETRY_AFTER,
};

/// How much longer each empty answer makes the wait (DESIGN 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IdleGrowth {
    Usual,
    /// While sources wait for a holder: the first poll of one is worth more than the sixth of another that has no news, and a
    /// start or a takeover of thousands is when the machine has no time for both.
    WhileLeasesWait,
}

impl IdleGrowth {
    fn factor(self) -> f64 {
        match self {
            Self::Usual => 1.5,
            Self::WhileLeasesWait => 4.0,
        }
    }
}

/// Idle waits are shortened by up to this part, so that sources that went idle together do not stay in step. Never below
/// `minInterval`, never above `maxIdleInterval`.
const IDLE_JITTER: f64 = 0.1;

/// The first failure waits up to this; each further one up to twice as long.
const FIRST_ERROR_WAIT: Duration = Duration::from_secs(1);

/// The longest wait after reservations that came too late to be spent: the database is slow, and mends in its own time.
const LAST_EXPIRY_WAIT: Duration = Duration::from_secs(10);

/// This many late reservations in a row are no coincidence: three seconds or more of a database that is slow.
const EXPIRIES_TO_BLAME: u32 = 5;

/// The part of its wait by which an idle source may be asked sooner, to share a statement with others (DESIGN 4), and the most
/// of that. PostgreSQL spends as much on waking up for a statement as on thirty of its rows. The connection has been looked at
/// before, and may die meanwhile: then nothing has left, and the source is asked again over another one.
const PATIENT_PART: u32 = 4;
const MOST_PATIENCE: Duration = Duration::from_secs(1);

/// How much a page held, measured by what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fill {
    /// As many as asked for, or more: there may be more.
    Full,
    /// Some events, and then the source had no more.
    Partial,
    /// No new event.
    Empty,
}

/// The pace of one source.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    min_interval: Duration,
    max_idle_interval: Duration,
    max_error_interval: Duration,
    batch_size: u32,
    idle: Duration,
    failures: u32,
    /// Reservations in a row that came too late to be spent.
    expiries: u32,
    limit: u32,
}

impl Pace {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            min_interval: settings.min_interval,
            max_idle_interval: settings.max_idle_interval,
            max_error_interval: settings.max_error_interval,
            batch_size: settings.batch_size,
            idle: settings.min_interval,
            failures: 0,
            expiries: 0,
            limit: settings.batch_size,
        }
    }

    /// How long after the first byte of a page the next request is due.
    pub(super) fn after_page(&mut self, fill: Fill, growth: IdleGrowth, rng: &mut impl Rng) -> Duration {
        self.failures = 0;
        self.expiries = 0;
        self.limit = self.limit.saturating_mul(2).min(self.batch_size);
        match fill {
            Fill::Full | Fill::Partial => {
                self.idle = self.min_interval;
                self.min_interval
            }
            Fill::Empty => {
                self.idle = self.idle.mul_f64(growth.factor()).min(self.max_idle_interval);
                let shortened = self.idle.mul_f64(1.0 - IDLE_JITTER * rng.random::<f64>());
                shortened.max(self.min_interval)
            }
        }
    }

    /// How long after a failure the next request is due: exponential with full jitter, never less than what the source
    /// asked for.
    pub(super) fn after_failure(&mut self, retry_after: Option<Duration>, rng: &mut impl Rng) -> Duration {
        let longest = Backoff::new(FIRST_ERROR_WAIT, self.max_error_interval).after(self.failures);
        self.expiries = 0;
        self.failures = self.failures.saturating_add(1);
        let wait = longest.mul_f64(rng.random::<f64>()).max(self.min_interval);
        wait.max(Self::obeyed(retry_after))
    }

    /// How long after a reservation that came too late to be spent the next one is due. Without a growing wait all sources
    /// of a slow database reserve and abort at full speed, and keep it slow. The jitter spreads them, and keeps half.
    pub(super) fn after_expiry(&mut self, rng: &mut impl Rng) -> Duration {
        let longest = Backoff::new(self.min_interval, LAST_EXPIRY_WAIT).after(self.expiries);
        self.expiries = self.expiries.saturating_add(1);
        jittered(longest, rng).max(self.min_interval)
    }

    /// Whether so many came too late that the database is to be blamed.
    pub(super) fn keeps_expiring(&self) -> bool {
        self.expiries >= EXPIRIES_TO_BLAME
    }

    /// The part of a `Retry-After` that is obeyed.
    pub(super) fn obeyed(retry_after: Option<Duration>) -> Duration {
        retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER)
    }

    /// How many events to ask for.
    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    /// The same failure again at the same cursor is to cost one event, not a page. Good pages double the limit again.
    pub(super) fn ask_for_one(&mut self) {
        self.limit = 1;
    }

    /// A page that does not fit the cursor is no dearer whole: of one event nobody can tell where it begins.
    pub(super) fn ask_for_all(&mut self) {
        self.limit = self.batch_size;
    }

    /// The next failure counts as the first.
    pub(super) fn forgive(&mut self) {
        self.failures = 0;
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// How long the reservation of an idle source may wait for others. It is asked for that much sooner, so that no wait gets
    /// longer than `maxIdleInterval`; and never sooner than after `minInterval`.
    pub(super) fn patience(&self) -> Duration {
        (self.idle.saturating_sub(self.min_interval) / 2).min(self.idle / PATIENT_PART).min(MOST_PATIENCE)
    }

    /// Whether the next request is due as soon as the gate lets it.
    pub(super) fn is_saturated(&self) -> bool {
        self.failures == 0 && self.idle == self.min_interval
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::{event::Cursor, store::Epoch};

    fn settings() -> Settings {
        Settings {
            min_interval: Duration::from_millis(200),
            max_idle_interval: Duration::from_secs(5),
            max_error_interval: Duration::from_mins(5),
            batch_size: 1000,
            limit_is_sent: true,
            max_response_bytes: 1 << 24,
            epoch: Epoch(0),
            start: Cursor::Start,
            id_path: "$.id".to_owned(),
        }
    }

    fn rng(seed: u64) -> StdRng {
        StdRng::seed_from_u64(seed)
    }

    #[test]
    fn a_page_with_events_is_followed_by_the_next_request_after_min_interval() {
        let mut pace = Pace::new(&settings());
        for fill in [Fill::Full, Fill::Partial] {
            assert_eq!(pace.after_page(fill, IdleGrowth::Usual, &mut rng(1)), Duration::from_millis(200));
            assert!(pace.is_saturated());
        }
    }

    #[test]
    fn empty_answers_slow_the_pace_down_and_the_first_event_brings_it_back() {
        let mut pace = Pace::new(&settings());
        let mut last = Duration::ZERO;
        for _ in 0..6 {
            let wait = pace.after_page(Fill::Empty, IdleGrowth::Usual, &mut rng(1));
            assert!(wait > last, "{wait:?} after {last:?}");
            last = wait;
        }
        for _ in 0..20 {
            last = pace.after_page(Fill::Empty, IdleGrowth::Usual, &mut rng(1));
        }
        assert!(last > Duration::from_millis(4500) && last <= Duration::from_secs(5), "{last:?}");
        assert!(!pace.is_saturated());
        assert_eq!(pace.after_page(Fill::Partial, IdleGrowth::Usual, &mut rng(1)), Duration::from_millis(200));
    }

    #[test]
    fn a_source_without_news_leaves_the_machine_to_sources_that_wait_for_a_holder() {
        let asked_within = |growth| {
            let (mut pace, mut asked, mut at) = (Pace::new(&settings()), 0, Duration::ZERO);
            while at < Duration::from_secs(4) {
                asked += 1;
                at += pace.after_page(Fill::Empty, growth, &mut rng(1));
            }
            asked
        };
        assert_eq!((asked_within(IdleGrowth::Usual), asked_within(IdleGrowth::WhileLeasesWait)), (6, 3));
    }

    #[test]
    fn the_limit_falls_to_one_and_doubles_back_with_good_pages() {
        let mut pace = Pace::new(&settings());
        pace.ask_for_one();
        assert_eq!(pace.limit(), 1);
        pace.after_page(Fill::Full, IdleGrowth::Usual, &mut rng(1));
        assert_eq!(pace.limit(), 2);
        for _ in 0..20 {
            pace.after_page(Fill::Full, IdleGrowth::Usual, &mut rng(1));
        }
        assert_eq!(pace.limit(), 1000);
    }

    proptest! {
        #[test]
        fn waits_stay_within_their_bounds(seed: u64, answers in proptest::collection::vec(0..5u8, 1..60)) {
            let settings = settings();
            let mut pace = Pace::new(&settings);
            let mut rng = rng(seed);
            for answer in answers {
                let (wait, longest) = match answer {
                    0 => (pace.after_page(Fill::Empty, IdleGrowth::Usual, &mut rng), settings.max_idle_interval),
                    4 => (pace.after_page(Fill::Empty, IdleGrowth::WhileLeasesWait, &mut rng), settings.max_idle_interval),
                    1 => (pace.after_page(Fill::Full, IdleGrowth::Usual, &mut rng), settings.min_interval),
                    2 => (pace.after_page(Fill::Partial, IdleGrowth::Usual, &mut rng), settings.min_interval),
                    _ => (pace.after_failure(None, &mut rng), settings.max_error_interval),
                };
                prop_assert!(wait >= settings.min_interval && wait <= longest, "{answer}: {wait:?}");
            }
        }

        #[test]
        fn retry_after_is_obeyed_up_to_a_day(seed: u64, seconds in 0..1_000_000u64) {
            let mut pace = Pace::new(&settings());
            let asked = Duration::from_secs(seconds);
            let wait = pace.after_failure(Some(asked), &mut rng(seed));
            prop_assert!(wait >= asked.min(LONGEST_RETRY_AFTER));
            prop_assert!(wait <= LONGEST_RETRY_AFTER);
        }
    }

    #[test]
    fn reservations_that_expire_in_a_row_come_less_and_less_often_and_a_page_ends_that() {
        let mut pace = Pace::new(&settings());
        let waits: Vec<_> = (0..30).map(|_| pace.after_expiry(&mut rng(1))).collect();
        assert_eq!(waits[0], Duration::from_millis(200));
        assert!(waits[5] > Duration::from_secs(3), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait >= Duration::from_millis(200) && *wait <= LAST_EXPIRY_WAIT), "{waits:?}");
        let others: Vec<_> = (0..50).map(|seed| pace.clone().after_expiry(&mut rng(seed))).collect();
        let early = others.iter().filter(|wait| **wait < Duration::from_secs(7)).count();
        assert!((10..40).contains(&early), "sources that expired together do not come back together: {others:?}");
        pace.after_page(Fill::Partial, IdleGrowth::Usual, &mut rng(1));
        assert_eq!(pace.after_expiry(&mut rng(1)), Duration::from_millis(200));
    }

    #[test]
    fn the_jitter_of_errors_is_full() {
        let mut waits: Vec<_> = (0..200)
            .map(|seed| {
                let mut pace = Pace::new(&settings());
                (0..12).map(|_| pace.after_failure(None, &mut rng(seed))).last().expect("twelve failures")
            })
            .collect();
        waits.sort_unstable();
        assert!(waits[20] < Duration::from_mins(2), "the shortest waits are short: {:?}", waits[20]);
        assert!(waits[180] > Duration::from_mins(3), "the longest are long: {:?}", waits[180]);
    }
}
