use std::{cmp::Ordering, fmt, sync::Arc};

/// The longest id in bytes. Longer ones are a mistake in `mapping.idPath` more often than an id.
const LONGEST: usize = 1024;

/// The id of an event, unique in its source, kept as the text the source sent.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EventId(Arc<str>);

/// How the ids of a stream compare (DESIGN 1). The stream has a kind and an id has none: among hexadecimal ids some are digits
/// only, and are no numbers for that. So two ids are compared by asking the kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdKind {
    /// All ids are digits only: compared as numbers of any length.
    Number,
    /// Some are not (UUID, ULID, hexadecimal): taken in the order of delivery and never compared.
    Opaque,
}

impl IdKind {
    /// Whether a stream of this kind can hold the id.
    #[must_use]
    pub fn takes(self, id: &EventId) -> bool {
        self == Self::Opaque || id.is_digits()
    }

    /// What all texts of the same id have in common: numbers compare without their leading zeros.
    #[must_use]
    pub fn significant(self, id: &EventId) -> &str {
        match self {
            Self::Number => id.0.trim_start_matches('0'),
            Self::Opaque => &id.0,
        }
    }

    /// The order of two ids of a stream of numbers, whatever their length; `None` where either is none, or the stream is opaque.
    #[must_use]
    pub fn compare(self, a: &EventId, b: &EventId) -> Option<Ordering> {
        if self == Self::Opaque || !a.is_digits() || !b.is_digits() {
            return None;
        }
        let (a, b) = (self.significant(a), self.significant(b));
        Some(a.len().cmp(&b.len()).then_with(|| a.cmp(b)))
    }
}

/// Why a text is no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("the id is empty")]
    Empty,
    #[error("the id is longer than {LONGEST} bytes")]
    TooLong,
    #[error("the id holds a control character")]
    ControlCharacter,
}

impl EventId {
    /// # Errors
    /// When the text is empty, longer than 1024 bytes or holds a control character (which no query parameter, log
    /// or PostgreSQL text should carry).
    pub fn new(text: &str) -> Result<Self, IdError> {
        if text.is_empty() {
            return Err(IdError::Empty);
        }
        if text.len() > LONGEST {
            return Err(IdError::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(IdError::ControlCharacter);
        }
        Ok(Self(text.into()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it could be a number. Only its stream tells whether it is one, see [`IdKind`].
    #[must_use]
    pub fn is_digits(&self) -> bool {
        self.0.bytes().all(|byte| byte.is_ascii_digit())
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A position in a stream: everything up to and with this id is stored.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Cursor {
    /// Before the first event.
    Start,
    After(EventId),
}

impl Cursor {
    /// Where storing `id` leaves the cursor of a stream of this kind: a number below it (it came late in its page) does not
    /// move it.
    #[must_use]
    pub fn moved_to(&self, id: &EventId, kind: IdKind) -> Self {
        match self.id().and_then(|passed| kind.compare(id, passed)) {
            Some(Ordering::Less) => self.clone(),
            _ => Self::After(id.clone()),
        }
    }

    /// The id to ask after; none at the start.
    #[must_use]
    pub fn id(&self) -> Option<&EventId> {
        match self {
            Self::Start => None,
            Self::After(id) => Some(id),
        }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("(start)"),
            Self::After(id) => id.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> EventId {
        EventId::new(text).expect("a valid id")
    }

    #[test]
    fn numbers_compare_by_value_whatever_their_length() {
        let long = "9".repeat(40);
        let compare = |a, b| IdKind::Number.compare(&id(a), &id(b));
        assert_eq!(compare("9", "10"), Some(Ordering::Less));
        assert_eq!(compare("007", "7"), Some(Ordering::Equal));
        assert_eq!(compare(&long, "18446744073709551616"), Some(Ordering::Greater));
        assert_eq!(compare("1", "a"), None);
    }

    #[test]
    fn opaque_ids_are_never_compared_also_where_they_are_digits_only() {
        for (a, b) in [("01JD8Z6K0V8M", "01JD8Z6K0V8N"), ("1", "a"), ("507199111111", "507199222222")] {
            assert_eq!(IdKind::Opaque.compare(&id(a), &id(b)), None);
        }
        assert_ne!(IdKind::Opaque.significant(&id("007")), IdKind::Opaque.significant(&id("7")));
        let cursor = Cursor::After(id("507199222222"));
        assert_eq!(cursor.moved_to(&id("507199111111"), IdKind::Number), cursor);
        let moved = cursor.moved_to(&id("507199111111"), IdKind::Opaque);
        assert_eq!(moved.id(), Some(&id("507199111111")), "it comes later in the feed");
    }

    #[test]
    fn a_text_that_is_no_id_is_refused() {
        assert_eq!(EventId::new(""), Err(IdError::Empty));
        assert_eq!(EventId::new("a\u{0}b"), Err(IdError::ControlCharacter));
        assert_eq!(EventId::new(&"x".repeat(1025)), Err(IdError::TooLong));
    }
}
