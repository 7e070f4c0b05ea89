//! Which part of a page may be committed, and how far the cursor may move. Pure.
//!
//! As long as ids ascend, every complete prefix may be committed with the cursor at its end (DESIGN 4, progressive
//! commit). Once they do not, the rest of the page is held until its end, and taken only if the page provably held
//! everything: the largest id of a partial page would jump over events.

mod finish;

use std::{
    cmp::Ordering,
    collections::{HashSet, VecDeque},
    sync::Arc,
};

pub(super) use finish::{Finish, overlap};

use super::pace::Fill;
use crate::{
    event::{Cursor, Event, EventId, IdKind, SetAside, SetAsideReason},
    fetch::{FetchError, Item},
};

/// The most events of one append: larger statements were not faster (DESIGN 5).
const MOST_EVENTS: usize = 1000;

/// The most bytes of one append: keeps a statement far from its 5 s limit.
const MOST_BYTES: u64 = 4 * 1024 * 1024;

/// What one of [`Prefix::page_ids`] takes beside its text: the counts and the allocation of the text, and a slot in a table
/// that is at times half empty.
const BESIDE_ITS_TEXT: u64 = 64;

/// A page as it arrives.
pub(super) struct Prefix {
    requested: Cursor,
    kind: Option<IdKind>,
    /// How many events the source was asked for, if it was told.
    limit: Option<u64>,
    progressive: bool,
    seen: u64,
    repeats: u64,
    /// The highest id accepted so far.
    highest: Option<EventId>,
    /// Where the batches taken so far leave the cursor.
    passed: Cursor,
    pending: VecDeque<Item>,
    /// As many events are to be in the next batch, or the end of the page, see [`Prefix::give_back`].
    least_events: usize,
    /// The opaque ids of the page, committed or not: they cannot be sorted, so a repeat within the page is found here.
    page_ids: HashSet<EventId>,
    /// What they take in memory.
    page_ids_bytes: u64,
    /// The number of the first item whose id is smaller than one before it.
    disorder: Option<u64>,
    finished: bool,
    /// It begins with an event that is stored, see [`Prefix::overlaps`]; what came after that was dropped.
    overlaps: bool,
    dropped: u64,
}

/// A part of a page that may be committed now.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) cursor_before: Cursor,
    pub(super) cursor_after: Cursor,
    pub(super) events: Arc<[Event]>,
    pub(super) set_aside: Arc<[SetAside]>,
    pub(super) bytes: u64,
    /// The ids of its stream were seen not to ascend. Said with each batch, because the row may not have heard it.
    pub(super) not_ascending: bool,
    /// Nothing comes after it in its page.
    pub(super) ends_page: bool,
    /// It may be given back until more of its page has come. Not one that is full of what is set aside: the next could only be
    /// larger, and some size no statement can take.
    pub(super) may_wait: bool,
}

/// How much of a statement is taken.
#[derive(Debug, Default, Clone, Copy)]
struct Fullness {
    items: usize,
    bytes: u64,
}

impl Fullness {
    fn add(&mut self, bytes: u64) {
        self.items += 1;
        self.bytes += bytes;
    }

    fn is_full(self) -> bool {
        self.items >= MOST_EVENTS || self.bytes >= MOST_BYTES
    }
}

impl Batch {
    pub(super) fn len(&self) -> u64 {
        (self.events.len() + self.set_aside.len()) as u64
    }
}

impl Prefix {
    pub(super) fn new(requested: Cursor, kind: Option<IdKind>, limit: Option<u32>, progressive: bool) -> Self {
        Self {
            passed: requested.clone(),
            requested,
            kind,
            limit: limit.map(u64::from),
            progressive,
            seen: 0,
            repeats: 0,
            highest: None,
            pending: VecDeque::new(),
            least_events: 0,
            page_ids: HashSet::new(),
            page_ids_bytes: 0,
            disorder: None,
            finished: false,
            overlaps: false,
            dropped: 0,
        }
    }

