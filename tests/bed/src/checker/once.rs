//! I3: every event is delivered once, or the repeat is explained by a fault that cost exactly this event. I5: what was
//! delivered last is stored, or such a fault cost it.
//!
//! What a fault explains is only what it can have cost. Whoever asks next has the row, so an event that the store has
//! from an attempt was committed before the next request left: no fault excuses asking for it again. Of an answer that
//! went wrong the log knows the events whose last byte was taken, and those before the first unusable item count as
//! used.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Evidence, Nemesis, Rule, SourceFindings, StoredStream, Violation, excuse};
use crate::{
    access_log::{Access, Delivered},
    source::FaultKind,
};

/// Events that were delivered more than once, by what explains it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Repeats {
    /// P3 (a): the replica died before the commit.
    pub after_a_kill: u64,
    /// P3 (a): the replica was frozen past its deadline before the commit.
    pub after_a_pause: u64,
    /// P3 (a), in effect: the replica lost the database before the commit, and by the API server its sources.
    pub after_being_cut_off: u64,
    /// P3 (b): the answer did not come, because the way from the source was cut.
    pub lost_on_the_way: u64,
    /// P3 (b): the part of a response that could not be used.
    pub of_an_unusable_response: u64,
    /// The source sent what it was not asked for.
    pub by_the_source: u64,
    /// A user had set the cursor back in between.
    pub after_a_reset: u64,
    pub unexplained: u64,
}

impl Repeats {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.after_a_kill
            + self.after_a_pause
            + self.after_being_cut_off
            + self.lost_on_the_way
            + self.of_an_unusable_response
            + self.by_the_source
            + self.after_a_reset
            + self.unexplained
    }

    fn count(&mut self, cause: Option<Cause>) {
        *match cause {
            Some(Cause::Source) => &mut self.by_the_source,
            Some(Cause::Kill) => &mut self.after_a_kill,
            Some(Cause::Pause) => &mut self.after_a_pause,
            Some(Cause::CutOff) => &mut self.after_being_cut_off,
            Some(Cause::Way) => &mut self.lost_on_the_way,
            Some(Cause::Unusable) => &mut self.of_an_unusable_response,
            Some(Cause::Reset) => &mut self.after_a_reset,
            None => &mut self.unexplained,
        } += 1;
    }
}

/// What explains a repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Kill,
    Pause,
    CutOff,
    Way,
    Unusable,
    Source,
    Reset,
}

pub(super) fn check(
    source: &str,
    accesses: &[&Access],
    lives: &[usize],
    evidence: &Evidence,
    found: &mut SourceFindings,
) -> Vec<Violation> {
    let stored = evidence.stored_of(source);
    let stored_by = stored.map(StoredStream::attempts).unwrap_or_default();
    let log = Log { accesses, lives, nemeses: &evidence.nemeses, stored_by };
    let mut violations = Vec::new();
    // For each event, the place of the request that delivered it last.
    let mut deliveries: HashMap<u64, usize> = HashMap::new();
    for (place, &access) in accesses.iter().enumerate() {
        // One violation for each pair of requests, not for each event.
        let mut unexplained: HashMap<usize, (u64, u64)> = HashMap::new();
        for index in access.delivered.iter().flat_map(|run| run.first..=run.last) {
            found.delivered_events += 1;
            let Some(earlier) = deliveries.insert(index, place) else { continue };
            let cause = log.explain(index, earlier, place);
            found.repeats.count(cause);
            if cause.is_none() {
                let range = unexplained.entry(earlier).or_insert((index, index));
                *range = (range.0.min(index), range.1.max(index));
            }
        }
        violations.extend(unexplained.into_iter().map(|(earlier, (first, last))| Violation {
            rule: Rule::I3,
            source: source.to_owned(),
            what: format!("events {first} to {last} were delivered twice"),
            lines: vec![accesses[earlier].clone(), access.clone()],
        }));
    }
    if let Some(stored) = stored {
        let resets = evidence.resets.iter().filter(|reset| reset.source == source).count();
        violations.extend(log.lost(source, &deliveries, &stored.indexes(), resets));
    }
    violations
}

