//! What an event, an id, a cursor and a stream are. No IO, no clock.

mod id;
mod stream;

pub use id::{Cursor, EventId, IdError, IdKind};
pub use stream::StreamName;

/// One immutable event, as the source delivered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub id: EventId,
    /// What happened (`mapping.typePath`).
    pub event_type: Option<String>,
    /// What it happened to (`mapping.subjectPath`).
    pub subject: Option<String>,
    /// When it happened, as the source says (`mapping.timePath`).
    pub occurred_at: Option<jiff::Timestamp>,
    pub payload: Payload,
}

impl Event {
    /// Whether both say the same, whatever their ids: what comes again with the same content is dropped, and other content is a
    /// conflict.
    #[must_use]
    pub fn same_content(&self, other: &Self) -> bool {
        self.event_type == other.event_type
            && self.subject == other.subject
            && self.occurred_at == other.occurred_at
            && self.payload == other.payload
    }
}

/// The payload of an event: one JSON text, byte for byte as it was sent.
///
/// It never shows its content in `Debug`: payloads must not reach a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(Box<str>);

impl Payload {
    /// Takes a text that the decoder has found to be one complete JSON value.
    #[must_use]
    pub fn from_json_text(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Size in bytes, as it counts against the buffer budget.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

/// One item that PostgreSQL could not hold as an event. It is kept beside the events with its reason, and the batch
/// goes on (DESIGN 5).
#[derive(Clone, PartialEq, Eq)]
pub struct SetAside {
    /// The id of the item; it counts for the cursor as any other.
    pub id: EventId,
    pub reason: SetAsideReason,
    /// The item byte for byte.
    pub item: Box<[u8]>,
}

impl std::fmt::Debug for SetAside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SetAside({:?}, {:?}, {} bytes)", self.id, self.reason, self.item.len())
    }
}

/// Why an item was set aside. The name is written to the table `headgate.set_aside`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetAsideReason {
    /// JSON nested deeper than 128 levels: PostgreSQL would fail the whole statement.
    NestedTooDeep,
    /// A type or subject with a NUL character, or a raw NUL byte anywhere in the item: no PostgreSQL text can hold it.
    NulCharacter,
    /// The same id is stored with other content; the stored one stays.
    ConflictingEvent,
    /// PostgreSQL refused the item although it had passed every check before.
    RefusedByDatabase,
}

impl SetAsideReason {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NestedTooDeep => "NestedTooDeep",
            Self::NulCharacter => "NulCharacter",
            Self::ConflictingEvent => "ConflictingEvent",
            Self::RefusedByDatabase => "RefusedByDatabase",
        }
    }
}