    /// Takes the next item of the response. Returns the bytes it holds.
    ///
    /// # Errors
    /// The item cannot be used; the page is over, and the cursor stays before the item.
    pub(super) fn push(&mut self, item: Item) -> Result<u64, FetchError> {
        if self.overlaps {
            self.seen += 1;
            self.dropped += 1;
            return Ok(0);
        }
        let number = self.seen;
        let id = item.id().clone();
        self.check_kind(&id, number)?;
        self.seen += 1;
        match self.is_at_or_below_the_cursor(&id, number) {
            Ok(false) => {}
            Ok(true) => {
                self.repeats += 1;
                return Ok(0);
            }
            Err(rejected) => {
                // What came before it in this page is older than the cursor: committing it would move the cursor back.
                self.disorder.get_or_insert(number);
                return Err(rejected);
            }
        }
        let order = self.highest.as_ref().map(|highest| order(&id, highest));
        if order == Some(Ordering::Equal) || self.page_ids.contains(&id) {
            return Ok(self.push_same_id(item));
        }
        if order == Some(Ordering::Less) {
            self.disorder.get_or_insert(number);
        } else {
            self.highest = Some(id);
        }
        Ok(self.hold(item))
    }

    /// The first id of a stream decides how its ids compare.
    fn check_kind(&mut self, id: &EventId, number: u64) -> Result<(), FetchError> {
        let kind = *self.kind.get_or_insert(id.kind());
        if kind == id.kind() {
            return Ok(());
        }
        let detail = match kind {
            IdKind::Number => "its id is not a number, but the ids of this stream are",
            IdKind::Opaque => "its id is a number, but the ids of this stream are not",
        };
        Err(FetchError::MappingFailed {
            item: usize::try_from(number).unwrap_or(usize::MAX),
            detail: format!("{detail}; check `mapping.idPath`"),
        })
    }

    fn is_at_or_below_the_cursor(&self, id: &EventId, number: u64) -> Result<bool, FetchError> {
        let Some(cursor) = self.requested.id() else { return Ok(false) };
        if let Some(order) = id.compare(cursor) {
            return Ok(order != Ordering::Greater);
        }
        if id != cursor {
            return Ok(false);
        }
        // Opaque ids come in feed order: what stands before the event at the cursor is older than the cursor.
        if self.repeats == number {
            return Ok(true);
        }
        Err(FetchError::CursorRejected {
            detail: format!(
                "item {number} is the event at the cursor, but other items come before it; a page must begin after the cursor"
            ),
        })
    }

    /// The same id twice in one page: the first one counts. Whether the content differs is decided here while the first
    /// is at hand, else by the store.
    fn push_same_id(&mut self, item: Item) -> u64 {
        // Equal numbers are neighbours, here and after sorting.
        let first = match self.kind {
            Some(IdKind::Opaque) => self.pending.iter().rev().find(|held| held.id() == item.id()),
            _ => self.pending.back().filter(|held| order(held.id(), item.id()) == Ordering::Equal),
        };
        let Some(first) = first else {
            if self.kind == Some(IdKind::Opaque) {
                // The first one is committed; the store looks no opaque id up that it does not expect to know.
                self.repeats += 1;
                return 0;
            }
            return self.hold(item);
        };
        if is_same(first, &item) {
            self.repeats += 1;
            return 0;
        }
        self.hold(conflicting(item))
    }

    fn hold(&mut self, item: Item) -> u64 {
        let bytes = item.bytes();
        if self.kind == Some(IdKind::Opaque) && self.page_ids.insert(item.id().clone()) {
            self.page_ids_bytes += item.id().as_str().len() as u64 + BESIDE_ITS_TEXT;
        }
        self.pending.push_back(item);
        bytes
    }

    /// Bytes that are kept to the end of the page, whatever is committed of it before.
    pub(super) fn remembered(&self) -> u64 {
        self.page_ids_bytes
    }

    /// How many items may be committed now.
    pub(super) fn ready(&self) -> usize {
        if self.finished || (self.flows() && self.has_least_events()) { self.pending.len() } else { 0 }
    }

    /// What is set aside is looked up nowhere, and held for no event once a statement is full of it.
    fn has_least_events(&self) -> bool {
        let (mut events, mut set_aside) = (0, Fullness::default());
        for item in &self.pending {
            if events == self.least_events || set_aside.is_full() {
                return true;
            }
            match item {
                Item::Event(_) => events += 1,
                Item::SetAside(_) => set_aside.add(item.bytes()),
            }
        }
        events == self.least_events || set_aside.is_full()
    }

