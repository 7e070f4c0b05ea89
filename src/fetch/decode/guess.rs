//! The array of items in an object, where the EventSource names none (`http.decode.itemsPath`).
//!
//! The only array of the object is taken for it. What is taken for the wrong one moves the cursor over events, so it is
//! taken only when nothing can follow the object, when the object is not itself like an item, and under the name that served
//! events before.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    path::{Path, Step},
    text::string,
    tree::PathTree,
};
use crate::event::Cursor;

/// The slot of the id in [`Guess::below`].
const ID: usize = 0;

/// The array that served events before, of all responses of one source. Its name is content of a body, so no more than a
/// keyed hash of it is kept: 64 bits that no source can aim at.
#[derive(Debug, Default)]
pub(super) struct Served {
    hashes: RandomState,
    names: Mutex<Names>,
}

#[derive(Debug, Default)]
struct Names {
    /// Of the array whose items were taken.
    taken: Option<u64>,
    /// Of the array of the last response with items, and the cursor that it was asked for with.
    last: Option<(Cursor, u64)>,
}

impl Served {
    /// The next response is asked for with this cursor. One that has moved shows that the items before it were taken.
    pub(super) fn asked(&self, after: &Cursor) {
        let mut names = self.names();
        if let Some((asked, array)) = names.last.take()
            && asked != *after
        {
            names.taken.get_or_insert(array);
        }
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one response tells about its array.
pub(super) struct Guess {
    served: Arc<Served>,
    after: Cursor,
    id_path: Arc<Path>,
    /// The rest of the id path, below the member of the object that its first step names.
    below: PathTree,
    /// The name of the member that is being passed, and whether the id path begins with it.
    key: (u64, bool),
    /// The name of the array.
    array: Option<u64>,
    /// The object has an id where an item has its own.
    has_id: bool,
    /// The body has ended, and nothing speaks against the guess.
    pub(super) settled: bool,
}

impl Guess {
    pub(super) fn new(id_path: Arc<Path>, served: Arc<Served>, after: Cursor) -> Self {
        let mut below = PathTree::default();
        below.add_steps(id_path.steps().get(1..).unwrap_or_default(), ID);
        Self { served, after, id_path, below, key: (0, false), array: None, has_id: false, settled: false }
    }

    /// A member of the object begins with this raw key.
    pub(super) fn key(&mut self, raw: &[u8]) {
        let text = str::from_utf8(raw).ok().and_then(string);
        let name = text.as_ref().map_or(raw, |text| text.as_bytes());
        let on_id_path = match self.id_path.steps().first() {
            Some(Step::Name(step)) => text.as_ref().is_some_and(|text| text == step),
            _ => false,
        };
        self.key = (self.served.hashes.hash_one(name), on_id_path);
    }

    /// The value of the member is the array.
    pub(super) fn array(&mut self) -> Result<(), String> {
        self.array = Some(self.key.0);
        self.check()
    }

    /// The value of the member is something else, which begins with this byte. Returns whether it is to be kept for
    /// [`Guess::member`], because only its whole tells whether there is an id in it.
    pub(super) fn begins(&mut self, first: u8) -> Result<bool, String> {
        let (_, on_id_path) = self.key;
        if on_id_path && self.id_path.steps().len() == 1 {
            self.has_id |= is_id(first);
            self.check()?;
            return Ok(false);
        }
        Ok(on_id_path && first == b'{')
    }

    pub(super) fn member(&mut self, raw: &[u8]) -> Result<(), String> {
        // What is no JSON here is beside the way, and judged nowhere.
        let found = str::from_utf8(raw).ok().and_then(|text| self.below.find(text).ok());
        let id = found.and_then(|found| found[ID]?.bytes().next());
        self.has_id |= id.is_some_and(is_id);
        self.check()
    }

    fn check(&self) -> Result<(), String> {
        if !self.has_id || self.array.is_none() {
            return Ok(());
        }
        Err(format!(
            "the body is an object with an array and with an id of its own (`{}`), so it may itself be an item; add \
             `http.decode.itemsPath: $.<name>` with the name of the array of items, or, if each line is an item, set \
             `http.decode.format: NDJSON`",
            self.id_path.as_str()
        ))
    }

    /// The body has ended. `seen`: the array has elements; `serves`: some of them are handed out.
    pub(super) fn settle(&mut self, seen: bool, serves: bool) -> Result<(), String> {
        let Some(array) = self.array else { return Ok(()) };
        let mut names = self.served.names();
        if seen && names.taken.is_some_and(|taken| taken != array) {
            return Err("the only array of the body has another name than the one that held the items before; add \
                        `http.decode.itemsPath: $.<name>` with the name of the array of items"
                .to_owned());
        }
        if serves {
            names.last = Some((self.after.clone(), array));
        }
        self.settled = true;
        Ok(())
    }
}

/// Whether a value that begins with this byte may be an id.
fn is_id(first: u8) -> bool {
    matches!(first, b'"' | b'-' | b'0'..=b'9')
}
