//! The finalizer that holds a deleted object back until its events are gone: on an object only while its `deletionPolicy`
//! is Delete, written by the holder alone. Pure; `patch` does it.

use kube::ResourceExt;

use crate::{
    api::{EventSource, FINALIZER, Source, event_source::DeletionPolicy},
    loader::report::Report,
};

/// What is to be done to an object's finalizers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FinalizerStep {
    Add,
    /// The object is being deleted, and its events are gone.
    RemoveForgotten,
    /// The events are to stay.
    RemoveRetained,
}

impl FinalizerStep {
    /// The metric label.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Add => "finalizer_added",
            Self::RemoveForgotten | Self::RemoveRetained => "finalizer_removed",
        }
    }
}

/// The step that a held source needs.
pub(super) fn finalizer_step(source: &Source, report: &Report) -> Option<FinalizerStep> {
    // A report about an object of the same name that is gone says nothing about this one.
    let forgotten = report.is_forgotten(&source.uid);
    match source.spec.deletion_policy {
        // Not on an object that is being deleted: the API server takes no new finalizer then.
        DeletionPolicy::Delete if source.lacks_finalizer() => Some(FinalizerStep::Add),
        DeletionPolicy::Delete if source.deleting && source.has_finalizer && forgotten => {
            Some(FinalizerStep::RemoveForgotten)
        }
        DeletionPolicy::Retain if source.has_finalizer => Some(FinalizerStep::RemoveRetained),
        DeletionPolicy::Delete | DeletionPolicy::Retain => None,
    }
}

/// Whether the object as it stands now still needs the step: the watch may lag behind it.
pub(super) fn still_needs(object: &EventSource, step: FinalizerStep) -> bool {
    let has_finalizer = object.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    let deletes = object.spec.deletion_policy == DeletionPolicy::Delete;
    let deleting = object.metadata.deletion_timestamp.is_some();
    match step {
        FinalizerStep::Add => deletes && !deleting && !has_finalizer,
        FinalizerStep::RemoveForgotten => has_finalizer && deleting,
        FinalizerStep::RemoveRetained => has_finalizer && !deletes,
    }
}
