//! Who is stuck: a member that lives, and does not claim what is its to claim (it may not see the object, or its writes
//! are refused). The next in rank goes first for a while.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::{event::StreamName, store::Holder};

/// A member that was dealt orphans and took none for this long is passed over. Claims take milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// For this long; then it gets another chance.
const PASSED_OVER_FOR: Duration = Duration::from_secs(10);

/// The members that were dealt orphans and have not claimed them all.
#[derive(Debug, Default)]
pub struct StuckMembers {
    members: HashMap<Holder, Dealt>,
}

/// What one member was dealt.
#[derive(Debug)]
struct Dealt {
    /// The orphans, and when each was first dealt to it.
    orphans: HashMap<StreamName, Instant>,
    /// The least of these.
    first: Instant,
    /// When it last claimed one of those that it was dealt first. It may claim thousands one after the other, but what came later
    /// and is claimed says nothing of what waits since before.
    progressed: Instant,
    passed_over: Option<Instant>,
}

impl Dealt {
    fn is_passed_over(&self, now: Instant) -> bool {
        self.passed_over.is_some_and(|since| now - since < PASSED_OVER_FOR)
    }
}

impl StuckMembers {
    /// A Lease was seen that newly names this member.
    pub fn progressed(&mut self, member: &Holder, stream: &StreamName, now: Instant) {
        let Some(dealt) = self.members.get_mut(member) else { return };
        if dealt.orphans.get(stream) == Some(&dealt.first) {
            dealt.progressed = now;
            dealt.passed_over = None;
        }
    }

    /// All orphans were dealt, and these to this member.
    pub fn dealt<'a>(&mut self, member: &Holder, orphans: impl Iterator<Item = &'a StreamName>, now: Instant) {
        // What it was dealt before stands: now it is dealt nothing.
        if self.is_stuck(member, now) {
            return;
        }
        let mut last = self.members.remove(member).filter(|last| last.passed_over.is_none());
        let mut dealt_before = |stream: &StreamName| last.as_mut().and_then(|last| last.orphans.remove(stream));
        let orphans: HashMap<_, _> =
            orphans.map(|stream| (stream.clone(), dealt_before(stream).unwrap_or(now))).collect();
        let Some(first) = orphans.values().min().copied() else { return };
        let progressed = last.filter(|last| last.first == first).map_or(now, |last| last.progressed);
        let passed_over = (now - progressed >= PATIENCE).then_some(now);
        self.members.insert(member.clone(), Dealt { orphans, first, progressed, passed_over });
    }

    /// Whether this member is passed over now.
    #[must_use]
    pub fn is_stuck(&self, member: &Holder, now: Instant) -> bool {
        self.members.get(member).is_some_and(|dealt| dealt.is_passed_over(now))
    }

    /// Forgets members that are no longer there.
    pub fn retain(&mut self, alive: impl Fn(&Holder) -> bool) {
        self.members.retain(|member, _| alive(member));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(100);

    fn orphan(nth: usize) -> StreamName {
        StreamName::new("shop", &format!("orphan-{nth}"))
    }

    #[test]
    fn a_member_that_takes_nothing_is_passed_over_for_a_while_and_then_asked_again() {
        let (mut stuck, member, start) = (StuckMembers::default(), Holder::new("a"), Instant::now());
        let mut dealt = |now| {
            stuck.dealt(&member, [orphan(0)].iter(), now);
            stuck.is_stuck(&member, now)
        };
        assert!(!dealt(start));
        assert!(dealt(start + PATIENCE));
        assert!(dealt(start + PATIENCE + PASSED_OVER_FOR - STEP));
        assert!(!dealt(start + PATIENCE + PASSED_OVER_FOR));
        assert!(!dealt(start + PATIENCE + PASSED_OVER_FOR + PATIENCE - STEP));
        assert!(dealt(start + PATIENCE + PASSED_OVER_FOR + PATIENCE));
    }

    #[test]
    fn a_member_that_claims_slowly_is_not_passed_over() {
        let (mut stuck, member, mut now) = (StuckMembers::default(), Holder::new("a"), Instant::now());
        let mut left: Vec<_> = (0..20).map(orphan).collect();
        for step in 1..200 {
            stuck.dealt(&member, left.iter(), now);
            if step % 15 == 0 {
                stuck.progressed(&member, &left.pop().unwrap(), now);
            }
            assert!(!stuck.is_stuck(&member, now));
            now += STEP;
        }
    }

    #[test]
    fn a_member_that_claims_what_comes_is_passed_over_for_what_waits_since_before() {
        let (mut stuck, member, start) = (StuckMembers::default(), Holder::new("a"), Instant::now());
        let mut now = start;
        for step in 0..20 {
            let dealt = [orphan(0), orphan(1 + step)];
            stuck.dealt(&member, dealt.iter(), now);
            assert!(!stuck.is_stuck(&member, now), "step {step}");
            stuck.progressed(&member, &dealt[1], now);
            now += STEP;
        }
        stuck.dealt(&member, [orphan(0)].iter(), now);
        assert!(stuck.is_stuck(&member, now));
        stuck.progressed(&member, &orphan(99), now);
        assert!(stuck.is_stuck(&member, now), "that was nothing that it was dealt");
        stuck.progressed(&member, &orphan(0), now);
        assert!(!stuck.is_stuck(&member, now), "it does claim");
    }

    #[test]
    fn a_member_whose_first_orphans_another_has_taken_has_its_time_for_the_others() {
        let (mut stuck, member, start) = (StuckMembers::default(), Holder::new("a"), Instant::now());
        stuck.dealt(&member, [orphan(0)].iter(), start);
        stuck.dealt(&member, [orphan(0), orphan(1)].iter(), start + STEP);
        stuck.dealt(&member, [orphan(1)].iter(), start + PATIENCE);
        assert!(!stuck.is_stuck(&member, start + PATIENCE));
    }
}
