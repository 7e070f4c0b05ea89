//! JSON: the items are the elements of one array somewhere in the body.
//!
//! The body is walked byte by byte as it arrives. Only what leads to the items is looked at; values beside that way are
//! skipped by their brackets, because Headgate keeps nothing of them.

use std::sync::Arc;

use super::{
    BOM, MOST_KEPT,
    cut::{Cut, is_space},
    decode_failed,
    guess::Guess,
    items::Items,
    path::{Path, Step},
    text::{kind_of, string},
};
use crate::fetch::FetchError;

/// The most items held back until an object without `itemsPath` has ended. An item of a few bytes takes some two hundred
/// in memory, so the bound on the body alone would not bound what a hostile source makes us hold.
const MOST_HELD: usize = 100_000;

const NO_VALUE: &str = "the body is not JSON: expected a value";

/// The walk through one body.
pub(super) struct Body {
    /// `None`: the body is the array, or an object with exactly one.
    items_path: Option<Arc<Path>>,
    /// Which one that is, in an object without `items_path`.
    guess: Option<Guess>,
    /// The body is an object.
    in_object: bool,
    place: Place,
    /// The open arrays and objects on the way to the items, outermost first.
    open: Vec<Open>,
    /// Whether the value that comes next lies on the way to the items.
    on_the_way: bool,
    /// Where the key or value that is being passed begins in the body.
    begun: usize,
    /// The part of the key or item being passed that came with earlier pieces.
    pending: Vec<u8>,
    /// How many bytes of the body came before this piece.
    passed: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the body, after so many bytes of a byte order mark.
    Start(usize),
    /// A value must follow.
    Value,
    /// `[` just opened.
    FirstValueOrEnd,
    /// `{` just opened.
    FirstKeyOrEnd,
    Key,
    /// Inside a key or value that ends where the cut says.
    Passing(Passing, Cut),
    Colon,
    /// After a value inside an array or object.
    CommaOrEnd,
    /// After the body.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passing {
    Key,
    Item,
    /// A value that is not on the way.
    Aside,
    /// Such a value that the guess must see.
    Member,
    /// What should be `null`, where the array of items should be: none, as some servers write an empty list.
    Null,
}

/// An array or object that is open.
#[derive(Debug)]
struct Open {
    object: bool,
    /// The array whose elements are the items.
    items: bool,
    /// How many elements have begun.
    elements: usize,
    /// Whether the step of the way through it was found.
    found: bool,
}

impl Body {
    /// `guess` makes what is needed where a body without `items_path` is an object.
    pub(super) fn new(items_path: Option<Arc<Path>>, guess: impl FnOnce() -> Guess) -> Self {
        let guess = if items_path.is_none() { Some(guess()) } else { None };
        Self {
            items_path,
            guess,
            in_object: false,
            place: Place::Start(0),
            open: Vec::new(),
            on_the_way: true,
            begun: 0,
            pending: Vec::new(),
            passed: 0,
        }
    }

    /// Whether the items are not to be handed out yet: only the end of the body tells that it was an object with exactly one
    /// array, and no line of many; nothing of the wrong array must ever be stored. A body with `itemsPath`, or that is an array,
    /// holds nothing back.
    pub(super) fn holds_back(&self) -> bool {
        self.in_object && self.guess.as_ref().is_some_and(|guess| !guess.settled)
    }

    pub(super) fn push(&mut self, bytes: &[u8], items: &mut Items) -> Result<(), FetchError> {
        let mut at = 0;
        // After a bad item only an object is read on: its shape may turn out to be the greater mistake.
        while at < bytes.len() && (items.failed.is_none() || self.holds_back()) {
            match &mut self.place {
                Place::Passing(passing, cut) => {
                    let (passing, Some(length)) = (*passing, cut.advance(&bytes[at..])) else { break };
                    at += length;
                    self.pass(passing, &bytes[..at], items)?;
                }
                Place::Start(marks) if self.passed + at == *marks && BOM.get(*marks) == Some(&bytes[at]) => {
                    *marks += 1;
                    at += 1;
                }
                place => {
                    let in_mark = matches!(place, Place::Start(1 | 2));
                    if in_mark || !is_space(bytes[at]) {
                        self.token(bytes[at], self.passed + at)?;
                    }
                    at += 1;
                }
            }
        }
        if matches!(self.place, Place::Passing(Passing::Key | Passing::Item | Passing::Member | Passing::Null, _)) {
            self.pending.extend_from_slice(&bytes[self.begun.saturating_sub(self.passed)..]);
        }
        self.passed += bytes.len();
        Ok(())
    }

