use std::{cmp::Ordering, fmt, sync::Arc};

/// The longest id in bytes. Longer ones are a mistake in `mapping.idPath` more often than an id.
const LONGEST: usize = 1024;

/// The id of an event, unique in its source, kept as the text the source sent.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EventId(Arc<str>);

/// How the ids of a stream compare (DESIGN 1). The first id of a stream decides; another kind later is `MappingFailed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdKind {
    /// Digits only: compared as numbers of any length.
    Number,
    /// Anything else (UUID, ULID): taken in the order of delivery and never compared.
    Opaque,
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

    #[must_use]
    pub fn kind(&self) -> IdKind {
        if self.0.bytes().all(|byte| byte.is_ascii_digit()) { IdKind::Number } else { IdKind::Opaque }
    }

    /// What all texts of the same id have in common: numbers compare without their leading zeros.
    #[must_use]
    pub fn significant(&self) -> &str {
        match self.kind() {
            IdKind::Number => self.0.trim_start_matches('0'),
            IdKind::Opaque => &self.0,
        }
    }

    /// The order of two numeric ids, whatever their length; `None` when either is opaque.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        if self.kind() == IdKind::Opaque || other.kind() == IdKind::Opaque {
            return None;
        }
        let (a, b) = (self.significant(), other.significant());
        Some(a.len().cmp(&b.len()).then_with(|| a.cmp(b)))
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
    /// Where storing `id` leaves the cursor: a number below it (it came late in its page) does not move it.
    #[must_use]
    pub fn moved_to(&self, id: &EventId) -> Self {
        match self.id().and_then(|passed| id.compare(passed)) {
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
        assert_eq!(id("9").compare(&id("10")), Some(Ordering::Less));
        assert_eq!(id("007").compare(&id("7")), Some(Ordering::Equal));
        assert_eq!(id(&long).compare(&id("18446744073709551616")), Some(Ordering::Greater));
    }

    #[test]
    fn opaque_ids_are_never_compared() {
        assert_eq!(id("01JD8Z6K0V8M").compare(&id("01JD8Z6K0V8N")), None);
        assert_eq!(id("1").compare(&id("a")), None);
    }

    #[test]
    fn a_text_that_is_no_id_is_refused() {
        assert_eq!(EventId::new(""), Err(IdError::Empty));
        assert_eq!(EventId::new("a\u{0}b"), Err(IdError::ControlCharacter));
        assert_eq!(EventId::new(&"x".repeat(1025)), Err(IdError::TooLong));
    }
}