/// All that is known of one source.
struct Log<'a> {
    /// In the order of their starts.
    accesses: &'a [&'a Access],
    /// For each of them, how many resets it comes after.
    lives: &'a [usize],
    nemeses: &'a [Nemesis],
    /// For each stored event, the attempt that brought it.
    stored_by: HashMap<u64, &'a str>,
}

impl Log<'_> {
    /// Why an event of the request at `earlier` was delivered again by the one at `later`.
    fn explain(&self, index: u64, earlier: usize, later: usize) -> Option<Cause> {
        let (first, again) = (self.accesses[earlier], self.accesses[later]);
        if earlier == later || (again.fault == FaultKind::IgnoresAfterId && index <= again.after) {
            return Some(Cause::Source);
        }
        if self.lives[earlier] != self.lives[later] {
            return Some(Cause::Reset);
        }
        if self.stored_by.get(&index) == Some(&first.attempt.as_str()) {
            return None;
        }
        self.not_committed(index, earlier)
    }

    /// What can have cost the commit of an event that the request at `place` delivered.
    fn not_committed(&self, index: u64, place: usize) -> Option<Cause> {
        self.struck_before_the_commit(place).or_else(|| self.is_unusable(index, place).then_some(Cause::Unusable))
    }

    /// The events whose last delivery is in no row though nothing explains it, by the request that delivered them. What
    /// a reset has taken back, also one after which nobody has asked yet, may be gone.
    fn lost(
        &self,
        source: &str,
        deliveries: &HashMap<u64, usize>,
        stored: &HashSet<u64>,
        resets: usize,
    ) -> Vec<Violation> {
        let mut lost: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
        for (&index, &place) in deliveries.iter().filter(|(index, _)| !stored.contains(index)) {
            if self.lives[place] == resets && self.not_committed(index, place).is_none() {
                let range = lost.entry(place).or_insert((index, index));
                *range = (range.0.min(index), range.1.max(index));
            }
        }
        let violation = |(place, (first, last)): (usize, (u64, u64))| Violation {
            rule: Rule::I5,
            source: source.to_owned(),
            what: format!("of events {first} to {last} what this request delivered is not stored"),
            lines: vec![self.accesses[place].clone()],
        };
        lost.into_iter().map(violation).collect()
    }

    /// Only a fault before the next request to the source can have cost the commit: whoever asks next has the row.
    fn struck_before_the_commit(&self, place: usize) -> Option<Cause> {
        let next = self.accesses.get(place + 1).map_or(u64::MAX, |next| next.started);
        excuse::uncommitted(self.nemeses, self.accesses[place], next)
    }

    /// Whether the fault of this answer made this event of it useless.
    fn is_unusable(&self, index: u64, place: usize) -> bool {
        let answer = self.accesses[place];
        match answer.fault {
            // The log holds only whole events, and what came before the cut can be stored.
            FaultKind::CutBody => self.comes_in_whole_pages(place),
            FaultKind::BadItem | FaultKind::NoNumber => {
                self.comes_in_whole_pages(place) || !is_before_the_gap(index, answer)
            }
            // Sorted, it could be taken if it was all there is.
            FaultKind::Unsorted => is_out_of_order(answer) && !is_all_there_is(answer),
            _ => false,
        }
    }

    /// Ids of this source were seen not to ascend: from then on a part of a page proves nothing about what lies below.
    fn comes_in_whole_pages(&self, place: usize) -> bool {
        self.accesses[..place].iter().any(|access| is_out_of_order(access))
    }
}

/// The item that nobody can use has no event, so it shows as a gap.
fn is_before_the_gap(index: u64, answer: &Access) -> bool {
    answer.delivered.first().is_some_and(|run| run.first == answer.after + 1 && index <= run.last)
}

fn is_out_of_order(answer: &Access) -> bool {
    answer.delivered.windows(2).any(|runs| runs[1].first < runs[0].last)
}

fn is_all_there_is(answer: &Access) -> bool {
    let events: u64 = answer.delivered.iter().map(Delivered::count).sum();
    answer.complete && events < answer.limit
}

#[cfg(test)]
mod tests;
