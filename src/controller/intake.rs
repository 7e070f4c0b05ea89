//! Makes [`Desired`], and the set of what this release cannot read, match what the watch says. No IO: events in, changes and
//! findings out.
//!
//! The predicate that keeps status-only updates out is equality of [`Source`], the value of all that decides what runs:
//! it lets through exactly the changes somebody acts on, and cannot drop a finalizer or a deletion as a comparison of
//! generations would.

use std::{collections::HashSet, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    ResourceExt,
    core::{DeserializeGuard, error_boundary::InvalidObject},
    runtime::watcher::Event,
};
use tokio::time::Instant;

use super::{
    endpoints::Endpoints,
    unreadable::{InvalidSource, Unreadable},
};
use crate::{
    api::{EventSource, Source},
    desired::Desired,
    event::StreamName,
};

/// One event of the watch.
pub(super) type WatchEvent = Event<DeserializeGuard<EventSource>>;

/// What one event came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The desired set changed.
    Applied,
    /// Nothing that anybody acts on: a status write, a label, an event seen before.
    Unchanged,
    Removed,
    /// The object cannot be run as it stands. Said once for each generation of it.
    Invalid(InvalidSource),
    /// A list began.
    Listing,
    /// It ended.
    Listed {
        /// How many sources it did not name, which were removed.
        gone: usize,
    },
}

/// The way from the watch to the desired set.
pub(super) struct Intake {
    desired: Desired,
    endpoints: Endpoints,
    unreadable: Unreadable,
    /// What the list that is under way has named so far.
    listed: HashSet<StreamName>,
}

impl Intake {
    pub(super) fn new(desired: Desired, unreadable: Unreadable) -> Self {
        Self { desired, endpoints: Endpoints::default(), unreadable, listed: HashSet::new() }
    }

    pub(super) fn take(&mut self, event: WatchEvent, now: Instant) -> Outcome {
        match event {
            Event::Init => {
                self.listed.clear();
                Outcome::Listing
            }
            Event::InitApply(object) => {
                if let Some(stream) = stream_of(kube::Resource::meta(&object)) {
                    self.listed.insert(stream);
                }
                self.apply(object, now)
            }
            Event::InitDone => self.finish_list(),
            Event::Apply(object) => self.apply(object, now),
            Event::Delete(object) => match stream_of(kube::Resource::meta(&object)) {
                Some(stream) => self.remove(&stream),
                None => Outcome::Unchanged,
            },
        }
    }

    /// What a complete list does not name is gone: it was deleted while nobody watched.
    fn finish_list(&mut self) -> Outcome {
        let listed = std::mem::take(&mut self.listed);
        let gone: Vec<_> = self.desired.streams().into_iter().filter(|stream| !listed.contains(stream)).collect();
        for stream in &gone {
            self.remove(stream);
        }
        for stream in self.unreadable.keep_only(&listed) {
            self.desired.remove(&stream);
        }
        // Last, so that nobody sees a set called complete with sources in it that are gone.
        self.desired.mark_complete();
        Outcome::Listed { gone: gone.len() }
    }

    fn apply(&mut self, object: DeserializeGuard<EventSource>, now: Instant) -> Outcome {
        let object = match object.0 {
            Ok(object) => object,
            Err(InvalidObject { error, metadata }) => return self.reject(&metadata, describe(&error), now),
        };
        let source = match Source::from_object(&object) {
            Ok(source) => source,
            Err(error) => return self.reject(&object.metadata, error.to_string(), now),
        };
        self.unreadable.leave(&source.stream);
        if source.deleting && !source.has_finalizer {
            // Only other people's finalizers keep it; for us it is gone.
            return self.remove(&source.stream);
        }
        self.put(source, &object)
    }

    fn put(&mut self, mut source: Source, object: &EventSource) -> Outcome {
        let stream = source.stream.clone();
        let url = object.spec.http.as_ref().map(|http| http.url.as_str());
        let moved = match (url, object.creation_timestamp()) {
            (Some(url), Some(created)) if !source.deleting => self.endpoints.enter(&stream, url, created.0),
            _ => self.endpoints.leave(&stream),
        };
        source.shares_endpoint_with = self.endpoints.elder(&stream);
        self.tell_neighbours(moved);
        if self.desired.get(&stream).is_some_and(|known| *known == source) {
            return Outcome::Unchanged;
        }
        self.desired.put(Arc::new(source));
        Outcome::Applied
    }

    fn remove(&mut self, stream: &StreamName) -> Outcome {
        self.unreadable.leave(stream);
        let known = self.desired.get(stream).is_some();
        self.desired.remove(stream);
        self.leave_endpoint(stream);
        if known { Outcome::Removed } else { Outcome::Unchanged }
    }

    fn leave_endpoint(&mut self, stream: &StreamName) {
        let moved = self.endpoints.leave(stream);
        self.tell_neighbours(moved);
    }

    /// An object that cannot be read is not run: nobody knows what it asks for. Its row, its waits and its events stay.
    fn reject(&mut self, metadata: &ObjectMeta, message: String, now: Instant) -> Outcome {
        let (Some(stream), Some(uid)) = (stream_of(metadata), metadata.uid.clone()) else { return Outcome::Unchanged };
        let generation = metadata.generation.unwrap_or_default();
        self.desired.mark_unreadable(&stream);
        self.leave_endpoint(&stream);
        let source = InvalidSource { stream, uid, generation, message };
        if self.unreadable.enter(source.clone(), now) { Outcome::Invalid(source) } else { Outcome::Unchanged }
    }

    fn tell_neighbours(&self, moved: Vec<StreamName>) {
        for stream in moved {
            if let Some(known) = self.desired.get(&stream) {
                let elder = self.endpoints.elder(&stream);
                if known.shares_endpoint_with != elder {
                    self.desired.put(Arc::new(Source { shares_endpoint_with: elder, ..(*known).clone() }));
                }
            }
        }
    }
}

fn stream_of(metadata: &ObjectMeta) -> Option<StreamName> {
    Some(StreamName::new(metadata.namespace.as_deref()?, metadata.name.as_deref()?))
}

/// What serde says, without the values it quotes: a header value may be among them.
fn describe(error: &str) -> String {
    // Values stand before the last `, expected`; what follows it comes from our own types.
    let what = if error.starts_with("missing field ") {
        error.to_owned()
    } else if let Some((_, expected)) = error.rsplit_once(", expected ") {
        format!("a value has the wrong form, expected {expected}")
    } else {
        "a value has the wrong form".to_owned()
    };
    format!("this version of Headgate cannot read the object: {what}; install the matching CRD and correct the spec")
}

#[cfg(test)]
mod tests;