    /// The body ended.
    pub(super) fn finish(&mut self, items: &Items) -> Result<(), FetchError> {
        if self.open.is_empty() && matches!(self.place, Place::Passing(Passing::Null, _)) {
            // Only the end of the body ends a bare value.
            let raw = std::mem::take(&mut self.pending);
            self.null(&raw)?;
            self.place = Place::End;
        }
        match (self.place, &mut self.guess) {
            (Place::End, Some(guess)) => {
                let settled = guess.settle(items.any_seen(), items.ready() > 0);
                settled.map_err(|what| decode_failed(self.passed, &what))
            }
            (Place::End, None) => Ok(()),
            (Place::Start(0 | 3), _) => Err(decode_failed(self.passed, "the body is empty")),
            (Place::Passing(Passing::Item, _), _) => {
                Err(decode_failed(self.passed, &format!("the body ends inside item {}", items.next_number())))
            }
            _ => Err(decode_failed(self.passed, "the body ends before its JSON value does")),
        }
    }

    /// A key or value ended with the last of `bytes`, which are all of this piece so far.
    fn pass(&mut self, passing: Passing, bytes: &[u8], items: &mut Items) -> Result<(), FetchError> {
        self.place = match passing {
            Passing::Key => Place::Colon,
            _ if self.open.is_empty() => Place::End,
            _ => Place::CommaOrEnd,
        };
        if passing == Passing::Aside {
            return Ok(());
        }
        let mut pending = std::mem::take(&mut self.pending);
        let mut whole = &bytes[self.begun.saturating_sub(self.passed)..];
        if !pending.is_empty() {
            pending.extend_from_slice(whole);
            whole = &pending;
        }
        let passed = match passing {
            Passing::Key => self.key(whole),
            Passing::Null => self.null(whole),
            Passing::Member => self.guess(self.begun, |guess| guess.member(whole)).map(|_| ()),
            _ if self.holds_back() && items.ready() == MOST_HELD => Err(decode_failed(
                self.begun,
                &format!(
                    "the body is an object with more than {MOST_HELD} items; add `http.decode.itemsPath: $.<name>` with \
                     the name of their array, then they need not be held back"
                ),
            )),
            _ => {
                items.guessed = self.in_object && self.guess.is_some();
                items.take(self.begun, whole);
                Ok(())
            }
        };
        pending.clear();
        pending.shrink_to(MOST_KEPT);
        self.pending = pending;
        passed
    }

    /// A byte between keys and values, white space apart.
    fn token(&mut self, byte: u8, at: usize) -> Result<(), FetchError> {
        match (self.place, byte) {
            (Place::FirstKeyOrEnd | Place::Key, b'"') => self.begin(Passing::Key, byte, at),
            (Place::Colon, b':') => {
                self.place = Place::Value;
                Ok(())
            }
            (Place::FirstKeyOrEnd | Place::CommaOrEnd, b'}') if self.innermost().object => self.close(at),
            (Place::FirstValueOrEnd | Place::CommaOrEnd, b']') if !self.innermost().object => self.close(at),
            (Place::CommaOrEnd, b',') => {
                self.place = if self.innermost().object { Place::Key } else { Place::Value };
                Ok(())
            }
            (Place::Start(_) | Place::Value | Place::FirstValueOrEnd, _) => self.value(byte, at),
            (Place::FirstKeyOrEnd | Place::Key, _) => Err(decode_failed(at, "the body is not JSON: expected a key")),
            (Place::Colon, _) => Err(decode_failed(at, "the body is not JSON: expected `:`")),
            (Place::CommaOrEnd, _) => {
                let end = if self.innermost().object { '}' } else { ']' };
                Err(decode_failed(at, &format!("the body is not JSON: expected `,` or `{end}`")))
            }
            (Place::End | Place::Passing(..), _) => {
                let what = "something follows the JSON value of the body; if it has one item per line, set \
                            `http.decode.format: NDJSON`";
                Err(decode_failed(at, what))
            }
        }
    }

    fn innermost(&self) -> &Open {
        self.open.last().expect("commas and ends are only looked for inside an array or object")
    }

    fn begin(&mut self, passing: Passing, byte: u8, at: usize) -> Result<(), FetchError> {
        let Some(cut) = Cut::begin(byte) else {
            let what = match byte {
                b'<' => "the body is not JSON (it looks like HTML or XML)",
                _ => NO_VALUE,
            };
            return Err(decode_failed(at, what));
        };
        self.begun = at;
        self.place = Place::Passing(passing, cut);
        Ok(())
    }

    /// Whether a key leads on.
    fn key(&mut self, raw: &[u8]) -> Result<(), FetchError> {
        if let Some(guess) = &mut self.guess {
            guess.key(raw);
        }
        // Without a path the value tells, not the key.
        let Some(path) = &self.items_path else { return Ok(()) };
        let Some(Step::Name(name)) = path.steps().get(self.open.len() - 1) else { return Ok(()) };
        let key = str::from_utf8(raw).ok().and_then(string);
        self.on_the_way = key.is_some_and(|key| key == **name);
        self.step_found(self.begun)
    }

