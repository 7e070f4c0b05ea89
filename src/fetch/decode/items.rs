//! The items of one response, in order, up to the first that cannot be used.

use std::sync::Arc;

use super::{
    decode_failed,
    mapping::{ItemError, ItemMapping},
};
use crate::{
    api::event_source::Format,
    fetch::{FetchError, Item},
};

/// Items are held back in parts of so many: one list would grow by as much as it has.
const PART: usize = 512;

/// Takes the items that a body is cut into.
pub(super) struct Items {
    mapping: Arc<ItemMapping>,
    format: Format,
    /// They are of an array that nobody named.
    pub(super) guessed: bool,
    /// Items seen so far, so that errors count from 1.
    seen: usize,
    ready: Vec<Item>,
    /// What is held back before `ready`, in parts.
    earlier: Vec<Vec<Item>>,
    /// What they take in memory.
    pub(super) ready_bytes: u64,
    /// The first item that could not be used; nothing after it is taken.
    pub(super) failed: Option<FetchError>,
}

impl Items {
    pub(super) fn new(mapping: Arc<ItemMapping>, format: Format) -> Self {
        Self {
            mapping,
            format,
            guessed: false,
            seen: 0,
            ready: Vec::new(),
            earlier: Vec::new(),
            ready_bytes: 0,
            failed: None,
        }
    }

    /// The number of the item that comes next.
    pub(super) fn next_number(&self) -> usize {
        self.seen + 1
    }

    pub(super) fn any_seen(&self) -> bool {
        self.seen > 0
    }

    /// Takes one item, which begins at byte `start` of the body.
    pub(super) fn take(&mut self, start: usize, bytes: &[u8]) {
        self.seen += 1;
        if self.failed.is_some() {
            return;
        }
        match self.mapping.item(bytes) {
            Ok(item) => {
                self.ready_bytes += item.bytes();
                if self.ready.len() == PART {
                    self.earlier.push(std::mem::replace(&mut self.ready, Vec::with_capacity(PART)));
                }
                self.ready.push(item);
            }
            Err(error) => self.failed = Some(self.explain(start, error)),
        }
    }

    /// How many can be handed out.
    pub(super) fn ready(&self) -> usize {
        self.earlier.len() * PART + self.ready.len()
    }

    pub(super) fn take_ready(&mut self) -> Vec<Item> {
        self.ready_bytes = 0;
        let last = std::mem::take(&mut self.ready);
        if self.earlier.is_empty() {
            return last;
        }
        let mut items = Vec::with_capacity(self.earlier.len() * PART + last.len());
        items.extend(std::mem::take(&mut self.earlier).into_iter().flatten());
        items.extend(last);
        items
    }

    fn explain(&self, start: usize, error: ItemError) -> FetchError {
        let item = self.seen;
        let lines = self.format == Format::NDJSON;
        match error {
            ItemError::NotJson { at, cut_short: true, .. } if lines => decode_failed(
                start + at,
                &format!(
                    "item {item} does not end on its line; if the body is one JSON value over several lines, set \
                     `http.decode.format: JSON`"
                ),
            ),
            ItemError::NotJson { at, what, .. } => decode_failed(start + at, &format!("item {item} {what}")),
            ItemError::NoId { problem, remedy, item: kind } => {
                let what_to_do = if lines && kind == "an array" {
                    format!("{remedy}, or `http.decode.format: JSON` if the body is one array of items")
                } else if self.guessed {
                    format!(
                        "if the items are elsewhere, add `http.decode.itemsPath: $.<path>` with the path of their array, \
                         else {remedy}"
                    )
                } else {
                    remedy.to_owned()
                };
                FetchError::MappingFailed { item, detail: format!("{problem}; {what_to_do}") }
            }
        }
    }
}
