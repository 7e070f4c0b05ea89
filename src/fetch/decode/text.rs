//! What a raw JSON value is, and the text it holds.

use std::borrow::Cow;

/// The kind of a raw JSON value, for an error text: the kind may be said where the value may not.
pub(super) fn kind(raw: &str) -> &'static str {
    raw.as_bytes().first().map_or("nothing", |first| kind_of(*first))
}

/// The kind of the value that begins with this byte.
pub(super) fn kind_of(first: u8) -> &'static str {
    match first {
        b'{' => "an object",
        b'[' => "an array",
        b'"' => "a string",
        b't' | b'f' => "a boolean",
        b'n' => "null",
        _ => "a number",
    }
}

/// The content of a raw string; `None` for other kinds, and for half a surrogate pair, which is no text.
pub(super) fn string(raw: &str) -> Option<Cow<'_, str>> {
    let bare = raw.strip_prefix('"')?.strip_suffix('"')?;
    if bare.contains('\\') { serde_json::from_str(raw).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(bare)) }
}

/// A string, number or boolean as text; `None` for the rest.
pub(super) fn scalar(raw: &str) -> Option<Cow<'_, str>> {
    match raw.as_bytes().first()? {
        b'{' | b'[' | b'n' => None,
        b'"' => string(raw),
        _ => Some(Cow::Borrowed(raw)),
    }
}