    /// Notes that the innermost array or object leads on, if it does.
    fn step_found(&mut self, at: usize) -> Result<(), FetchError> {
        let level = self.open.len();
        let Some(open) = self.open.last_mut().filter(|_| self.on_the_way) else { return Ok(()) };
        if !std::mem::replace(&mut open.found, true) {
            return Ok(());
        }
        let what = match &self.items_path {
            Some(path) => format!("`{}` is in the body more than once", path.prefix(level)),
            None => "the body is an object with more than one array; add `http.decode.itemsPath: $.<name>` with the name of \
                     the array of items"
                .to_owned(),
        };
        Err(decode_failed(at, &what))
    }

    /// A value begins: an item, something on the way to the items, or something aside.
    fn value(&mut self, byte: u8, at: usize) -> Result<(), FetchError> {
        if Cut::begin(byte).is_none() || self.open.last().is_some_and(|open| open.items) {
            return self.begin(Passing::Item, byte, at);
        }
        let level = self.open.len();
        if let Some(array) = self.open.last_mut().filter(|open| !open.object) {
            let step = self.items_path.as_ref().and_then(|path| path.steps().get(level - 1));
            self.on_the_way = step == Some(&Step::Index(array.elements));
            array.elements += 1;
            self.step_found(at)?;
        } else if level == 1 && self.items_path.is_none() {
            self.on_the_way = byte == b'[';
            self.step_found(at)?;
            if !self.on_the_way {
                let kept = self.guess(at, |guess| guess.begins(byte))?.unwrap_or_default();
                return self.begin(if kept { Passing::Member } else { Passing::Aside }, byte, at);
            }
            self.guess(at, Guess::array)?;
        }
        if !self.on_the_way {
            return self.begin(Passing::Aside, byte, at);
        }
        let (object, items) = self.needed(byte);
        if byte == b'n' && items {
            return self.begin(Passing::Null, byte, at);
        }
        if byte != if object { b'{' } else { b'[' } {
            return Err(self.wrong_kind(byte, at));
        }
        self.place = if object { Place::FirstKeyOrEnd } else { Place::FirstValueOrEnd };
        self.in_object |= self.open.is_empty() && object;
        self.open.push(Open { object, items, elements: 0, found: false });
        Ok(())
    }

    fn null(&self, raw: &[u8]) -> Result<(), FetchError> {
        if raw == b"null" { Ok(()) } else { Err(decode_failed(self.begun, NO_VALUE)) }
    }

    fn guess<T>(
        &mut self,
        at: usize,
        ask: impl FnOnce(&mut Guess) -> Result<T, String>,
    ) -> Result<Option<T>, FetchError> {
        self.guess.as_mut().map(ask).transpose().map_err(|what| decode_failed(at, &what))
    }

    /// What must stand at this level of the way: whether an object, and whether the items themselves.
    fn needed(&self, byte: u8) -> (bool, bool) {
        match &self.items_path {
            Some(path) => match path.steps().get(self.open.len()) {
                Some(Step::Name(_)) => (true, false),
                Some(Step::Index(_)) => (false, false),
                None => (false, true),
            },
            None if self.open.is_empty() && byte == b'{' => (true, false),
            None => (false, true),
        }
    }

    fn wrong_kind(&self, byte: u8, at: usize) -> FetchError {
        let kind = kind_of(byte);
        let what = match &self.items_path {
            Some(path) => self.needed_instead(path, kind),
            None => format!("the body is {kind}; it must be an array of items, or an object with one"),
        };
        decode_failed(at, &what)
    }

    fn needed_instead(&self, path: &Path, found: &str) -> String {
        let level = self.open.len();
        let needed = if matches!(path.steps().get(level), Some(Step::Name(_))) { "an object" } else { "an array" };
        let (path, here) = (path.as_str(), path.prefix(level));
        format!("found {found} at `{here}`; `http.decode.itemsPath: {path}` needs {needed} there")
    }

    fn close(&mut self, at: usize) -> Result<(), FetchError> {
        if let Some(open) = self.open.last()
            && !open.items
            && !open.found
        {
            return Err(self.not_found(at));
        }
        self.open.pop();
        self.place = if self.open.is_empty() { Place::End } else { Place::CommaOrEnd };
        Ok(())
    }

    fn not_found(&self, at: usize) -> FetchError {
        let what = match &self.items_path {
            Some(path) => self.needed_instead(path, "nothing"),
            None => "the body is an object without an array; add `http.decode.itemsPath: $.<path>` with the path of the array \
                     of items, or, if each line is an item, set `http.decode.format: NDJSON`"
                .to_owned(),
        };
        decode_failed(at, &what)
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.pending.capacity()
    }
}
