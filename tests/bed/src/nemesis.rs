//! The seeded plan of what is done to replicas, and when. Pure: the same seed gives the same plan.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// One thing that is done to a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strike {
    /// SIGKILL; the replica comes back after this.
    Kill { back_after: Duration },
    /// SIGSTOP for this long.
    Freeze { lasting: Duration },
    /// SIGTERM; the replica comes back after this.
    Terminate { back_after: Duration },
}

/// When what is done to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Since the beginning of the run.
    pub at: Duration,
    pub replica: String,
    pub strike: Strike,
}

/// The shortest and longest time between two strikes on the same replica.
const PAUSES: (u64, u64) = (3_000, 12_000);

/// Plans strikes on each replica for a run of this length, in the order of time. A replica is left alone until it is back
/// from the last strike.
#[must_use]
pub fn plan(seed: u64, replicas: &[&str], length: Duration) -> Vec<Planned> {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut plan = Vec::new();
    for replica in replicas {
        let mut at = millis(&mut dice, PAUSES);
        // One termination for each, so that no plan goes without.
        let mut first = Some(Strike::Terminate { back_after: millis(&mut dice, (200, 3_000)) });
        while at < length {
            let strike = first.take().unwrap_or_else(|| strike(&mut dice));
            plan.push(Planned { at, replica: (*replica).to_owned(), strike });
            at += strike.over_after() + millis(&mut dice, PAUSES);
        }
    }
    plan.sort_by_key(|planned| planned.at);
    plan
}

fn strike(dice: &mut StdRng) -> Strike {
    match dice.random_range(0..10) {
        0..5 => Strike::Kill { back_after: millis(dice, (200, 6_000)) },
        // Most freezes are shorter than the member Lease, some are much longer: both sides of the deadline count.
        5..7 => Strike::Freeze { lasting: millis(dice, (20, 2_500)) },
        7..9 => Strike::Freeze { lasting: millis(dice, (2_500, 15_000)) },
        _ => Strike::Terminate { back_after: millis(dice, (200, 3_000)) },
    }
}

fn millis(dice: &mut StdRng, (least, most): (u64, u64)) -> Duration {
    Duration::from_millis(dice.random_range(least..=most))
}

impl Strike {
    /// When the replica is there again.
    #[must_use]
    pub fn over_after(self) -> Duration {
        match self {
            Self::Kill { back_after } | Self::Terminate { back_after } => back_after,
            Self::Freeze { lasting } => lasting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_mins(2);

    #[test]
    fn the_same_seed_gives_the_same_plan_and_another_seed_another() {
        let replicas = ["a", "b", "c"];
        assert_eq!(plan(7, &replicas, LENGTH), plan(7, &replicas, LENGTH));
        assert_ne!(plan(7, &replicas, LENGTH), plan(8, &replicas, LENGTH));
    }

    #[test]
    fn every_plan_kills_freezes_and_terminates_and_leaves_a_replica_alone_until_it_is_back() {
        for seed in 0..200 {
            let plan = plan(seed, &["a", "b", "c"], LENGTH * 2);
            assert!(plan.iter().any(|planned| matches!(planned.strike, Strike::Kill { .. })));
            assert!(plan.iter().any(|planned| matches!(planned.strike, Strike::Freeze { .. })));
            assert!(plan.iter().any(|planned| matches!(planned.strike, Strike::Terminate { .. })));
            for replica in ["a", "b", "c"] {
                let of_replica: Vec<_> = plan.iter().filter(|planned| planned.replica == replica).collect();
                for pair in of_replica.windows(2) {
                    assert!(pair[0].at + pair[0].strike.over_after() < pair[1].at);
                }
            }
        }
    }
}
