//! What the board knows of one source, and what that source wants written. Pure.

use std::time::Duration;

use tokio::time::Instant;

use super::{Base, Serial, Trigger};
use crate::controller::{
    announcements::Seen,
    finalizer::{FinalizerStep, finalizer_step},
    sample::{Sample, View},
};

/// A finalizer that was written shows in the watch soon after; only when it does not is it written again.
const FINALIZER_SEEN_WITHIN: Duration = Duration::from_secs(5);

/// One source in one holding.
pub(super) struct Tracked {
    pub(super) serial: Serial,
    pub(super) seen: Seen,
    pub(super) sample: Sample,
    pub(super) base: Option<Base>,
    pub(super) written: Option<Box<Wrote>>,
    pub(super) turn: Option<Turn>,
    pub(super) under_way: Option<UnderWay>,
    pub(super) failures: u32,
    pub(super) not_before: Option<Instant>,
    pub(super) finalizer_asked: Option<(FinalizerStep, Instant)>,
    /// The API server said that there is no such object any more; the watch will say so too.
    pub(super) gone: bool,
    pub(super) leaving: bool,
    /// Its Lease was lost, or nobody took it over, and it is not reported any more; the status is still to say so.
    pub(super) parting: bool,
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
    /// The turn for this work.
    pub(super) fn of(work: Work, at: Instant) -> Self {
        match work {
            Work::Finalizer(_) => Self::Finalizer(at),
            Work::Status(Trigger::Transition | Trigger::Last) => Self::Urgent(at),
            Work::Status(Trigger::Counters) => Self::Sample(at),
            Work::Status(Trigger::Times) => Self::Times(at),
        }
    }

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
            failures: 0,
            not_before: None,
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

    /// What is to be written first, and when.
    pub(super) fn wants(&self, now: Instant) -> Option<(Instant, Work)> {
        if self.under_way.is_some() || self.gone {
            return None;
        }
        let (at, work) =
            [self.wants_finalizer(now), self.wants_status(now)].into_iter().flatten().min_by_key(|want| want.0)?;
        Some((self.not_before.map_or(at, |not_before| at.max(not_before)), work))
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
