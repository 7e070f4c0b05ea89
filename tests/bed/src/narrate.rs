//! What the test bed tells the person who started it: what starts, where it comes from, how long it took.

use std::fmt;
use std::time::{Duration, Instant};

/// Prints one line to standard error; standard output is for what other programs read.
#[expect(clippy::print_stderr, reason = "the test bed talks to the person at the terminal, it has no log")]
pub fn say(line: impl fmt::Display) {
    eprintln!("{line}");
}

/// Measures how long a step took, to be printed.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

impl fmt::Display for Stopwatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} s", self.0.elapsed().as_secs_f64())
    }
}
