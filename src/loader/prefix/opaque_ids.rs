//! The opaque ids of one page. They cannot be sorted, so what came before in the page is found here alone.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, Hasher, RandomState},
};

use crate::{event::EventId, fetch::Item};

/// What an id takes beside its text: the counts and the allocation of the text, and a slot in a table that is at times half
/// empty.
pub(super) const BESIDE_ITS_TEXT: u64 = 96;

/// Every id of the page, committed or not.
#[derive(Default)]
pub(super) struct OpaqueIds {
    firsts: HashMap<EventId, First>,
    hashes: RandomState,
    bytes: u64,
}

/// The first item of an id.
struct First {
    /// A keyed hash: 64 bits that no source can aim at.
    content: u64,
    /// The cursor has moved there. It does not come back for what is listed again.
    passed: bool,
}

impl OpaqueIds {
    /// Takes the item of a stream of opaque ids in if it is the first of its id.
    pub(super) fn note(&mut self, item: &Item) {
        let id = item.id();
        if !self.firsts.contains_key(id) {
            self.bytes += id.as_str().len() as u64 + BESIDE_ITS_TEXT;
            self.firsts.insert(id.clone(), First { content: self.content(item), passed: false });
        }
    }

    /// Whether the page had this id before, and if it did, with the content of this item.
    pub(super) fn find(&self, item: &Item) -> Option<bool> {
        let first = self.firsts.get(item.id())?;
        Some(first.content == self.content(item))
    }

    /// Whether the cursor moves to this id when it passes it: not if it has been there.
    pub(super) fn pass(&mut self, id: &EventId) -> bool {
        self.firsts.get_mut(id).is_none_or(|first| !std::mem::replace(&mut first.passed, true))
    }

    /// The cursor was set back to before this id.
    pub(super) fn take_back(&mut self, id: &EventId) {
        if let Some(first) = self.firsts.get_mut(id) {
            first.passed = false;
        }
    }

    /// Bytes that they take in memory.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn content(&self, item: &Item) -> u64 {
        let mut hasher = self.hashes.build_hasher();
        match item {
            Item::Event(event) => {
                let said = (&event.event_type, &event.subject, event.occurred_at, event.payload.as_str());
                said.hash(&mut hasher);
            }
            Item::SetAside(set_aside) => set_aside.item.hash(&mut hasher),
        }
        hasher.finish()
    }
}
