//! What of a page goes into one statement.

use std::{collections::VecDeque, sync::Arc};

use super::{OpaqueIds, Prefix};
use crate::{
    event::{Cursor, Event, SetAside},
    fetch::Item,
};

/// The most events of one append: larger statements were not faster (DESIGN 5).
const MOST_EVENTS: usize = 1000;

/// The most bytes of one append: keeps a statement far from its 5 s limit.
const MOST_BYTES: u64 = 4 * 1024 * 1024;

/// A part of a page that may be committed now.
#[derive(Debug, Clone)]
pub(in crate::loader) struct Batch {
    pub(in crate::loader) cursor_before: Cursor,
    pub(in crate::loader) cursor_after: Cursor,
    pub(in crate::loader) events: Arc<[Event]>,
    pub(in crate::loader) set_aside: Arc<[SetAside]>,
    pub(in crate::loader) bytes: u64,
    /// The ids of its stream were seen not to ascend. Said with each batch, because the row may not have heard it.
    pub(in crate::loader) not_ascending: bool,
    /// Nothing comes after it in its page.
    pub(in crate::loader) ends_page: bool,
    /// It may be given back until more of its page has come. Not one that is full of what is set aside: the next could only be
    /// larger, and some size no statement can take.
    pub(in crate::loader) may_wait: bool,
}

/// How much of a statement is taken.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Fullness {
    items: usize,
    bytes: u64,
}

impl Fullness {
    pub(super) fn add(&mut self, bytes: u64) {
        self.items += 1;
        self.bytes += bytes;
    }

    pub(super) fn is_full(self) -> bool {
        self.items >= MOST_EVENTS || self.bytes >= MOST_BYTES
    }
}

impl Batch {
    pub(in crate::loader) fn len(&self) -> u64 {
        (self.events.len() + self.set_aside.len()) as u64
    }
}

impl Prefix {
    /// Takes the next batch that may be committed; empty when there is none.
    pub(in crate::loader) fn take(&mut self) -> Batch {
        let cursor_before = self.passed.clone();
        let (mut events, mut set_aside) = (Vec::new(), Vec::new());
        let (mut all, mut aside) = (Fullness::default(), Fullness::default());
        for _ in 0..self.ready() {
            if aside.is_full() || (all.is_full() && events.len() >= self.least_events) {
                break;
            }
            let Some(item) = self.pending.pop_front() else { break };
            let bytes = item.bytes();
            all.add(bytes);
            if self.opaque_ids.pass(item.id()) {
                self.passed = self.passed.moved_to(item.id());
            }
            match item {
                Item::Event(event) => events.push(event),
                Item::SetAside(item) => {
                    aside.add(bytes);
                    set_aside.push(item);
                }
            }
        }
        self.least_events = 0;
        let ends_page = self.finished && self.pending.is_empty();
        let cursor_after = self.passed.clone();
        Batch {
            cursor_before,
            cursor_after,
            events: events.into(),
            set_aside: set_aside.into(),
            bytes: all.bytes,
            not_ascending: !self.flows(),
            ends_page,
            may_wait: !ends_page && !aside.is_full(),
        }
    }

    /// The batch that was taken last left the cursor here: before stored events that it ended with.
    pub(in crate::loader) fn stands_at(&mut self, cursor: Cursor) {
        self.passed = cursor;
    }

    /// Takes the batch that was taken last back: it does not tell where the page begins. The next one has an event more, if one
    /// comes.
    pub(in crate::loader) fn give_back(&mut self, batch: &Batch) {
        self.passed = batch.cursor_before.clone();
        self.least_events = batch.events.len() + 1;
        let set_aside = batch.set_aside.iter().cloned().map(Item::SetAside);
        let mut items: VecDeque<_> = set_aside.chain(batch.events.iter().cloned().map(Item::Event)).collect();
        // One event at most, and the last id of a feed is where the cursor goes.
        if items.back().is_some_and(|event| batch.cursor_after.id() != Some(event.id())) {
            items.rotate_right(batch.events.len());
        }
        for item in items.into_iter().rev() {
            self.opaque_ids.take_back(item.id());
            self.pending.push_front(item);
        }
    }

    /// The batch that was taken last begins with events that are stored: the page does not begin after the cursor. Neither that
    /// batch nor the rest of the page is of any use, nor what follows it. Returns the events that came in vain.
    pub(in crate::loader) fn overlaps(&mut self, batch: &Batch) -> u64 {
        self.passed = batch.cursor_before.clone();
        self.overlaps = true;
        self.opaque_ids = OpaqueIds::default();
        batch.len() + self.abandon()
    }
}
