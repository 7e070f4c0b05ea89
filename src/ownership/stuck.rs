//! Who is stuck: a member that lives, and does not claim what is its to claim (it may not see the object, or its writes
//! are refused). The next in rank goes first for a while.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::store::Holder;

/// A member that was dealt orphans and took none for this long is passed over. Claims take milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// For this long; then it gets another chance.
const PASSED_OVER_FOR: Duration = Duration::from_secs(10);

/// Since when members have claimed nothing of what they were dealt.
#[derive(Debug, Default)]
pub struct StuckMembers {
    waiting: HashMap<Holder, Instant>,
    passed_over: HashMap<Holder, Instant>,
}

impl StuckMembers {
    /// A Lease was seen that newly names this member.
    pub fn progressed(&mut self, member: &Holder, now: Instant) {
        if let Some(since) = self.waiting.get_mut(member) {
            *since = now;
        }
        self.passed_over.remove(member);
    }

    /// The orphans were dealt: does this member have any to claim?
    pub fn dealt(&mut self, member: &Holder, any: bool, now: Instant) {
        if !any {
            self.waiting.remove(member);
            return;
        }
        let since = *self.waiting.entry(member.clone()).or_insert(now);
        if now - since >= PATIENCE {
            self.waiting.remove(member);
            self.passed_over.insert(member.clone(), now);
        }
    }

    /// Whether this member is passed over now.
    #[must_use]
    pub fn is_stuck(&self, member: &Holder, now: Instant) -> bool {
        self.passed_over.get(member).is_some_and(|since| now - *since < PASSED_OVER_FOR)
    }

    /// Forgets members that are no longer there.
    pub fn retain(&mut self, alive: impl Fn(&Holder) -> bool) {
        self.waiting.retain(|member, _| alive(member));
        self.passed_over.retain(|member, _| alive(member));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(100);

    #[test]
    fn a_member_that_takes_nothing_is_passed_over_for_a_while_and_then_asked_again() {
        let (mut stuck, member, start) = (StuckMembers::default(), Holder::new("a"), Instant::now());
        stuck.dealt(&member, true, start);
        assert!(!stuck.is_stuck(&member, start + PATIENCE));
        stuck.dealt(&member, true, start + PATIENCE);
        assert!(stuck.is_stuck(&member, start + PATIENCE));
        assert!(!stuck.is_stuck(&member, start + PATIENCE + PASSED_OVER_FOR));
    }

    #[test]
    fn a_member_that_claims_slowly_is_not_passed_over() {
        let (mut stuck, member, mut now) = (StuckMembers::default(), Holder::new("a"), Instant::now());
        for step in 0..200 {
            stuck.dealt(&member, true, now);
            if step % 15 == 0 {
                stuck.progressed(&member, now);
            }
            assert!(!stuck.is_stuck(&member, now));
            now += STEP;
        }
    }
}
