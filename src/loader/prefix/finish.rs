//! What becomes of a page at its end.

use std::cmp::Ordering;

use super::{Prefix, order};
use crate::{event::IdKind, fetch::FetchError};

/// What the end of the page made of what was still held.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::loader) struct Finish {
    /// The page does not fit the cursor.
    pub(in crate::loader) rejected: Option<FetchError>,
    /// Received events that will be asked for again.
    pub(in crate::loader) dropped: u64,
}

/// Why a page of opaque ids does not begin after the cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::loader) enum Overlap {
    /// It begins with what is stored already.
    Stored,
    /// The item at the cursor comes behind others, and the store does not know whether they are older.
    Untold,
}

impl Prefix {
    /// The response is over; `read_to_end` tells whether it was complete. What may still be committed is left for
    /// [`Prefix::take`].
    pub(in crate::loader) fn finish(&mut self, read_to_end: bool) -> Finish {
        self.finished = true;
        if let Some(overlap) = self.overlaps {
            return Finish { rejected: read_to_end.then(|| overlap.error()), dropped: self.dropped };
        }
        self.settle();
        let kind = self.kind.unwrap_or(IdKind::Opaque);
        let complete = read_to_end && self.limit.is_some_and(|limit| self.seen < limit);
        let Some(disorder) = self.disorder else {
            if !self.progressive && !read_to_end {
                // A stream known not to ascend: a part of a page proves nothing about what lies below its ids.
                return Finish { rejected: None, dropped: self.keep_only(|_| false) };
            }
            // Taken though it may be full, and also of a stream that was seen not to ascend: a backlog would stand still for ever
            // else. It rests on what is asked of a source: a page holds the smallest ids above the cursor.
            return Finish { rejected: if read_to_end { self.only_repeats() } else { None }, dropped: 0 };
        };
        if complete {
            self.sort();
            return Finish::default();
        }
        // Events that the cursor has already passed would never be asked for again: they are kept.
        let passed = self.passed.clone();
        let dropped =
            self.keep_only(|id| passed.id().is_some_and(|passed| order(kind, id, passed) != Ordering::Greater));
        let rejected = read_to_end.then(|| FetchError::CursorRejected {
            detail: format!(
                "the ids do not ascend (item {disorder} is smaller than one before it) and the page may not be all there is \
                 ({} items, {}); sort the answer by id, or raise `poll.batchSize` above the number of new events",
                self.seen,
                self.limit.map_or_else(|| "no limit was sent".to_owned(), |limit| format!("limit {limit}")),
            ),
        });
        Finish { rejected, dropped }
    }

    /// A full page of nothing but known events would come again and again.
    fn only_repeats(&self) -> Option<FetchError> {
        let stuck = self.repeats == self.seen && self.limit.is_some_and(|limit| self.seen >= limit);
        stuck.then(|| FetchError::CursorRejected {
            detail: format!(
                "all {} items of a full page are at or below the cursor; check that the source starts after the id that it is sent (`http.cursor`)",
                self.seen
            ),
        })
    }
}

impl Overlap {
    pub(in crate::loader) fn error(self) -> FetchError {
        let detail = match self {
            Self::Stored => {
                "the page begins with an event that is stored already, so it does not begin after the cursor; the source may no \
                 longer know the event there; if its feed was rebuilt, raise `spec.epoch` to read it again"
            }
            Self::Untold => {
                "the item at the cursor comes behind others, which may be older and stored no more; a page must begin after the \
                 cursor, so check that the source starts after the id that it is sent (`http.cursor`)"
            }
        };
        FetchError::CursorRejected { detail: detail.to_owned() }
    }
}
