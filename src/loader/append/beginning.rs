//! Where a page of opaque ids begins. They have no order, so what the store knows of its items must tell. Pure.

use std::collections::HashSet;

use crate::{
    event::{Cursor, EventId, IdKind},
    loader::prefix::{Batch, Overlap},
};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    AfterTheCursor,
    /// As from a source that does not know the cursor and begins anew: all that follows would travel again.
    Before(Overlap),
    Undecided,
}

/// What comes of the item at the cursor where it is not the first of its page.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AtTheCursor<'a> {
    Nothing,
    Repeat,
    /// A repeat, if the store has an event older than this one.
    RepeatIfHasOlder(&'a EventId),
    Overlap(Overlap),
}

impl Batch {
    /// Whether only the store can tell which of its items came before the cursor.
    pub(super) fn may_begin_anew(&self) -> bool {
        self.cursor_before != Cursor::Start && self.kind == Some(IdKind::Opaque) && self.len() > 0
    }

    /// Where its page begins, of which it is the first part. One event that is listed again may come first; two in a row are a
    /// beginning, and so is one that is all. Beside events, what is set aside tells nothing; where there are none, the page
    /// begins after the cursor if any of it is new.
    pub(super) fn beginning(&self, known: &HashSet<EventId>) -> Beginning {
        let all_known = if self.events.is_empty() {
            self.ids().all(|id| known.contains(id))
        } else {
            self.events.iter().take(2).all(|event| known.contains(&event.id))
        };
        match self.events.len() {
            0 if self.may_wait => Beginning::Undecided,
            1 if self.may_wait && all_known => Beginning::Undecided,
            _ if all_known => Beginning::Before(Overlap::Stored),
            _ => Beginning::AfterTheCursor,
        }
    }

    /// What the item at the cursor tells where it comes behind others. Behind a new event it is listed again, as any that is
    /// stored may be; behind none, the page begins before it.
    ///
    /// What retention has dropped is not known either, and is not to be stored again. In a feed that begins before the cursor it
    /// comes right before the oldest event that is left, so the first one known must have an older one. And nobody can tell
    /// where the item at the cursor is dropped itself, or while all is read again and the store tells nothing.
    pub(super) fn at_the_cursor(&self, known: &HashSet<EventId>, is_first: bool) -> AtTheCursor<'_> {
        let Some((before, cursor)) = self.before_the_cursors() else { return AtTheCursor::Nothing };
        if !known.contains(cursor) {
            return AtTheCursor::Overlap(Overlap::Untold);
        }
        match before.iter().position(|event| known.contains(&event.id)) {
            _ if is_first && before.iter().all(|event| known.contains(&event.id)) => {
                AtTheCursor::Overlap(Overlap::Stored)
            }
            // What is not known comes behind one that is stored.
            Some(0) if is_first => AtTheCursor::Repeat,
            Some(first) => AtTheCursor::RepeatIfHasOlder(&before[first].id),
            None => AtTheCursor::RepeatIfHasOlder(cursor),
        }
    }
}
