//! The rule of the lost database: a member whose database has failed for 10 s while another's works hands its sources
//! off. When the database is down for everybody nothing moves: moving would not help.

use std::time::Duration;

use tokio::time::Instant;

use super::lease::MemberState;

/// For this long the database must fail for me and work for another, both at once.
pub const LOST_AFTER: Duration = Duration::from_secs(10);
/// A database that answered within this works. Replicas ask every 2 s.
pub const WORKS_WITHIN: Duration = Duration::from_secs(4);

/// Whether a member that says this of itself has a database that works, and could take what I cannot load: one that drains takes
/// nothing.
#[must_use]
pub fn could_take_over(state: &MemberState) -> bool {
    state.has_database() && !state.draining && state.database_silent.is_some_and(|silent| silent < WORKS_WITHIN)
}

/// How this replica's database stands against that of the others.
#[derive(Debug)]
pub struct DatabaseWatch {
    answered: Instant,
    alone_since: Option<Instant>,
    lost: bool,
}

impl DatabaseWatch {
    /// Begins with the benefit of the doubt.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { answered: now, alone_since: None, lost: false }
    }

    /// Looks again: when my database last answered, and whether another member's works. Returns whether mine is lost.
    /// One that never answered counts as silent since the beginning.
    pub fn look(&mut self, answered: Option<Instant>, another_works: bool, now: Instant) -> bool {
        self.answered = answered.map_or(self.answered, |answered| self.answered.max(answered));
        if self.silence(now) < WORKS_WITHIN {
            (self.alone_since, self.lost) = (None, false);
        } else if !another_works {
            // Nobody's works any more. If mine is lost it stays so until it answers; if not, it is not lost now.
            self.alone_since = None;
        } else {
            let since = *self.alone_since.get_or_insert(now);
            self.lost |= now - since >= LOST_AFTER;
        }
        self.lost
    }

    /// How long the database has not answered this replica.
    #[must_use]
    pub fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.answered)
    }

    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(500);

    /// Looks every half second for `time`; returns whether it was lost at the end.
    fn look_for(watch: &mut DatabaseWatch, now: &mut Instant, time: Duration, mine: bool, others: bool) -> bool {
        let (until, mut lost, mut answered) = (*now + time, watch.is_lost(), watch.answered);
        while *now < until {
            *now += STEP;
            if mine {
                answered = *now;
            }
            lost = watch.look(Some(answered), others, *now);
        }
        lost
    }

    #[test]
    fn it_is_lost_when_it_fails_for_10_s_while_anothers_works_and_found_when_it_answers() {
        let mut now = Instant::now();
        let mut watch = DatabaseWatch::new(now);
        assert!(!look_for(&mut watch, &mut now, LOST_AFTER, false, true), "not yet: it may have worked a moment ago");
        assert!(look_for(&mut watch, &mut now, WORKS_WITHIN + STEP, false, true));
        assert!(!look_for(&mut watch, &mut now, STEP, true, true));
    }

    #[test]
    fn only_who_stays_and_has_a_database_could_take_over() {
        let well = MemberState { database_silent: Some(STEP), ..MemberState::default() };
        assert!(could_take_over(&well));
        for other in [
            MemberState { draining: true, ..well },
            MemberState { database_lost: true, ..well },
            MemberState { database_silent: None, ..well },
            MemberState { database_silent: Some(WORKS_WITHIN), ..well },
        ] {
            assert!(!could_take_over(&other), "{other:?}");
        }
    }

    #[test]
    fn an_outage_for_everybody_loses_nothing_not_even_when_others_recover_a_little_earlier() {
        let mut now = Instant::now();
        let mut watch = DatabaseWatch::new(now);
        assert!(!look_for(&mut watch, &mut now, Duration::from_mins(5), false, false));
        assert!(!look_for(&mut watch, &mut now, Duration::from_secs(5), false, true));
        assert!(!look_for(&mut watch, &mut now, Duration::from_mins(1), true, true));
    }
}
