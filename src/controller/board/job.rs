//! What is to be written, and what comes of it.

use std::sync::Arc;

use crate::{
    api::EventSourceStatus,
    controller::{announcements::Announcement, finalizer::FinalizerStep, sample::View},
    event::StreamName,
};

/// Why a status is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::controller) enum Trigger {
    Transition,
    Counters,
    Times,
    Last,
}

impl Trigger {
    /// The metric label.
    pub(in crate::controller) fn as_str(self) -> &'static str {
        match self {
            Self::Transition => "transition",
            Self::Counters => "counters",
            Self::Times => "times",
            Self::Last => "last",
        }
    }
}

/// One thing to write.
#[derive(Debug)]
pub(in crate::controller) struct Job {
    pub(in crate::controller) stream: StreamName,
    pub(in crate::controller) uid: String,
    pub(in crate::controller) serial: Serial,
    pub(in crate::controller) kind: JobKind,
}

/// Names the holding that a job belongs to; the result of an older one is not heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::controller) struct Serial(pub(super) u64);

#[cfg(test)]
impl Job {
    pub(in crate::controller) fn of(stream: StreamName, uid: &str, kind: JobKind) -> Self {
        Self { stream, uid: uid.to_owned(), serial: Serial(0), kind }
    }
}

#[derive(Debug)]
pub(in crate::controller) enum JobKind {
    Status { trigger: Trigger, view: Box<View>, base: Option<Base> },
    Finalizer(FinalizerStep),
}

/// The object as the last write left it, or as it was read.
#[derive(Debug, Clone)]
pub(in crate::controller) struct Base {
    pub(in crate::controller) resource_version: String,
    pub(in crate::controller) status: Arc<EventSourceStatus>,
}

/// What came of a job.
#[derive(Debug)]
pub(in crate::controller) enum Done {
    /// The status stands as the view has it.
    Settled(Base),
    /// The finalizers are as they should be, or somebody changed the object meanwhile and the watch will tell.
    FinalizerSettled,
    /// Somebody else wrote the object: read it again, then write.
    Conflict,
    /// There is no such object any more.
    Gone,
    Failed,
}

/// A Kubernetes Event that is to be published, and the object it is about.
#[derive(Debug)]
pub(in crate::controller) struct PendingEvent {
    pub(in crate::controller) stream: StreamName,
    pub(in crate::controller) uid: String,
    pub(in crate::controller) announcement: Announcement,
}
