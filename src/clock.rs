//! This machine's clocks, where a wait that it slept through must not be missed.

use std::time::Duration;

use tokio::time::Instant;

/// One reading of the clocks of this machine.
///
/// The monotonic clock, by which timers and [`Instant`] go, stands still while Linux is suspended (`clock_gettime(2)`); the rest
/// of the world goes on. What may be done only until an instant is measured with both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub at: Instant,
    /// For how long the machine had been suspended since it started. Only the difference of two readings means anything.
    pub slept: Duration,
}

impl Moment {
    /// The monotonic clock is read last: a thread that is held up in here is late by it, and has not slept too little.
    #[must_use]
    pub fn now() -> Self {
        let slept = slept();
        Self { at: Instant::now(), slept }
    }

    /// The time since `earlier`, with what was slept through: it goes on in a suspended machine, and nobody can set it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.at.saturating_duration_since(earlier.at) + self.slept_since(earlier)
    }

    /// How much of the time since `earlier` the monotonic clock does not show.
    #[must_use]
    pub fn slept_since(self, earlier: Self) -> Duration {
        self.slept.saturating_sub(earlier.slept)
    }
}

#[cfg(target_os = "linux")]
fn slept() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    let with_sleep = read(ClockId::Boottime);
    with_sleep.saturating_sub(read(ClockId::Monotonic))
}

/// Elsewhere Headgate is developed, not run.
#[cfg(not(target_os = "linux"))]
fn slept() -> Duration {
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_was_not_suspended_has_slept_through_nothing() {
        let first = Moment::now();
        std::thread::sleep(Duration::from_millis(20));
        let second = Moment::now();
        assert!(second.at - first.at >= Duration::from_millis(20));
        assert!(second.slept_since(first) < Duration::from_millis(5), "{:?}", second.slept_since(first));
    }

    #[test]
    fn the_time_since_a_moment_goes_on_while_the_machine_sleeps() {
        let first = Moment::now();
        let hour = Duration::from_hours(1);
        let woken = Moment { at: first.at + Duration::from_secs(1), slept: first.slept + hour };
        assert_eq!(woken.since(first), hour + Duration::from_secs(1));
        assert_eq!(first.since(woken), Duration::ZERO);
    }

    /// In a time namespace the clock that counts sleep can be set ahead (`time_namespaces(7)`), which needs the right to make one.
    #[cfg(target_os = "linux")]
    #[test]
    fn what_the_clock_that_counts_sleep_is_ahead_is_what_was_slept() {
        const ASKED: &str = "HEADGATE_TEST_PRINT_SLEPT";
        if std::env::var_os(ASKED).is_some() {
            println!("slept={}", slept().as_secs());
            return;
        }
        let test = "clock::tests::what_the_clock_that_counts_sleep_is_ahead_is_what_was_slept";
        let asked = std::process::Command::new("unshare")
            .args(["--user", "--map-root-user", "--time", "--fork", "--boottime", "7200"])
            .arg(std::env::current_exe().expect("this test"))
            .args(["--exact", test, "--nocapture"])
            .env(ASKED, "1")
            .output();
        let Ok(asked) = asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()) else { return };
        let told =
            asked.lines().find_map(|line| line.split_once("slept=")).map(|(_, seconds)| seconds.trim().to_owned());
        // A machine that lets nobody make one cannot be asked.
        if let Some(seconds) = told {
            let seconds: u64 = seconds.parse().expect("a number");
            assert!(seconds + 1 >= 7_200 + slept().as_secs(), "{seconds}");
        }
    }
}