    /// Whether items may be committed while the page goes on.
    pub(super) fn flows(&self) -> bool {
        self.progressive && self.disorder.is_none()
    }

    /// Takes the next batch that may be committed; empty when there is none.
    pub(super) fn take(&mut self) -> Batch {
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
            self.passed = self.passed.moved_to(item.id());
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
    pub(super) fn stands_at(&mut self, cursor: Cursor) {
        self.passed = cursor;
    }

    /// Takes the batch that was taken last back: it does not tell where the page begins. The next one has an event more, if one
    /// comes.
    pub(super) fn give_back(&mut self, batch: &Batch) {
        self.passed = batch.cursor_before.clone();
        self.least_events = batch.events.len() + 1;
        // One event at most: its place among the others decides nothing.
        let items = batch.set_aside.iter().cloned().map(Item::SetAside);
        let items = items.chain(batch.events.iter().cloned().map(Item::Event));
        for item in items.rev() {
            self.pending.push_front(item);
        }
    }

    /// The batch that was taken last begins with events that are stored: the page does not begin after the cursor. Neither that
    /// batch nor the rest of the page is of any use, nor what follows it. Returns the events that came in vain.
    pub(super) fn overlaps(&mut self, batch: &Batch) -> u64 {
        self.passed = batch.cursor_before.clone();
        self.overlaps = true;
        self.page_ids = HashSet::new();
        self.page_ids_bytes = 0;
        batch.len() + self.abandon()
    }

    fn keep_only(&mut self, keep: impl Fn(&EventId) -> bool) -> u64 {
        let before = self.pending.len();
        self.pending.retain(|item| keep(item.id()));
        self.sort();
        (before - self.pending.len()) as u64
    }

    /// Sorts what is held and folds equal ids into one, or one and a conflict.
    fn sort(&mut self) {
        if self.kind == Some(IdKind::Opaque) {
            return;
        }
        let mut items: Vec<_> = std::mem::take(&mut self.pending).into();
        items.sort_by(|a, b| order(a.id(), b.id()));
        for item in items {
            self.push_same_id(item);
        }
    }

    /// Takes everything still held, committable or not, out of the page. Returns how many events that were.
    pub(super) fn abandon(&mut self) -> u64 {
        self.keep_only(|_| false)
    }

    /// Whether the ids of this page, or of this stream before it, were seen not to ascend.
    pub(super) fn is_out_of_order(&self) -> bool {
        self.disorder.is_some()
    }

    /// Where the batches taken so far leave the cursor.
    pub(super) fn cursor(&self) -> Cursor {
        self.passed.clone()
    }

    pub(super) fn kind(&self) -> Option<IdKind> {
        self.kind
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// No item came, and the row has heard that its ids ascend.
    pub(super) fn has_nothing_for_the_row(&self) -> bool {
        self.seen == 0 && self.flows()
    }

    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    pub(super) fn repeats(&self) -> u64 {
        self.repeats
    }

    pub(super) fn more_than_asked(&self) -> bool {
        self.limit.is_some_and(|limit| self.seen > limit)
    }

    pub(super) fn fill(&self) -> Fill {
        if self.seen == self.repeats {
            Fill::Empty
        } else if self.limit.is_none_or(|limit| self.seen >= limit) {
            Fill::Full
        } else {
            Fill::Partial
        }
    }
}

/// Numbers by value; opaque ids only as equal or, in feed order, later.
fn order(id: &EventId, other: &EventId) -> Ordering {
    id.compare(other).unwrap_or(if id == other { Ordering::Equal } else { Ordering::Greater })
}

fn is_same(first: &Item, second: &Item) -> bool {
    match (first, second) {
        (Item::Event(a), Item::Event(b)) => a.same_content(b),
        (Item::SetAside(a), Item::SetAside(b)) => a.item == b.item,
        _ => false,
    }
}

fn conflicting(item: Item) -> Item {
    match item {
        Item::Event(event) => Item::SetAside(SetAside {
            id: event.id,
            reason: SetAsideReason::ConflictingEvent,
            item: event.payload.as_str().as_bytes().into(),
        }),
        set_aside @ Item::SetAside(_) => set_aside,
    }
}

#[cfg(test)]
mod tests;
