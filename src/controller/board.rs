//! Which EventSource is written next, and why. Pure: reports in, jobs out, the caller passes `now`.
//!
//! What must be seen goes first (a condition changed, a finalizer is due); counters wait for their turn, times wait longest.
//! Only names are queued: a source whose turn comes has what is newest written. All of it draws on one [`TokenBucket`].

mod job;
mod tracked;
mod write_queues;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::time::Instant;

pub(super) use self::job::{Base, Done, Job, JobKind, PendingEvent, Serial, Trigger};
use self::{
    tracked::{Tracked, Tries, Turn, UnderWay, Work, Wrote},
    write_queues::{Wanted, WriteQueues},
};
use super::{
    announcements::{Seen, announcements},
    token_bucket::TokenBucket,
};
use crate::{
    api::{AssignedReason, Source},
    desired::Desired,
    event::StreamName,
    loader::{report::Report, reports::Reports},
};

/// DESIGN 7: writes per second and replica, on average and at once.
const WRITES_PER_SECOND: u32 = 20;
const WRITES_AT_ONCE: u32 = 100;

/// Only times moved: an idle source is rewritten this seldom, and so many a second at most. Nobody waits for them: from a
/// few hundred sources on they come less often, and never cost the API server more than the Leases do.
const TIMES_EVERY: Duration = Duration::from_mins(5);
const TIMES_PER_SECOND: u32 = 1;

/// Each interval is taken between 90 % and 110 %, so that sources taken over together do not stay in step.
const JITTER: f64 = 0.1;

/// So many requests of one replica are under way at once.
const IN_FLIGHT: usize = 16;

/// What a look goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// The reports that changed.
    Reports,
    /// All: the desired set has changed too, and does not say in what.
    Everything,
}

/// All sources that this replica holds.
pub(super) struct Board {
    status_every: Duration,
    budget: TokenBucket,
    /// Of those writes, for the ones that only tell the time.
    times_budget: TokenBucket,
    random: SmallRng,
    serials: u64,
    tracked: HashMap<StreamName, Tracked>,
    /// Those that are not reported any more and have a last word to be written.
    parting: HashSet<StreamName>,
    queues: WriteQueues,
    statuses_held_back: bool,
    /// This replica ends.
    leaving: bool,
    in_flight: usize,
}

impl Board {
    pub(super) fn new(status_every: Duration, seed: u64) -> Self {
        Self {
            status_every,
            budget: TokenBucket::new(WRITES_PER_SECOND, WRITES_AT_ONCE),
            times_budget: TokenBucket::new(TIMES_PER_SECOND, 1),
            random: SmallRng::seed_from_u64(seed),
            serials: 0,
            tracked: HashMap::new(),
            parting: HashSet::new(),
            queues: WriteQueues::default(),
            statuses_held_back: false,
            leaving: false,
            in_flight: 0,
        }
    }

    /// Takes in what changed since the last look. Returns what is worth an Event.
    pub(super) fn look(&mut self, at: Look, reports: &Reports, desired: &Desired, now: Instant) -> Vec<PendingEvent> {
        let mut events = Vec::new();
        for report in reports.take_parted() {
            let source = desired.get(&report.holding.stream);
            self.see(report, source, true, now, &mut events);
        }
        let mut streams = reports.take_touched();
        match at {
            Look::Reports => streams.extend(self.parting.iter().cloned()),
            Look::Everything => streams.extend(self.tracked.keys().cloned()),
        }
        for stream in streams {
            // Without a UID the desired set did not know the object when its Lease was won; it soon will.
            match reports.get(&stream).filter(|report| !report.uid.is_empty()) {
                Some(report) => self.see(report, desired.get(&stream), false, now, &mut events),
                None => self.release(&stream, &mut events),
            }
        }
        events
    }

    /// It is not reported any more. No last write for what was handed off: the next holder writes its own, and ours must
    /// not come after it.
    fn release(&mut self, stream: &StreamName, events: &mut Vec<PendingEvent>) {
        let is_over = |tracked: &Tracked| !tracked.parting || tracked.is_told();
        if self.tracked.get(stream).is_some_and(is_over)
            && let Some(tracked) = self.forget(stream)
        {
            self.parting.remove(stream);
            tell(stream, Some(&tracked.seen), None, events);
        }
    }

