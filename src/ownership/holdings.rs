//! What each source that this incarnation has to do with is at. Pure: it turns what the Leases say into directives.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    Directive, Holding, LostReason,
    lease::{SourceLease, Version},
};
use crate::{event::StreamName, store::Holder};

/// A yield that takes longer has a long poll in flight; it no longer counts against the window of those under way.
const PROMPT: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// The Lease that names me is being written.
    Claiming,
    /// The Lease names me and the task runs.
    Held,
    /// The task was told to finish its poll and stop.
    Yielding { to: Option<Holder>, since: Instant },
    /// The task has stopped; nobody was there to take the source.
    Stopped,
    /// The task has stopped; the Lease that names another is being written.
    Handing { to: Holder },
    /// The task has ended for good; the Lease is being deleted, or this version of it was.
    Deleting { deleted: Option<Version> },
}

/// A source whose task has stopped as it was told to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Yielded {
    /// The member that it was to move to; none when wherever is best by now.
    pub to: Option<Holder>,
}

/// The sources of one incarnation.
#[derive(Debug, Default)]
pub struct Holdings {
    phases: HashMap<StreamName, Phase>,
    batches: HashSet<StreamName>,
    /// Those that an unanswered write may have given away.
    doubted: HashSet<StreamName>,
}

impl Holdings {
    /// Brings one source in line with its Lease. `wanted`: its object is known, so a Lease that names me is to be run;
    /// otherwise a directed handoff may come before I know the object.
    pub fn align(
        &mut self,
        stream: &StreamName,
        lease: Option<&SourceLease>,
        me: &Holder,
        wanted: bool,
    ) -> Option<Directive> {
        let mine = lease.filter(|lease| lease.holder.as_ref() == Some(me));
        match (self.phases.get(stream), mine) {
            (None, Some(mine)) if wanted => Some(self.run(mine, me)),
            (Some(Phase::Held | Phase::Yielding { .. }), None) => {
                self.forget(stream);
                let reason = if lease.is_some() { LostReason::TakenOver } else { LostReason::LeaseDeleted };
                Some(Directive::Lost(stream.clone(), reason))
            }
            (Some(Phase::Stopped | Phase::Deleting { .. }), None) => {
                self.forget(stream);
                None
            }
            // Another one, for an object that came anew, before the watch has shown that the first one went.
            (Some(Phase::Deleting { deleted: Some(deleted) }), Some(mine)) if mine.version.uid() != deleted.uid() => {
                self.forget(stream);
                wanted.then(|| self.run(mine, me))
            }
            // While a Lease is being written its answer decides, not what the watch shows meanwhile.
            _ => None,
        }
    }

    /// The Lease will be written to name me.
    pub fn claim(&mut self, stream: &StreamName) {
        self.phases.insert(stream.clone(), Phase::Claiming);
    }

    /// The write of a claim, a handoff or a deletion was answered; [`Holdings::align`] says what follows.
    pub fn write_answered(&mut self, stream: &StreamName) {
        if matches!(self.phases.get(stream), Some(Phase::Claiming | Phase::Handing { .. })) {
            self.phases.remove(stream);
        }
    }

    /// Tells the task to stop, to move the source to `to`, or to wherever is best when it has stopped.
    pub fn begin_yield(&mut self, stream: &StreamName, to: Option<Holder>, now: Instant) -> Option<Directive> {
        let phase = self.phases.get_mut(stream).filter(|phase| **phase == Phase::Held)?;
        *phase = Phase::Yielding { to, since: now };
        Some(Directive::Yield(stream.clone()))
    }

    /// The task has stopped. `None` when it was not asked to.
    pub fn stopped(&mut self, stream: &StreamName) -> Option<Yielded> {
        let phase = self.phases.get_mut(stream)?;
        let Phase::Yielding { to, .. } = phase else { return None };
        let yielded = Yielded { to: to.take() };
        *phase = Phase::Stopped;
        Some(yielded)
    }

    /// The Lease of a stopped source will be written to name another.
    pub fn hand(&mut self, stream: &StreamName, to: &Holder) {
        self.phases.insert(stream.clone(), Phase::Handing { to: to.clone() });
    }

    /// The write of a handoff was denied: the source stays as it is, stopped and with me; [`Holdings::align`] says what follows if
    /// not.
    pub fn stay_stopped(&mut self, stream: &StreamName) {
        if let Some(phase @ Phase::Handing { .. }) = self.phases.get_mut(stream) {
            *phase = Phase::Stopped;
        }
    }

    /// The write of a handoff was not answered, so the Lease may name another. It is being taken back.
    pub fn doubt(&mut self, stream: &StreamName) {
        self.doubted.insert(stream.clone());
    }

    fn is_doubted(&self, stream: &StreamName) -> bool {
        self.doubted.contains(stream)
    }

    /// The attempt to take a source back was answered, and its Lease names me or not; [`Holdings::align`] says what follows
    /// if not.
    pub fn end_doubt(&mut self, stream: &StreamName, names_me: bool) -> Option<Directive> {
        let runs = matches!(self.phases.get(stream), Some(Phase::Held | Phase::Yielding { .. }));
        (self.doubted.remove(stream) && names_me && runs).then(|| Directive::Confirmed(stream.clone()))
    }

