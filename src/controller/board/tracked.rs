//! What the board knows of one source, and what that source wants written. Pure.

use std::time::Duration;

use tokio::time::Instant;

use super::{Base, Serial, Trigger};
use crate::{
    backoff::Backoff,
    controller::{
        announcements::Seen,
        finalizer::{FinalizerStep, finalizer_step},
        sample::{Sample, View},
    },
};

/// A finalizer that was written shows in the watch soon after; only when it does not is it written again.
const FINALIZER_SEEN_WITHIN: Duration = Duration::from_secs(5);

/// A failed write is tried again after this, doubled with each further failure of the source up to the longest pause.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// One source in one holding.
pub(super) struct Tracked {
    pub(super) serial: Serial,
    pub(super) seen: Seen,
    pub(super) sample: Sample,
    pub(super) base: Option<Base>,
    pub(super) written: Option<Box<Wrote>>,
    pub(super) turn: Option<Turn>,
    pub(super) under_way: Option<UnderWay>,
    pub(super) status_tries: Tries,
    pub(super) finalizer_tries: Tries,
    pub(super) finalizer_asked: Option<(FinalizerStep, Instant)>,
    /// The API server said that there is no such object any more; the watch will say so too.
    pub(super) gone: bool,
    pub(super) leaving: bool,
    /// Its Lease was lost, or nobody took it over, and it is not reported any more; the status is still to say so.
    pub(super) parting: bool,
}

/// The tries of one kind of write that failed in a row. A finalizer that is refused keeps no status from being told.
#[derive(Default)]
pub(super) struct Tries {
    failures: u32,
    not_before: Option<Instant>,
}

impl Tries {
    /// The object was changed by somebody meanwhile. The first time that is their edit: the next try has read it.
    pub(super) fn met_a_conflict(&mut self, pause: impl FnOnce(Duration) -> Instant) {
        if self.failures == 0 {
            *self = Self { failures: 1, not_before: None };
        } else {
            self.failed(pause);
        }
    }

    pub(super) fn failed(&mut self, pause: impl FnOnce(Duration) -> Instant) {
        self.not_before = Some(pause(RETRY.after(self.failures)));
        self.failures += 1;
    }

    /// One conflict is somebody's edit, and one failure chance.
    fn fail_again_and_again(&self) -> bool {
        self.failures >= 2
    }

    fn may_again(&self, at: Instant) -> Instant {
        self.not_before.map_or(at, |not_before| at.max(not_before))
    }
}

/// When the source is to be written, and in which queue it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Finalizer(Instant),
    Urgent(Instant),
    Sample(Instant),
    Times(Instant),
}

impl Turn {
    pub(super) fn at(self) -> Instant {
        match self {
            Self::Finalizer(at) | Self::Urgent(at) | Self::Sample(at) | Self::Times(at) => at,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Finalizer(FinalizerStep),
    Status(Trigger),
}

/// The one job of a source that is not answered yet.
pub(super) enum UnderWay {
    Finalizer,
    /// With what it will have written.
    Status(Box<Wrote>),
}

/// What was written, and when the next sample may be.
pub(super) struct Wrote {
    pub(super) view: View,
    pub(super) counters_due: Instant,
    pub(super) times_due: Instant,
}

impl Tracked {
    pub(super) fn new(serial: Serial, seen: Seen) -> Self {
        Self {
            serial,
            seen,
            sample: Sample::new(),
            base: None,
            written: None,
            turn: None,
            under_way: None,
            status_tries: Tries::default(),
            finalizer_tries: Tries::default(),
            finalizer_asked: None,
            gone: false,
            leaving: false,
            parting: false,
        }
    }

    pub(super) fn view(&self) -> View {
        self.sample.view(self.seen.report.clone(), self.seen.source.clone(), self.leaving)
    }

    /// Whether the object says what is to be seen of it, if there is an object.
    pub(super) fn is_told(&self) -> bool {
        self.gone || self.written.as_ref().is_some_and(|written| written.view.outline() == self.view().outline())
    }

    /// What is to be written first, and when. While statuses are held back that is the finalizer, however late it is due.
    pub(super) fn wants(&self, now: Instant, statuses_held_back: bool) -> Option<(Instant, Work)> {
        if self.under_way.is_some() || self.gone {
            return None;
        }
        let finalizer = self.wants_finalizer(now).map(|(at, work)| (self.finalizer_tries.may_again(at), work));
        let status = self.wants_status(now).map(|(at, work)| (self.status_tries.may_again(at), work));
        if statuses_held_back && finalizer.is_some() {
            return finalizer;
        }
        // Of two that are due the first one goes.
        let status_first = self.finalizer_tries.fail_again_and_again();
        let wants = if status_first { [status, finalizer] } else { [finalizer, status] };
        wants.into_iter().flatten().min_by_key(|want| want.0)
    }

    /// The turn for this work. A finalizer that is refused again and again waits with the counters: where a policy refuses those
    /// of thousands, all that is told would come after them.
    pub(super) fn turn(&self, work: Work, at: Instant, statuses_held_back: bool) -> Turn {
        match work {
            Work::Finalizer(_) if statuses_held_back || !self.finalizer_tries.fail_again_and_again() => {
                Turn::Finalizer(at)
            }
            Work::Status(Trigger::Transition | Trigger::Last) => Turn::Urgent(at),
            Work::Finalizer(_) | Work::Status(Trigger::Counters) => Turn::Sample(at),
            Work::Status(Trigger::Times) => Turn::Times(at),
        }
    }

    fn wants_finalizer(&self, now: Instant) -> Option<(Instant, Work)> {
        let step = finalizer_step(self.seen.source.as_ref()?, &self.seen.report).filter(|_| !self.leaving)?;
        let at = match self.finalizer_asked {
            Some((asked, at)) if asked == step => at + FINALIZER_SEEN_WITHIN,
            _ => now,
        };
        Some((at, Work::Finalizer(step)))
    }

    fn wants_status(&self, now: Instant) -> Option<(Instant, Work)> {
        let view = self.view();
        let transition = if self.leaving { Trigger::Last } else { Trigger::Transition };
        let Some(written) = self.written.as_ref().filter(|written| written.view.outline() == view.outline()) else {
            return Some((now, Work::Status(transition)));
        };
        let counters =
            (written.view.counters() != view.counters()).then_some((written.counters_due, Trigger::Counters));
        // What counts is written at its own time and brings the times along, also where it is asked for more seldom.
        let times =
            (counters.is_none() && written.view.times() != view.times()).then_some((written.times_due, Trigger::Times));
        let settled = self.sample.settles_at().map(|at| (at, transition));
        let (at, trigger) = [settled, counters, times].into_iter().flatten().min_by_key(|want| want.0)?;
        Some((at, Work::Status(trigger)))
    }
}

impl Work {
    /// Nothing but times moved.
    pub(super) fn tells_times(self) -> bool {
        self == Self::Status(Trigger::Times)
    }

    /// Whether it only tells people something.
    pub(super) fn tells(self) -> bool {
        matches!(self, Self::Status(_))
    }
}