    fn see(
        &mut self,
        report: Arc<Report>,
        source: Option<Arc<Source>>,
        parting: bool,
        now: Instant,
        events: &mut Vec<PendingEvent>,
    ) {
        let stream = report.holding.stream.clone();
        if parting {
            self.parting.insert(stream.clone());
        } else {
            self.parting.remove(&stream);
        }
        if let Some(tracked) = self.tracked.get_mut(&stream) {
            tracked.parting = parting;
            tracked.leaving = report.assigned.reason == AssignedReason::AwaitingReplica;
            if tracked.seen.is(&report, source.as_ref()) {
                return;
            }
        }
        let known = self.tracked.get(&stream).map(|tracked| &tracked.seen);
        let same_object = known.filter(|known| known.report.uid == report.uid).cloned();
        let same_holding = same_object.clone().filter(|known| known.report.holding == report.holding);
        let seen = Seen::after(same_holding.as_ref(), report, source);
        tell(&stream, same_object.as_ref(), Some(&seen), events);
        match self.tracked.get_mut(&stream) {
            Some(tracked) if same_holding.is_some() => tracked.seen = seen,
            _ => {
                self.forget(&stream);
                self.serials += 1;
                let leaving = seen.report.assigned.reason == AssignedReason::AwaitingReplica;
                let tracked = Tracked { leaving, parting, ..Tracked::new(Serial(self.serials), seen) };
                self.tracked.insert(stream.clone(), tracked);
            }
        }
        self.give_turn(&stream, now);
    }

    /// From now on only finalizers are written; or all is again. A finalizer is more than told: without it an object that is
    /// deleted meanwhile leaves its events behind, and with it a deletion hangs.
    pub(super) fn hold_statuses_back(&mut self, held_back: bool, now: Instant) {
        if self.statuses_held_back != held_back {
            self.statuses_held_back = held_back;
            self.give_all_turns(now);
        }
    }

