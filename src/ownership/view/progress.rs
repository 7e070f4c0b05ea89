//! How far the watch has come, and what is known ahead of it.
//!
//! The resourceVersions of Leases are numbers that order all that is said of them, whichever Lease it is said of (KEP-5504). A
//! list tells how all were at one of these, which it does not name, and a watch begins there and shows what came later, in order.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use crate::{event::StreamName, ownership::lease::Version};

/// Whose Lease it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Member(Arc<str>),
    Source(StreamName),
}

/// What the watch has shown, and what answers have told since.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// All that was written up to this version was shown, deletions included.
    shown: u64,
    /// What only an answer has told, by version: the watch is still to come to it. What an answer told before a list began, that
    /// list shows.
    ahead: BTreeMap<u64, Key>,
    /// The list that is being read.
    list: Option<List>,
}

#[derive(Debug, Default)]
struct List {
    keys: HashSet<Key>,
    /// The list tells how all Leases were at this version, or at a later one.
    newest: u64,
}

impl Progress {
    /// Whether the watch has shown this version, or what became of it.
    pub(super) fn has_shown(&self, version: &Version) -> bool {
        version.number().is_some_and(|version| version <= self.shown)
    }

    /// An answer has told of this version of a Lease.
    pub(super) fn answered(&mut self, key: Key, version: &Version) {
        if let Some(version) = version.number() {
            self.ahead.insert(version, key);
        }
    }

    /// Whether this version of the Lease is only known by an answer: a list that was asked for before may not show it.
    pub(super) fn is_ahead(&self, key: &Key, version: &Version) -> bool {
        version.number().is_some_and(|version| self.ahead.get(&version) == Some(key))
    }

    pub(super) fn begin_list(&mut self) {
        self.ahead.clear();
        self.list = Some(List::default());
    }

    /// A list shows a Lease of this version; `key` if it can be read.
    pub(super) fn listed(&mut self, key: Option<Key>, version: &Version) {
        let list = self.list.get_or_insert_default();
        list.newest = list.newest.max(version.number().unwrap_or_default());
        list.keys.extend(key);
    }

    /// A list shows an older version than was known before it began: the API server counts from an earlier one again.
    pub(super) fn went_back(&mut self) {
        self.shown = 0;
    }

    /// The list has ended. Returns the Leases that are there: those that it showed, and those that answers have told of that may
    /// be of later. None if there is no list.
    pub(super) fn end_list(&mut self) -> Option<HashSet<Key>> {
        let List { mut keys, newest } = self.list.take()?;
        self.shown = self.shown.max(newest);
        self.ahead.retain(|version, _| *version > newest);
        keys.extend(self.ahead.values().cloned());
        Some(keys)
    }

    /// The watch shows this version of a Lease. Returns what answers have told of older ones, by their versions: it did not show
    /// these, so they had gone when the list was taken that it began with.
    pub(super) fn watched(&mut self, version: &Version) -> Vec<(u64, Key)> {
        let Some(version) = version.number() else { return Vec::new() };
        self.shown = self.shown.max(version);
        self.ahead.remove(&version);
        let mut passed = Vec::new();
        while let Some(oldest) = self.ahead.first_entry().filter(|oldest| *oldest.key() < version) {
            passed.push(oldest.remove_entry());
        }
        passed
    }
}
