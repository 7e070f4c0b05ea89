//! Turns the bytes of a response into events while they stream. No IO, no clock.
//!
//! A body is cut into items byte-exactly as soon as each is complete (`body` for JSON, `lines` for NDJSON); each item
//! is then proved to be JSON and mapped to an event (`mapping`). Memory is bounded by the largest item, or by the items of
//! the whole body where they are held back; `held` tells how much it is.
//!
//! What was decided here, beside DESIGN 1, 4, 5 and 7:
//!
//! - **Order of errors.** Items before a bad one are handed out first; then the error, and nothing after it.
//! - **An object without `itemsPath`** hands its items out when the body has ended, because only then it is known to have had
//!   exactly one array, with nothing behind it; see `guess`. With `itemsPath`, or a body that is an array, they flow, and a cut
//!   body keeps its prefix.
//! - **Ids** are strings, or numbers without sign, fraction and exponent, taken from their digits.
//! - **Only the id is required.** Time, type and subject that are missing or of an unusable kind are none, and without a
//!   value at `dataPath` the whole item is the payload: no such field may lose an event or stop the cursor. Type and
//!   subject may be strings, numbers or booleans; for times see `time`.
//! - **CloudEvents**: the id of the event is the attribute `id` alone, though the standard makes it unique per `source`: the
//!   order and the cursor of a stream need one id. A feed of several producers with the same ids shows as
//!   ConflictingEvent. For the payload see `mapping`.
//! - **Repeated keys**: the last counts. On the way to the items they are an error, because earlier items have gone.
//! - **Set aside** under their id: payloads nested deeper than 128, types and subjects with `\u0000`, and items with a raw
//!   NUL byte in a string, which is no JSON but common. Half surrogate pairs, `\u0000`, long numbers and repeated keys in a
//!   payload stay byte for byte.
//! - **Error texts** name positions, kinds, and the spec's own paths; never a key or value of the body. Bytes count from 0,
//!   in the decompressed body; items from 1.

use std::sync::Arc;

use self::{
    body::Body,
    guess::{Guess, Served},
    items::Items,
    lines::Lines,
    mapping::ItemMapping,
    path::Path,
};
use super::{FetchError, Item, OpenError};
use crate::{
    api::event_source::{Decode, Format, Mapping},
    event::Cursor,
};

mod body;
mod cut;
mod guess;
mod items;
mod lines;
mod mapping;
mod path;
mod text;
mod time;
mod tree;

/// The byte order mark, which RFC 8259 lets a reader ignore at the start.
const BOM: &[u8] = b"\xEF\xBB\xBF";

/// The room of a begun item that is kept for the next one. The rest of a large one is given back.
const MOST_KEPT: usize = 64 * 1024;

/// How one source's responses are read. Cheap to clone; clones share what the responses before told.
#[derive(Debug, Clone)]
pub struct Decoder {
    format: Format,
    items_path: Option<Arc<Path>>,
    mapping: Arc<ItemMapping>,
    served: Arc<Served>,
}

impl Decoder {
    /// # Errors
    /// [`OpenError::InvalidSpec`] with the field that does not make sense.
    pub fn new(decode: &Decode, mapping: &Mapping) -> Result<Self, OpenError> {
        const FIELD: &str = "http.decode.itemsPath";
        let invalid = |detail| OpenError::InvalidSpec { field: FIELD, detail };
        let items_path = match (&decode.items_path, decode.format) {
            (None, _) => None,
            (Some(_), Format::NDJSON) => return Err(invalid("only `format: JSON` has a path to its items".to_owned())),
            (Some(path), Format::JSON) => {
                Some(Arc::new(Path::parse(path).map_err(|error| invalid(error.to_string()))?))
            }
        };
        let mapping = Arc::new(ItemMapping::new(mapping)?);
        Ok(Self { format: decode.format, items_path, mapping, served: Arc::default() })
    }

    /// Begins the response to a request for what comes after this cursor.
    #[must_use]
    pub fn page(&self, after: &Cursor) -> PageDecoder {
        self.served.asked(after);
        let shape = match self.format {
            Format::JSON => Shape::Json(Body::new(self.items_path.clone(), || {
                Guess::new(Arc::clone(self.mapping.id_path()), Arc::clone(&self.served), after.clone())
            })),
            Format::NDJSON => Shape::Lines(Lines::default()),
        };
        PageDecoder { shape, items: Items::new(Arc::clone(&self.mapping), self.format), failed: None }
    }
}

/// Reads one response. Not `Debug`: it holds a piece of the body.
pub struct PageDecoder {
    shape: Shape,
    items: Items,
    failed: Option<FetchError>,
}

enum Shape {
    Json(Body),
    Lines(Lines),
}

impl PageDecoder {
    /// Takes the next bytes of the body, decompressed; returns the items that became complete, in order.
    ///
    /// # Errors
    /// When the body cannot be used from here on. Items before the bad place are returned first, by an `Ok` of this or an
    /// earlier call; the error then comes with the next call, and every later one.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Item>, FetchError> {
        if self.failed.is_none() {
            let read = match &mut self.shape {
                Shape::Json(body) => body.push(bytes, &mut self.items),
                Shape::Lines(lines) => {
                    lines.push(bytes, &mut self.items);
                    Ok(())
                }
            };
            self.settle(read);
        }
        self.hand_out()
    }

    /// The body has ended as its transport says it should. What was held back comes at once, so that it is judged as a whole.
    ///
    /// # Errors
    /// As [`PageDecoder::push`], and when the body ended before its JSON did.
    pub fn finish(&mut self) -> Result<Vec<Item>, FetchError> {
        if self.failed.is_none() {
            let read = match &mut self.shape {
                Shape::Json(body) => body.finish(&self.items),
                Shape::Lines(lines) => lines.end(&mut self.items),
            };
            self.settle(read);
        }
        self.hand_out()
    }

    /// Notes what went wrong. While items are held back, the shape of the whole body counts before a bad item in what may
    /// be the wrong array.
    fn settle(&mut self, read: Result<(), FetchError>) {
        match read {
            Err(shape) => self.failed = Some(shape),
            Ok(()) if self.holds_back() => {}
            Ok(()) => self.failed = self.items.failed.take(),
        }
    }

    fn hand_out(&mut self) -> Result<Vec<Item>, FetchError> {
        let items = if self.holds_back() { Vec::new() } else { self.items.take_ready() };
        match &self.failed {
            Some(error) if items.is_empty() => Err(error.clone()),
            _ => Ok(items),
        }
    }

    /// To be called where nothing of the transport marks the end of the body: a number that its last line ends in may be the
    /// begin of another, and is not taken.
    pub fn end_may_be_a_cut(&mut self) {
        if let Shape::Lines(lines) = &mut self.shape {
            lines.may_be_cut = true;
        }
    }

    /// Whether a body that was cut short can be told from one that has ended: lines end anywhere.
    #[must_use]
    pub fn marks_its_end(&self) -> bool {
        matches!(self.shape, Shape::Json(_))
    }

    /// Bytes kept between two pushes: a begun item, and the items that are held back.
    #[must_use]
    pub fn held(&self) -> u64 {
        let begun = match &self.shape {
            Shape::Json(body) => body.held_bytes(),
            Shape::Lines(lines) => lines.held_bytes(),
        };
        self.items.ready_bytes + begun as u64
    }

    fn holds_back(&self) -> bool {
        matches!(&self.shape, Shape::Json(body) if body.holds_back())
    }
}

fn decode_failed(at: usize, what: &str) -> FetchError {
    FetchError::DecodeFailed { detail: format!("{what} (at byte {at})") }
}

#[cfg(test)]
mod tests;
