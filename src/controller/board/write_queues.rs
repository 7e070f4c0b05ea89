//! Who waits to be written, and whose turn comes first. Pure.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::tracked::Turn;
use crate::event::StreamName;

type Queue = BTreeSet<(Instant, StreamName)>;

/// The queues of a board. A source stands in one of them at most.
#[derive(Default)]
pub(super) struct WriteQueues {
    finalizers: Queue,
    urgent: Queue,
    samples: Queue,
    times: Queue,
}

/// What a queue is looked through for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// Statuses, and not finalizers alone.
    pub(super) statuses: bool,
    /// Also those that only tell the time.
    pub(super) times: bool,
}

impl WriteQueues {
    pub(super) fn put(&mut self, turn: Turn, stream: &StreamName) {
        self.queue(turn).insert((turn.at(), stream.clone()));
    }

    pub(super) fn take(&mut self, turn: Turn, stream: &StreamName) {
        self.queue(turn).remove(&(turn.at(), stream.clone()));
    }

    /// The first whose turn has come.
    pub(super) fn first(&self, wanted: Wanted, now: Instant) -> Option<StreamName> {
        let due = |queue: &&Queue| queue.first().is_some_and(|(at, _)| *at <= now);
        let (_, stream) = self.of(wanted).find(due)?.first()?;
        Some(stream.clone())
    }

    /// When the first turn comes.
    pub(super) fn next(&self, wanted: Wanted) -> Option<Instant> {
        self.of(wanted).filter_map(|queue| queue.first()).map(|(at, _)| *at).min()
    }

    /// In the order of their importance.
    fn of(&self, wanted: Wanted) -> impl Iterator<Item = &Queue> {
        let statuses = [&self.urgent, &self.samples].into_iter().filter(move |_| wanted.statuses);
        let times = [&self.times].into_iter().filter(move |_| wanted.statuses && wanted.times);
        [&self.finalizers].into_iter().chain(statuses).chain(times)
    }

    fn queue(&mut self, turn: Turn) -> &mut Queue {
        match turn {
            Turn::Finalizer(_) => &mut self.finalizers,
            Turn::Urgent(_) => &mut self.urgent,
            Turn::Sample(_) => &mut self.samples,
            Turn::Times(_) => &mut self.times,
        }
    }
}
