//! Which part of a page may be committed, and how far the cursor may move. Pure.
//!
//! As long as ids ascend, every complete prefix may be committed with the cursor at its end (DESIGN 4, progressive
//! commit). Once they do not, the rest of the page is held until its end, and taken only if the page provably held
//! everything: the largest id of a partial page would jump over events.

mod batch;
mod finish;
mod kind;
mod opaque_ids;

use std::{cmp::Ordering, collections::VecDeque};

pub(super) use batch::Batch;
use batch::Fullness;
pub(super) use finish::{Finish, Overlap};
use opaque_ids::OpaqueIds;

use super::pace::Fill;
use crate::{
    event::{Cursor, EventId, IdKind, SetAside, SetAsideReason},
    fetch::{FetchError, Item},
};

/// A page as it arrives.
pub(super) struct Prefix {
    requested: Cursor,
    /// Unknown as long as all that came could be numbers and nothing was taken, see [`Prefix::settle`].
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
    opaque_ids: OpaqueIds,
    /// The number of the first item whose id is smaller than one before it, from 1 as in every message.
    disorder: Option<u64>,
    finished: bool,
    /// Its end does not tell whether something is missing.
    unproven_end: bool,
    /// It does not begin after the cursor, see [`Prefix::overlaps`]; what came after that was seen was dropped.
    overlaps: Option<Overlap>,
    dropped: u64,
    let_go: u64,
}

impl Prefix {
    pub(super) fn new(requested: Cursor, kind: Option<IdKind>, limit: Option<u32>, progressive: bool) -> Self {
        Self {
            kind: kind::known_before(&requested, kind),
            passed: requested.clone(),
            requested,
            limit: limit.map(u64::from),
            progressive,
            seen: 0,
            repeats: 0,
            highest: None,
            pending: VecDeque::new(),
            least_events: 0,
            opaque_ids: OpaqueIds::default(),
            disorder: None,
            finished: false,
            unproven_end: false,
            overlaps: None,
            dropped: 0,
            let_go: 0,
        }
    }

    /// Takes the next item of the response. Returns the bytes it holds.
    ///
    /// # Errors
    /// The item cannot be used; the page is over, and the cursor stays before the item.
    pub(super) fn push(&mut self, item: Item) -> Result<u64, FetchError> {
        if self.overlaps.is_some() {
            self.seen += 1;
            self.dropped += 1;
            return Ok(0);
        }
        match self.kind_with(&item) {
            Some(kind) => {
                kind::check(kind, item.id(), self.seen + 1)?;
                Ok(self.push_of(kind, item))
            }
            None => Ok(self.hold_undecided(item)),
        }
    }

    fn push_of(&mut self, kind: IdKind, item: Item) -> u64 {
        let number = self.seen;
        let id = item.id().clone();
        self.seen += 1;
        if self.is_at_or_below_the_cursor(&id, kind, number) {
            self.repeats += 1;
            return 0;
        }
        if let Some(says_the_same) = self.opaque_ids.find(&item) {
            return self.push_again(item, says_the_same);
        }
        let order = self.highest.as_ref().map(|highest| order(kind, &id, highest));
        if order == Some(Ordering::Equal) {
            return self.push_same_number(item, kind);
        }
        if order == Some(Ordering::Less) {
            self.disorder.get_or_insert(number + 1);
        } else {
            self.highest = Some(id);
        }
        self.hold(item)
    }

    /// Opaque ids come in feed order: of one that comes again behind others the store must tell what these are.
    fn is_at_or_below_the_cursor(&self, id: &EventId, kind: IdKind, number: u64) -> bool {
        let Some(cursor) = self.requested.id() else { return false };
        match kind.compare(id, cursor) {
            Some(order) => order != Ordering::Greater,
            None => id == cursor && self.repeats == number,
        }
    }

    /// The same id twice in one page: the first one counts, and other content is a conflict.
    fn push_again(&mut self, item: Item, says_the_same: bool) -> u64 {
        if says_the_same {
            self.repeats += 1;
            return 0;
        }
        self.hold(conflicting(item))
    }

    /// Equal numbers are neighbours, here and after sorting. Of one that is committed the store knows the content.
    fn push_same_number(&mut self, item: Item, kind: IdKind) -> u64 {
        match self.pending.back().filter(|held| order(kind, held.id(), item.id()) == Ordering::Equal) {
            Some(first) => {
                let says_the_same = is_same(first, &item);
                self.push_again(item, says_the_same)
            }
            None => self.hold(item),
        }
    }

    fn hold(&mut self, item: Item) -> u64 {
        if self.kind == Some(IdKind::Opaque) {
            self.opaque_ids.note(&item);
        }
        let bytes = item.bytes();
        self.pending.push_back(item);
        bytes
    }

    /// Bytes that are kept to the end of the page, whatever is committed of it before.
    pub(super) fn remembered(&self) -> u64 {
        self.opaque_ids.bytes()
    }

    /// How many items may be committed now.
    pub(super) fn ready(&self) -> usize {
        // Of what is not decided, repeats of what a stream of numbers has alone are not worth deciding it.
        let decided = self.kind.is_some() || self.highest.is_some();
        if self.finished || (decided && self.flows() && self.has_least_events()) { self.pending.len() } else { 0 }
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

    /// It will end where it may as well have been cut.
    pub(super) fn end_proves_nothing(&mut self) {
        self.unproven_end = true;
    }

    /// Whether items may be committed while the page goes on.
    pub(super) fn flows(&self) -> bool {
        self.progressive && self.disorder.is_none()
    }

    fn keep_only(&mut self, keep: impl Fn(&EventId) -> bool) -> u64 {
        let before = self.pending.len();
        self.pending.retain(|item| keep(item.id()));
        self.sort();
        (before - self.pending.len()) as u64
    }

    /// Sorts what is held and folds equal ids into one, or one and a conflict.
    fn sort(&mut self) {
        if self.kind != Some(IdKind::Number) {
            return;
        }
        let mut items: Vec<_> = std::mem::take(&mut self.pending).into();
        items.sort_by(|a, b| order(IdKind::Number, a.id(), b.id()));
        for item in items {
            self.push_same_number(item, IdKind::Number);
        }
    }

    /// Takes everything still held, committable or not, out of the page. Returns how many events that were.
    pub(super) fn abandon(&mut self) -> u64 {
        self.keep_only(|_| false)
    }

    /// Whether the ids of this page, or of this stream before it, were seen not to ascend.
    pub(super) fn is_out_of_order(&self) -> bool {
        self.kind.is_some() && self.disorder.is_some()
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
fn order(kind: IdKind, id: &EventId, other: &EventId) -> Ordering {
    kind.compare(id, other).unwrap_or(if id == other { Ordering::Equal } else { Ordering::Greater })
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