    /// A stopped source stays with me after all.
    pub fn resume(&mut self, lease: &SourceLease, me: &Holder) -> Option<Directive> {
        let stopped = self.phases.get(&lease.stream) == Some(&Phase::Stopped);
        (stopped && lease.holder.as_ref() == Some(me)).then(|| self.run(lease, me))
    }

    /// The Lease of a source whose task has ended for good will be deleted. False when it is not mine to delete.
    pub fn delete(&mut self, stream: &StreamName) -> bool {
        let mine = matches!(self.phases.get(stream), Some(Phase::Held | Phase::Yielding { .. } | Phase::Stopped));
        if mine {
            self.phases.insert(stream.clone(), Phase::Deleting { deleted: None });
            self.batches.remove(stream);
        }
        mine
    }

    /// This version of the Lease was deleted; [`Holdings::align`] says what follows.
    pub fn deleted(&mut self, stream: &StreamName, version: Version) {
        if let Some(Phase::Deleting { deleted }) = self.phases.get_mut(stream) {
            *deleted = Some(version);
        }
    }

    /// Its Lease may not be deleted; [`Holdings::align`] says what follows.
    pub fn keep(&mut self, stream: &StreamName) {
        if matches!(self.phases.get(stream), Some(Phase::Deleting { .. })) {
            self.forget(stream);
        }
    }

    /// Whether a source holds a batch that it could not commit yet.
    pub fn holds_batch(&mut self, stream: &StreamName, holds: bool) {
        if holds {
            self.batches.insert(stream.clone());
        } else {
            self.batches.remove(stream);
        }
    }

    /// This incarnation has ended: everything is lost.
    pub fn lose_all(&mut self) -> Vec<Directive> {
        self.batches.clear();
        self.doubted.clear();
        self.phases
            .drain()
            .filter(|(_, phase)| matches!(phase, Phase::Held | Phase::Yielding { .. }))
            .map(|(stream, _)| Directive::Lost(stream, LostReason::IncarnationEnded))
            .collect()
    }

    /// The sources that could be told to yield now: those that run, are not in doubt (the answer to an earlier handoff must
    /// not pass for one to the next), and hold no batch, unless `with_batches`.
    pub fn movable(&self, with_batches: bool) -> impl Iterator<Item = &StreamName> {
        let may_go = move |stream| !self.is_doubted(stream) && (with_batches || !self.batches.contains(stream));
        self.phases
            .iter()
            .filter(move |(stream, phase)| **phase == Phase::Held && may_go(stream))
            .map(|(stream, _)| stream)
    }

    /// The sources whose task has stopped and that nobody has taken yet.
    pub fn stopped_sources(&self) -> impl Iterator<Item = &StreamName> {
        self.phases.iter().filter(|(_, phase)| **phase == Phase::Stopped).map(|(stream, _)| stream)
    }

    /// Whether nothing is left to run or to hand off. Stopped sources become orphans when the member Lease is freed.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.phases.values().all(|phase| *phase == Phase::Stopped)
    }

    /// Whether this incarnation has anything to do with the source.
    #[must_use]
    pub fn has(&self, stream: &StreamName) -> bool {
        self.phases.contains_key(stream)
    }

    /// The sources whose Lease names me, as far as I know.
    #[must_use]
    pub fn held(&self) -> usize {
        self.phases.values().filter(|phase| **phase != Phase::Claiming).count()
    }

    /// The sources that are on their way to another member.
    #[must_use]
    pub fn moving(&self) -> usize {
        self.phases.values().filter(|phase| matches!(phase, Phase::Yielding { .. } | Phase::Handing { .. })).count()
    }

    /// Those of them that are meant for `target`.
    #[must_use]
    pub fn moving_to(&self, target: &Holder) -> usize {
        self.phases
            .values()
            .filter(|phase| match phase {
                Phase::Yielding { to, .. } => to.as_ref() == Some(target),
                Phase::Handing { to } => to == target,
                _ => false,
            })
            .count()
    }

    /// Those of them that should have moved in a moment.
    #[must_use]
    pub fn moving_promptly(&self, now: Instant) -> usize {
        self.phases
            .values()
            .filter(|phase| match phase {
                Phase::Yielding { since, .. } => now - *since < PROMPT,
                Phase::Handing { .. } => true,
                _ => false,
            })
            .count()
    }

    fn run(&mut self, lease: &SourceLease, me: &Holder) -> Directive {
        self.phases.insert(lease.stream.clone(), Phase::Held);
        let holding = Holding {
            stream: lease.stream.clone(),
            holder: me.clone(),
            lease_name: SourceLease::name_of(&lease.stream),
            acquired_at: lease.acquired.unwrap_or(Timestamp::UNIX_EPOCH),
        };
        if self.is_doubted(&lease.stream) { Directive::RunInDoubt(holding) } else { Directive::Run(holding) }
    }

    /// A Lease of a newer version is another's, or gone. An unanswered write of mine can land no more.
    fn forget(&mut self, stream: &StreamName) {
        self.phases.remove(stream);
        self.batches.remove(stream);
        self.doubted.remove(stream);
    }
}

#[cfg(test)]
mod tests;
