//! When surplus moves: not at once after a join, because joins come in groups, and then evenly, because each move pauses
//! its source for a moment.

use std::time::Duration;

use tokio::time::Instant;

/// The wait after a join. Pods of one rollout or scale-up start within it.
pub const SETTLE: Duration = Duration::from_secs(3);
/// The moves of one round are spread over this; with [`SETTLE`] it stays below the promised 30 s.
pub const SPREAD: Duration = Duration::from_secs(20);
/// Joins that follow each other put a round off by no more than this in all.
const LONGEST_SETTLE: Duration = Duration::from_secs(6);

/// The pace of one owner's moves.
#[derive(Debug, Default)]
pub struct Pacing {
    round: Option<Round>,
}

#[derive(Debug)]
struct Round {
    asked: Instant,
    begins: Instant,
    started: usize,
}

impl Pacing {
    /// A member joined: a round that runs or waits begins again after the wait.
    pub fn joined(&mut self, now: Instant) {
        if let Some(round) = &mut self.round {
            if round.begins <= now {
                *round = Round::asked(now);
            } else {
                round.begins = std::cmp::min(now + SETTLE, round.asked + LONGEST_SETTLE);
            }
        }
    }

    /// Whether a round waits or runs.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.round.is_some()
    }

    /// How many moves to start now. `surplus` is what this owner has still to give, `moving` how many of these are on
    /// their way already; `out_of_band` is whether a round is worth beginning.
    pub fn due(&mut self, now: Instant, out_of_band: bool, surplus: usize, moving: usize) -> usize {
        let Some(round) = &mut self.round else {
            if out_of_band && surplus > 0 {
                self.round = Some(Round::asked(now));
            }
            return 0;
        };
        let begun = round.begins <= now;
        // A round that began goes on to the even share; one that still waits ends when its reason went away.
        if surplus == 0 || (!begun && !out_of_band) {
            self.round = None;
            return 0;
        }
        if !begun {
            return 0;
        }
        let waiting = surplus.saturating_sub(moving);
        let share = share_due(round.started + waiting, now - round.begins);
        let due = std::cmp::min(share.saturating_sub(round.started), waiting);
        round.started += due;
        due
    }
}

impl Round {
    fn asked(now: Instant) -> Self {
        Self { asked: now, begins: now + SETTLE, started: 0 }
    }
}

/// The part of `all` that should have started after `elapsed` of a round, rounded up: the first moves at once.
fn share_due(all: usize, elapsed: Duration) -> usize {
    let spread = SPREAD.as_millis();
    let elapsed = std::cmp::min(elapsed.as_millis() + 1, spread);
    usize::try_from((all as u128 * elapsed).div_ceil(spread)).unwrap_or(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    /// Runs an owner whose moves take `poll` each; returns when each move was started and when the last one ended.
    fn run(pacing: &mut Pacing, from: Instant, mut surplus: usize, poll: Duration) -> (Vec<Instant>, Instant) {
        let (mut now, mut starts, mut moving) = (from, Vec::new(), Vec::<Instant>::new());
        while surplus > 0 {
            moving.retain(|&ends| {
                ends > now || {
                    surplus -= 1;
                    false
                }
            });
            let due = pacing.due(now, surplus > 0, surplus, moving.len());
            starts.extend(std::iter::repeat_n(now, due));
            moving.extend(std::iter::repeat_n(now + poll, due));
            now += TICK;
            assert!(now < from + Duration::from_mins(2), "the round never ends");
        }
        (starts, now)
    }

    #[test]
    fn after_a_join_nothing_moves_for_3_s_and_all_has_moved_20_s_later() {
        let join = Instant::now();
        for surplus in [1, 7, 100, 5_000] {
            let (starts, ended) = run(&mut Pacing::default(), join, surplus, Duration::from_millis(300));
            assert_eq!(starts.len(), surplus, "each is moved once");
            assert!(starts[0] >= join + SETTLE);
            assert!(ended <= join + SETTLE + SPREAD + Duration::from_secs(1));
        }
    }

    #[test]
    fn moves_are_spread_evenly() {
        let join = Instant::now();
        let (starts, _) = run(&mut Pacing::default(), join, 5_000, Duration::from_millis(300));
        for second in 0..20 {
            let from = join + SETTLE + Duration::from_secs(second);
            let count = starts.iter().filter(|&&at| at >= from && at < from + Duration::from_secs(1)).count();
            assert!((225..=275).contains(&count), "second {second}: {count}");
        }
    }

    #[test]
    fn joins_that_follow_each_other_wait_together_but_not_for_ever() {
        let first = Instant::now();
        let mut pacing = Pacing::default();
        assert_eq!(pacing.due(first, true, 100, 0), 0);
        for second in 1..=5 {
            pacing.joined(first + Duration::from_secs(second));
            assert_eq!(pacing.due(first + Duration::from_secs(second), true, 100, 0), 0);
        }
        assert!(pacing.due(first + LONGEST_SETTLE, true, 100, 0) > 0);
    }

    #[test]
    fn an_imbalance_that_goes_away_by_itself_moves_nothing() {
        let start = Instant::now();
        let mut pacing = Pacing::default();
        assert_eq!(pacing.due(start, true, 50, 0), 0);
        assert_eq!(pacing.due(start + TICK, false, 2, 0), 0);
        assert_eq!(pacing.due(start + SETTLE + TICK, false, 2, 0), 0, "inside the band nothing is worth a move");
    }
}