    /// The next thing to write, if the budget allows one now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Job> {
        if self.in_flight >= IN_FLIGHT {
            return None;
        }
        let wanted = Wanted { times: self.times_budget.clone().take(now).is_ok(), ..self.wanted() };
        loop {
            let stream = self.queues.first(wanted, now)?;
            // A flapping value may have come back since the turn was given; then a later turn, or none, is left.
            self.give_turn(&stream, now);
            let Some((at, work)) =
                self.tracked.get(&stream).and_then(|tracked| tracked.wants(now, self.statuses_held_back))
            else {
                continue;
            };
            let is_wanted = (wanted.times || !work.tells_times()) && (wanted.statuses || !work.tells());
            if at <= now && is_wanted {
                // At the end it is the last chance to say that a holder is gone: what is in flight is bound enough.
                if !self.leaving {
                    self.budget.take(now).ok()?;
                }
                if work.tells_times() {
                    self.times_budget.take(now).ok()?;
                }
                return self.begin(&stream, work, now);
            }
        }
    }

    /// When [`Board::next`] has something again if nothing else happens.
    pub(super) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        if self.in_flight >= IN_FLIGHT {
            return None;
        }
        let affordable = |budget: &TokenBucket| budget.clone().take(now).err().unwrap_or(now);
        let wanted = self.wanted();
        let others = self.queues.next(Wanted { times: false, ..wanted });
        let with_times = self.queues.next(wanted).map(|at| affordable(&self.times_budget).max(at));
        Some(others.into_iter().chain(with_times).min()?.max(affordable(&self.budget)))
    }

    fn wanted(&self) -> Wanted {
        Wanted { statuses: !self.statuses_held_back, times: true }
    }

    fn begin(&mut self, stream: &StreamName, work: Work, now: Instant) -> Option<Job> {
        self.take_turn(stream);
        let tracked = self.tracked.get_mut(stream)?;
        let kind = match work {
            Work::Finalizer(step) => {
                tracked.finalizer_asked = Some((step, now));
                tracked.under_way = Some(UnderWay::Finalizer);
                JobKind::Finalizer(step)
            }
            Work::Status(trigger) => {
                let view = tracked.view();
                tracked.under_way = Some(UnderWay::Status(Box::new(Wrote {
                    view: view.clone(),
                    counters_due: now + jittered(self.status_every, &mut self.random),
                    times_due: now + jittered(TIMES_EVERY, &mut self.random),
                })));
                JobKind::Status { trigger, view: Box::new(view), base: tracked.base.clone() }
            }
        };
        self.in_flight += 1;
        Some(Job { stream: stream.clone(), uid: tracked.seen.report.uid.clone(), serial: tracked.serial, kind })
    }

    /// Takes the result of a job.
    pub(super) fn done(&mut self, stream: &StreamName, serial: Serial, done: Done, now: Instant) {
        self.in_flight -= 1;
        let Some(tracked) = self.tracked.get_mut(stream).filter(|tracked| tracked.serial == serial) else { return };
        let under_way = tracked.under_way.take();
        let tries = match under_way {
            Some(UnderWay::Finalizer) => &mut tracked.finalizer_tries,
            _ => &mut tracked.status_tries,
        };
        match &done {
            Done::Settled(_) | Done::FinalizerSettled | Done::Gone => *tries = Tries::default(),
            Done::Conflict => tries.met_a_conflict(|pause| now + jittered(pause, &mut self.random)),
            Done::Failed => tries.failed(|pause| now + jittered(pause, &mut self.random)),
        }
        match (done, under_way) {
            (Done::Settled(base), Some(UnderWay::Status(wrote))) => {
                tracked.base = Some(base);
                tracked.written = Some(wrote);
            }
            (Done::FinalizerSettled | Done::Settled(_), _) => tracked.base = None,
            (Done::Gone, _) => tracked.gone = true,
            (Done::Conflict | Done::Failed, under_way) => {
                tracked.base = None;
                if matches!(under_way, Some(UnderWay::Finalizer)) {
                    tracked.finalizer_asked = None;
                }
            }
        }
        self.give_turn(stream, now);
    }

    /// This replica ends: what it still holds now has no successor that it knows of, and its status is to say so.
    pub(super) fn leave(&mut self, now: Instant) {
        self.statuses_held_back = false;
        self.leaving = true;
        for tracked in self.tracked.values_mut() {
            tracked.leaving |= !tracked.parting;
        }
        self.give_all_turns(now);
    }

    /// Whether everything that must be seen was written.
    pub(super) fn is_settled(&self) -> bool {
        self.tracked.values().all(Tracked::is_told)
    }

    fn forget(&mut self, stream: &StreamName) -> Option<Tracked> {
        self.take_turn(stream);
        self.tracked.remove(stream)
    }

    fn take_turn(&mut self, stream: &StreamName) {
        if let Some(turn) = self.tracked.get_mut(stream).and_then(|tracked| tracked.turn.take()) {
            self.queues.take(turn, stream);
        }
    }

    fn give_all_turns(&mut self, now: Instant) {
        let streams: Vec<_> = self.tracked.keys().cloned().collect();
        for stream in &streams {
            self.give_turn(stream, now);
        }
    }

    /// Decides when the turn of `stream` comes, from what was seen of it.
    fn give_turn(&mut self, stream: &StreamName, now: Instant) {
        let held_back = self.statuses_held_back;
        let Some(tracked) = self.tracked.get_mut(stream) else { return };
        tracked.sample.observe(&tracked.seen.report, now);
        let turn =
            match (tracked.turn, tracked.wants(now, held_back).map(|(at, work)| tracked.turn(work, at, held_back))) {
                // One that waits for the budget keeps its place, however often it changes meanwhile.
                (Some(Turn::Urgent(since)), Some(Turn::Urgent(at))) if at <= now => Some(Turn::Urgent(since.min(at))),
                (_, turn) => turn,
            };
        self.take_turn(stream);
        if let (Some(turn), Some(tracked)) = (turn, self.tracked.get_mut(stream)) {
            tracked.turn = Some(turn);
            self.queues.put(turn, stream);
        }
    }
}

fn tell(stream: &StreamName, old: Option<&Seen>, new: Option<&Seen>, events: &mut Vec<PendingEvent>) {
    let Some(uid) = new.or(old).map(|seen| seen.report.uid.clone()) else { return };
    events.extend(announcements(old, new).into_iter().map(|announcement| PendingEvent {
        stream: stream.clone(),
        uid: uid.clone(),
        announcement,
    }));
}

fn jittered(interval: Duration, random: &mut SmallRng) -> Duration {
    interval.mul_f64(random.random_range(1.0 - JITTER..=1.0 + JITTER))
}

#[cfg(test)]
mod tests;
