//! The objects that this release cannot read now, and when their owners are to be told. No IO; the caller passes `now`.
//!
//! The intake writes, the marks follow. What it holds is a state and no message: a mark that failed is due again, and one of an
//! object that was corrected, deleted or replaced meanwhile is not.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::{backoff::Backoff, event::StreamName};

/// While replicas of two pod templates live, one of the other release may read the object, take its Lease and judge it: that takes
/// seconds. An update that is paused holds the word back no longer than this.
pub(super) const TIME_FOR_OTHERS: Duration = Duration::from_secs(30);

/// A mark that failed is tried again after this, doubled with each further failure up to the longest pause.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// What was told, or is in the hands of a replica that can read it, is looked at again this seldom: somebody may have written over
/// the one, and the other may have ended.
const LOOK_AGAIN_EVERY: Duration = Duration::from_mins(10);

/// An object that this version cannot read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InvalidSource {
    pub(super) stream: StreamName,
    pub(super) uid: String,
    pub(super) generation: i64,
    /// Says what is wrong, without any value of the object.
    pub(super) message: String,
}

/// The set, shared by clones.
#[derive(Clone)]
pub(super) struct Unreadable {
    entries: Arc<Mutex<HashMap<StreamName, Entry>>>,
    version: Arc<watch::Sender<u64>>,
}

#[derive(Debug)]
struct Entry {
    source: InvalidSource,
    since: Instant,
    turn: Turn,
}

#[derive(Debug, Clone, Copy)]
enum Turn {
    /// Its owner was not told yet.
    ToTell { failures: u32, not_before: Instant },
    /// Nothing is to be said now.
    Settled { look_again: Instant },
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Mark(InvalidSource),
    /// Nothing before then.
    At(Instant),
    Nothing,
}

impl Entry {
    /// Returns whether that is sooner than before.
    fn look_again_by(&mut self, at: Instant) -> bool {
        match &mut self.turn {
            Turn::Settled { look_again } if at < *look_again => {
                *look_again = at;
                true
            }
            Turn::Settled { .. } | Turn::ToTell { .. } => false,
        }
    }
}

impl Default for Unreadable {
    fn default() -> Self {
        Self { entries: Arc::default(), version: Arc::new(watch::Sender::new(0)) }
    }
}

impl Unreadable {
    /// Notes an object. Returns whether this generation of it was not known as such. One that was written since is looked at again
    /// soon: a holder that was still ending its last poll may have written over what its owner was told.
    pub(super) fn enter(&self, source: InvalidSource, now: Instant) -> bool {
        let mut entries = self.locked();
        let same = |known: &InvalidSource| known.uid == source.uid && known.generation == source.generation;
        if let Some(known) = entries.get_mut(&source.stream).filter(|known| same(&known.source)) {
            let sooner = known.look_again_by(now + TIME_FOR_OTHERS);
            drop(entries);
            if sooner {
                self.version.send_modify(|version| *version += 1);
            }
            return false;
        }
        let turn = Turn::ToTell { failures: 0, not_before: now };
        entries.insert(source.stream.clone(), Entry { source, since: now, turn });
        drop(entries);
        self.version.send_modify(|version| *version += 1);
        true
    }

    /// It was read, deleted, or is another's to keep.
    pub(super) fn leave(&self, stream: &StreamName) {
        self.locked().remove(stream);
    }

    /// A list was complete: what it does not name is gone. Returns what that is.
    pub(super) fn keep_only(&self, listed: &HashSet<StreamName>) -> Vec<StreamName> {
        self.locked().extract_if(|stream, _| !listed.contains(stream)).map(|(stream, _)| stream).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.locked().len()
    }

    /// Changes when something is due sooner than it was.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// What is due first. `others_may_read`: a replica of another release lives, or nobody knows yet who does.
    pub(super) fn next(&self, others_may_read: bool, now: Instant) -> Next {
        let entries = self.locked();
        let due = |entry: &Entry| match entry.turn {
            Turn::ToTell { not_before, .. } if others_may_read => not_before.max(entry.since + TIME_FOR_OTHERS),
            Turn::ToTell { not_before, .. } => not_before,
            Turn::Settled { look_again } => look_again,
        };
        let is_settled = |entry: &Entry| matches!(entry.turn, Turn::Settled { .. });
        // Who was told nothing goes first, however many are to be looked at again.
        let ready = entries.values().filter(|entry| due(entry) <= now);
        if let Some(entry) = ready.min_by_key(|entry| (is_settled(entry), due(entry), &entry.source.stream)) {
            return Next::Mark(entry.source.clone());
        }
        entries.values().map(due).min().map_or(Next::Nothing, Next::At)
    }

    /// The object says so, or is judged by a replica that can read it, or is not this one any more.
    pub(super) fn settle(&self, source: &InvalidSource, now: Instant) {
        self.turn(source, |_| Turn::Settled { look_again: now + LOOK_AGAIN_EVERY });
    }

    /// It could not be written, or looked at. Returns whether that was the first time.
    pub(super) fn fail(&self, source: &InvalidSource, now: Instant) -> bool {
        let mut first = false;
        self.turn(source, |turn| {
            let failures = match turn {
                Turn::ToTell { failures, .. } => failures,
                Turn::Settled { .. } => 0,
            };
            first = failures == 0;
            Turn::ToTell { failures: failures + 1, not_before: now + RETRY.after(failures) }
        });
        first
    }

