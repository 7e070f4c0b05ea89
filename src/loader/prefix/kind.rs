//! Of which kind the ids of a page are. As long as the row knows no kind and all that came was digits, either is possible: what
//! came is held as it came, and judged only once it is decided.

use super::Prefix;
use crate::{
    event::{Cursor, EventId, IdKind},
    fetch::{FetchError, Item},
};

/// What is known before a page comes: who asks after an id that is not digits only asks for a stream of such.
pub(super) fn known_before(requested: &Cursor, kind: Option<IdKind>) -> Option<IdKind> {
    kind.or_else(|| requested.id().filter(|id| !id.is_digits()).map(|_| IdKind::Opaque))
}

impl Prefix {
    /// The kind, decided by this item if that is not digits.
    pub(super) fn kind_with(&mut self, item: &Item) -> Option<IdKind> {
        if self.kind.is_none() && !item.id().is_digits() {
            self.decide(IdKind::Opaque);
        }
        self.kind
    }

    /// Holds an item that may be of either kind. A stream of numbers must lose nothing by it, so what it could commit now is
    /// ready now.
    pub(super) fn hold_undecided(&mut self, item: Item) -> u64 {
        let (id, number) = (item.id(), self.seen);
        self.seen += 1;
        let is_after = |other: &EventId| IdKind::Number.compare(id, other).is_some_and(std::cmp::Ordering::is_gt);
        if self.requested.id().is_none_or(is_after) {
            match &self.highest {
                Some(highest) if IdKind::Number.compare(id, highest).is_some_and(std::cmp::Ordering::is_lt) => {
                    self.disorder.get_or_insert(number + 1);
                }
                _ => self.highest = Some(id.clone()),
            }
        }
        self.hold(item)
    }

    /// What came is committed or given up, and was digits only: a stream of numbers.
    pub(super) fn settle(&mut self) {
        if self.kind.is_none() && self.has_pending() {
            self.decide(IdKind::Number);
        }
    }

    /// Judges what was held, in the order in which it came.
    fn decide(&mut self, kind: IdKind) {
        self.kind = Some(kind);
        (self.seen, self.repeats, self.highest, self.disorder) = (0, 0, None, None);
        for item in std::mem::take(&mut self.pending) {
            self.let_go += item.bytes() - self.push_of(kind, item);
        }
    }

    /// Bytes that [`Prefix::push`] said were held, and that are not any more without having been taken. Told once.
    pub(in crate::loader) fn let_go(&mut self) -> u64 {
        std::mem::take(&mut self.let_go)
    }
}

/// A number among numbers can be compared with the cursor, and anything else cannot. `number` counts the items from 1.
pub(super) fn check(kind: IdKind, id: &EventId, number: u64) -> Result<(), FetchError> {
    if kind.takes(id) {
        return Ok(());
    }
    Err(FetchError::MappingFailed {
        item: usize::try_from(number).unwrap_or(usize::MAX),
        detail: "its id is not a number, but all ids of this stream before it are; check `mapping.idPath`. If the ids need not be \
                 digits only, raise `spec.epoch` and let `spec.start` be AfterID with the `status.cursor`: read on from there, they \
                 are not compared any more"
            .to_owned(),
    })
}
