//! Which members gave up a source whose object is there: they cannot read it, or do not see it. While two releases run side by
//! side, whoever hands it to them again stops it each time.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::{event::StreamName, store::Holder};

/// After this it may be tried again: the controller of that member may only have been late.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(10);

/// What was given up, by whom, in which generation of the object.
#[derive(Debug, Default)]
pub struct Declined {
    by: HashMap<(StreamName, Holder), (i64, Instant)>,
}

impl Declined {
    /// A member that lives has deleted the Lease of an object that is there.
    pub fn note(&mut self, stream: &StreamName, generation: i64, member: &Holder, now: Instant) {
        self.by.insert((stream.clone(), member.clone()), (generation, now));
    }

    /// Whether this member cannot be expected to run it.
    #[must_use]
    pub fn has(&self, stream: &StreamName, generation: i64, member: &Holder) -> bool {
        self.by.get(&(stream.clone(), member.clone())).is_some_and(|(declined, _)| *declined == generation)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by.is_empty()
    }

    /// Forgets what was long ago, members that have ended, and objects that are gone.
    pub fn retain(&mut self, now: Instant, matters: impl Fn(&StreamName, &Holder) -> bool) {
        self.by.retain(|(stream, member), (_, at)| now - *at < FORGOTTEN_AFTER && matters(stream, member));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_declined_is_so_until_the_object_changes_the_member_ends_or_a_while_has_passed() {
        let (mut declined, now) = (Declined::default(), Instant::now());
        let (orders, member) = (StreamName::new("shop", "orders"), Holder::new("b_2"));
        declined.note(&orders, 1, &member, now);
        declined.retain(now, |_, _| true);
        assert!(declined.has(&orders, 1, &member));
        assert!(!declined.has(&orders, 2, &member), "it was corrected");
        assert!(!declined.has(&orders, 1, &Holder::new("c_3")));
        declined.retain(now + FORGOTTEN_AFTER, |_, _| true);
        assert!(declined.is_empty());
        declined.note(&orders, 1, &member, now);
        declined.retain(now, |_, holder| *holder != member);
        assert!(declined.is_empty());
    }
}
