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
        let short = self.limit.is_some_and(|limit| self.seen < limit);
        // Of opaque ids any prefix is right, because they come in feed order.
        let maybe_cut = self.unproven_end && kind == IdKind::Number && (short || self.limit.is_none());
        let complete = read_to_end && short && !maybe_cut;
        let Some(disorder) = self.disorder else {
            if !self.progressive && (!read_to_end || maybe_cut) && self.has_pending() {
                // A stream known not to ascend: a part of a page proves nothing about what lies below its ids.
                let rejected = read_to_end.then(|| self.maybe_cut());
                return Finish { rejected, dropped: self.abandon() };
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
        let rejected = read_to_end.then(|| if maybe_cut { self.maybe_cut() } else { self.maybe_not_all(disorder) });
        Finish { rejected, dropped }
    }

    fn maybe_not_all(&self, disorder: u64) -> FetchError {
        FetchError::CursorRejected {
            detail: format!(
                "the ids do not ascend (item {disorder} is smaller than one before it) and the page may not be all there is \
                 ({} items, {}); sort the answer by id, or raise `poll.batchSize` above the number of new events",
                self.seen,
                self.limit.map_or_else(|| "no limit was sent".to_owned(), |limit| format!("limit {limit}")),
            ),
        }
    }

    fn maybe_cut(&self) -> FetchError {
        let seen = match self.disorder {
            Some(item) => format!("do not ascend (item {item} is smaller than one before it)"),
            None => "were seen not to ascend".to_owned(),
        };
        FetchError::CursorRejected {
            detail: format!(
                "the ids {seen}, and nothing marks the end of the body, so some of it may be missing: let the source send a \
                 Content-Length or chunks; or sort its answers by id, and then raise `spec.epoch` and let `spec.start` be \
                 AfterID with the `status.cursor`"
            ),
        }
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
