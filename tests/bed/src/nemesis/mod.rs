//! What is done to replicas, servers and sources, and when. Pure: the same seed gives the same plan.

mod plan;
mod strike;

use std::fmt::{self, Write as _};
use std::time::Duration;

pub use self::plan::{Cast, LONGEST_SERVING_MS, plan};
pub use self::strike::{Peer, Strike};

/// When what is done to whom.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Since the beginning of the run.
    pub at: Duration,
    /// A replica, a server, or `sources`.
    pub whom: String,
    pub strike: Strike,
}

impl Planned {
    /// When it is over.
    #[must_use]
    pub fn until(&self) -> Duration {
        self.at + self.strike.over_after()
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8.3} s  {:<14}  {}", self.at.as_secs_f64(), self.whom, self.strike)
    }
}

/// The whole plan, as it is kept with a run.
#[must_use]
pub fn schedule(seed: u64, plan: &[Planned]) -> String {
    let mut text = format!("seed {seed}\n");
    for planned in plan {
        writeln!(text, "{planned}").expect("a String takes every write");
    }
    text
}