    /// Replicas came or went: whoever could read an object may be among those that went. Its successor has a while to judge it.
    pub(super) fn others_changed(&self, now: Instant) {
        for entry in self.locked().values_mut() {
            entry.look_again_by(now + TIME_FOR_OTHERS);
        }
    }

    /// Not when another generation or another object has taken its place.
    fn turn(&self, source: &InvalidSource, turn: impl FnOnce(Turn) -> Turn) {
        if let Some(entry) = self.locked().get_mut(&source.stream).filter(|entry| entry.source == *source) {
            entry.turn = turn(entry.turn);
        }
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<StreamName, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::fixtures::stream;

    const SECOND: Duration = Duration::from_secs(1);

    fn broken(generation: i64) -> InvalidSource {
        let message = "a value has the wrong form".to_owned();
        InvalidSource { stream: stream("broken"), uid: "uid-of-broken".to_owned(), generation, message }
    }

    #[test]
    fn a_mark_that_fails_is_due_again_ever_more_seldom_and_for_ever() {
        let (unreadable, mut now) = (Unreadable::default(), Instant::now());
        assert!(unreadable.enter(broken(1), now));
        let mut pauses = Vec::new();
        for _ in 0..50 {
            assert_eq!(unreadable.next(false, now), Next::Mark(broken(1)));
            unreadable.fail(&broken(1), now);
            let Next::At(at) = unreadable.next(false, now) else { panic!("not forgotten, and not at once") };
            pauses.push(at - now);
            now = at;
        }
        assert_eq!(pauses[..3], [SECOND, 2 * SECOND, 4 * SECOND]);
        assert_eq!(pauses[49], RETRY.longest());
        unreadable.settle(&broken(1), now);
        assert_eq!(unreadable.next(false, now + SECOND), Next::At(now + LOOK_AGAIN_EVERY));
    }

    #[test]
    fn only_the_first_failure_of_a_generation_is_news() {
        let (unreadable, now) = (Unreadable::default(), Instant::now());
        unreadable.enter(broken(1), now);
        assert_eq!([(); 2].map(|()| unreadable.fail(&broken(1), now)), [true, false]);
        assert!(!unreadable.enter(broken(1), now), "a status write on it");
        assert!(unreadable.enter(broken(2), now), "another attempt of its owner");
        assert!(unreadable.fail(&broken(2), now));
    }

    #[test]
    fn while_another_release_may_read_it_nothing_is_said_until_that_one_had_its_time() {
        let (unreadable, now) = (Unreadable::default(), Instant::now());
        unreadable.enter(broken(1), now);
        assert_eq!(unreadable.next(true, now), Next::At(now + TIME_FOR_OTHERS));
        assert_eq!(unreadable.next(false, now), Next::Mark(broken(1)), "the update is over");
        assert_eq!(unreadable.next(true, now + TIME_FOR_OTHERS), Next::Mark(broken(1)), "the update is paused");
    }

    #[test]
    fn what_another_replica_can_read_is_looked_at_again_when_replicas_change() {
        let (unreadable, now) = (Unreadable::default(), Instant::now());
        unreadable.enter(broken(1), now);
        unreadable.settle(&broken(1), now);
        unreadable.others_changed(now + SECOND);
        let again = now + SECOND + TIME_FOR_OTHERS;
        assert_eq!(unreadable.next(false, now + SECOND), Next::At(again));
        unreadable.others_changed(now + 2 * SECOND);
        assert_eq!(
            unreadable.next(false, now + SECOND),
            Next::At(again),
            "replicas that keep coming put it off for ever"
        );
    }

    #[test]
    fn what_was_told_is_looked_at_again_soon_when_the_object_was_written_since() {
        let (unreadable, now) = (Unreadable::default(), Instant::now());
        unreadable.enter(broken(1), now);
        unreadable.settle(&broken(1), now);
        let changes = unreadable.changes();
        assert!(!unreadable.enter(broken(1), now + SECOND), "a status write on it");
        assert!(changes.has_changed().expect("the set lives"), "who sleeps until then is woken");
        assert_eq!(unreadable.next(false, now + SECOND), Next::At(now + SECOND + TIME_FOR_OTHERS));
    }

    #[test]
    fn an_answer_about_an_older_generation_says_nothing_of_the_newer_one() {
        let (unreadable, now) = (Unreadable::default(), Instant::now());
        unreadable.enter(broken(1), now);
        unreadable.enter(broken(2), now);
        unreadable.settle(&broken(1), now);
        assert_eq!(unreadable.next(false, now), Next::Mark(broken(2)));
        unreadable.leave(&stream("broken"));
        unreadable.fail(&broken(2), now);
        assert_eq!((unreadable.next(false, now), unreadable.len()), (Next::Nothing, 0));
    }

    #[test]
    fn what_was_told_already_keeps_nobody_waiting_who_was_not() {
        let (unreadable, now) = (Unreadable::default(), Instant::now());
        unreadable.enter(broken(1), now);
        unreadable.settle(&broken(1), now);
        let later = now + LOOK_AGAIN_EVERY + SECOND;
        let other = InvalidSource { stream: stream("other"), ..broken(1) };
        unreadable.enter(other.clone(), later);
        assert_eq!(unreadable.next(false, later), Next::Mark(other));
    }
}
