//! What of a page goes into one statement.

use std::{collections::HashSet, sync::Arc};

use super::{OpaqueIds, Overlap, Prefix};
use crate::{
    event::{Cursor, Event, EventId, IdKind, SetAside},
    fetch::Item,
};

/// The most events of one append: larger statements were not faster (DESIGN 5).
const MOST_EVENTS: usize = 1000;

/// The most bytes of one append: keeps a statement far from its 5 s limit.
const MOST_BYTES: u64 = 4 * 1024 * 1024;

/// A part of a page that may be committed now.
#[derive(Debug, Clone)]
pub(in crate::loader) struct Batch {
    /// The cursor that its page was asked for with.
    requested: Cursor,
    pub(in crate::loader) cursor_before: Cursor,
    pub(in crate::loader) cursor_after: Cursor,
    /// How the ids of its stream compare; known where it holds any.
    pub(in crate::loader) kind: Option<IdKind>,
    pub(in crate::loader) events: Arc<[Event]>,
    pub(in crate::loader) set_aside: Arc<[SetAside]>,
    /// Where each item that is set aside came.
    places: Arc<[Place]>,
    pub(in crate::loader) bytes: u64,
    /// The ids of its stream were seen not to ascend. Said with each batch, because the row may not have heard it.
    pub(in crate::loader) not_ascending: bool,
    /// Nothing comes after it in its page.
    pub(in crate::loader) ends_page: bool,
    /// It may be given back until more of its page has come. Not one that is full of what is set aside: the next could only be
    /// larger, and some size no statement can take.
    pub(in crate::loader) may_wait: bool,
}

/// The place of an item that is set aside among the events of its batch.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// How many of them came before it.
    events_before: usize,
    /// The cursor moves to it: it is no copy of an item that came before in its page.
    moves: bool,
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

    pub(in crate::loader) fn ids(&self) -> impl Iterator<Item = &EventId> {
        self.events.iter().map(|event| &event.id).chain(self.set_aside.iter().map(|item| &item.id))
    }

    /// Which of its events come before the item at the cursor that its page was asked for with, and the id of that, if it is here.
    pub(in crate::loader) fn before_the_cursors(&self) -> Option<(&[Event], &EventId)> {
        let cursor = self.requested.id()?;
        let event = self.events.iter().position(|event| event.id == *cursor);
        let mut aside = self.set_aside.iter().zip(self.places.iter());
        let aside = aside.find(|(item, _)| item.id == *cursor).map(|(_, place)| place.events_before);
        let events = event.into_iter().chain(aside).min()?;
        Some((&self.events[..events], cursor))
    }

    /// Keeps the cursor before the items that it ends with, if they came before its page.
    pub(in crate::loader) fn stop_before_trailing(&mut self, known: &HashSet<EventId>) {
        if self.cursor_after.id().is_some_and(|id| known.contains(id)) {
            self.cursor_after = self.after_last_new(known);
        }
    }

    /// Where it moves the cursor: never back to what came before its page.
    fn after_last_new(&self, known: &HashSet<EventId>) -> Cursor {
        let event = self.events.iter().rposition(|event| !known.contains(&event.id));
        let mut aside = self.set_aside.iter().zip(self.places.iter());
        let aside = aside.rfind(|(item, place)| place.moves && !known.contains(&item.id));
        let id = match (event, aside) {
            (Some(event), Some((_, place))) if place.events_before <= event => Some(&self.events[event].id),
            (_, Some((item, _))) => Some(&item.id),
            (event, None) => event.map(|event| &self.events[event].id),
        };
        let moved = id.zip(self.kind).map(|(id, kind)| self.cursor_before.moved_to(id, kind));
        moved.unwrap_or_else(|| self.cursor_before.clone())
    }

    /// Two batches of half the events each, to be stored one after the other. What is set aside goes with the one in which it came:
    /// beyond the cursor that the first leaves, it would seem to have come before the page that brings it again after a crash.
    pub(in crate::loader) fn halves(&self, known: &HashSet<EventId>) -> (Self, Self) {
        let middle = self.events.len() / 2;
        let (first, second) = self.events.split_at(middle);
        let aside = self.places.partition_point(|place| place.events_before <= middle);
        let (first_aside, second_aside) = self.set_aside.split_at(aside);
        let later = self.places[aside..].iter();
        let mut first = Self {
            events: first.into(),
            set_aside: first_aside.into(),
            places: self.places[..aside].into(),
            ..self.clone()
        };
        first.cursor_after = first.after_last_new(known);
        let second = Self {
            events: second.into(),
            set_aside: second_aside.into(),
            places: later.map(|place| Place { events_before: place.events_before - middle, ..*place }).collect(),
            cursor_before: first.cursor_after.clone(),
            ..self.clone()
        };
        (first, second)
    }

    /// Its items as they came.
    fn in_feed_order(&self) -> Vec<Item> {
        let mut items: Vec<_> = self.events.iter().cloned().map(Item::Event).collect();
        for (item, place) in self.set_aside.iter().zip(self.places.iter()).rev() {
            items.insert(place.events_before, Item::SetAside(item.clone()));
        }
        items
    }
}

impl Prefix {
    /// Takes the next batch that may be committed; empty when there is none.
    pub(in crate::loader) fn take(&mut self) -> Batch {
        self.settle();
        let cursor_before = self.passed.clone();
        let (mut events, mut set_aside, mut places) = (Vec::new(), Vec::new(), Vec::new());
        let (mut all, mut aside) = (Fullness::default(), Fullness::default());
        for _ in 0..self.ready() {
            if aside.is_full() || (all.is_full() && events.len() >= self.least_events) {
                break;
            }
            let Some(item) = self.pending.pop_front() else { break };
            let bytes = item.bytes();
            all.add(bytes);
            let moves = self.opaque_ids.pass(item.id());
            if let Some(kind) = self.kind.filter(|_| moves) {
                self.passed = self.passed.moved_to(item.id(), kind);
            }
            match item {
                Item::Event(event) => events.push(event),
                Item::SetAside(item) => {
                    aside.add(bytes);
                    places.push(Place { events_before: events.len(), moves });
                    set_aside.push(item);
                }
            }
        }
        self.least_events = 0;
        let ends_page = self.finished && self.pending.is_empty();
        let cursor_after = self.passed.clone();
        Batch {
            requested: self.requested.clone(),
            cursor_before,
            cursor_after,
            kind: self.kind,
            events: events.into(),
            set_aside: set_aside.into(),
            places: places.into(),
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
        for item in batch.in_feed_order().into_iter().rev() {
            self.opaque_ids.take_back(item.id());
            self.pending.push_front(item);
        }
    }

    /// The batch that was taken last tells that the page does not begin after the cursor. Neither that batch nor the rest of the
    /// page is of any use, nor what follows it. Returns the events that came in vain.
    pub(in crate::loader) fn overlaps(&mut self, batch: &Batch, why: Overlap) -> u64 {
        self.passed = batch.cursor_before.clone();
        self.overlaps = Some(why);
        if why == Overlap::Untold {
            // From then on its pages are held whole: committed bit by bit, the cursor could go back to what the store forgot.
            self.disorder.get_or_insert(self.seen);
        }
        self.opaque_ids = OpaqueIds::default();
        batch.len() + self.abandon()
    }
}
