//! One item of a response -> one event, as `mapping` of the EventSource says.

use std::{borrow::Cow, sync::Arc};

use super::{
    cut::nests_deeper,
    path::Path,
    text,
    time::occurred_at,
    tree::{Found, PathTree},
};
use crate::{
    api::event_source::{Mapping, MappingPreset},
    event::{Event, EventId, Payload, SetAside, SetAsideReason},
    fetch::{Item, OpenError},
};

/// Deeper payloads would fail PostgreSQL's whole statement (DESIGN 4).
const DEEPEST: usize = 128;

/// The slots of the [`PathTree`].
mod slot {
    pub(super) const ID: usize = 0;
    pub(super) const TIME: usize = 1;
    pub(super) const TYPE: usize = 2;
    pub(super) const SUBJECT: usize = 3;
    pub(super) const DATA: usize = 4;
    pub(super) const DATA_BASE64: usize = 5;
    pub(super) const DATA_CONTENT_TYPE: usize = 6;
}

/// Makes events of items.
#[derive(Debug)]
pub(super) struct ItemMapping {
    tree: PathTree,
    id_path: Arc<Path>,
    preset: Option<MappingPreset>,
}

/// Why an item is no event. The texts hold nothing of the item but kinds of values and positions.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ItemError {
    /// It is no JSON in UTF-8; `at` is the byte of the item.
    NotJson { at: usize, what: String, cut_short: bool },
    /// It has no usable id. `remedy` is what to do if it is where the items are.
    NoId { problem: String, remedy: &'static str, item: &'static str },
}

impl ItemMapping {
    pub(super) fn new(mapping: &Mapping) -> Result<Self, OpenError> {
        let paths = [
            ("mapping.timePath", slot::TIME, &mapping.time_path),
            ("mapping.typePath", slot::TYPE, &mapping.type_path),
            ("mapping.subjectPath", slot::SUBJECT, &mapping.subject_path),
            ("mapping.dataPath", slot::DATA, &mapping.data_path),
        ];
        let mut tree = PathTree::default();
        let id_path = match mapping.preset {
            Some(MappingPreset::CloudEvents) => {
                let other_id = mapping.id_path.as_deref().is_some_and(|path| path != Mapping::DEFAULT_ID_PATH);
                if other_id || paths.iter().any(|(_, _, path)| path.is_some()) {
                    let detail = "it fixes the paths; set either `preset` or paths".to_owned();
                    return Err(OpenError::InvalidSpec { field: "mapping.preset", detail });
                }
                for (slot, path) in [
                    (slot::TIME, "$.time"),
                    (slot::TYPE, "$.type"),
                    (slot::SUBJECT, "$.subject"),
                    (slot::DATA, "$.data"),
                    (slot::DATA_BASE64, "$.data_base64"),
                    (slot::DATA_CONTENT_TYPE, "$.datacontenttype"),
                ] {
                    tree.add(&parse("mapping.preset", path)?, slot);
                }
                parse("mapping.preset", mapping.id_path())?
            }
            None => {
                for (field, slot, path) in paths {
                    if let Some(path) = path {
                        tree.add(&parse(field, path)?, slot);
                    }
                }
                parse("mapping.idPath", mapping.id_path())?
            }
        };
        tree.add(&id_path, slot::ID);
        Ok(Self { tree, id_path: Arc::new(id_path), preset: mapping.preset })
    }

    /// Where an item has its id.
    pub(super) fn id_path(&self) -> &Arc<Path> {
        &self.id_path
    }

    /// Reads one item, which has no white space around it.
    pub(super) fn item(&self, bytes: &[u8]) -> Result<Item, ItemError> {
        let text = str::from_utf8(bytes).map_err(|error| ItemError::NotJson {
            at: error.valid_up_to(),
            what: "is not UTF-8".to_owned(),
            cut_short: false,
        })?;
        match self.tree.find(text) {
            Ok(found) => self.event(text, &found),
            Err(error) if text.contains('\0') => {
                self.with_nul_byte(text).unwrap_or_else(|| Err(not_json(text, &error)))
            }
            Err(error) => Err(not_json(text, &error)),
        }
    }

    fn event(&self, text: &str, found: &Found<'_>) -> Result<Item, ItemError> {
        let id = self.id(text, found)?;
        let set_aside = |id, reason| Ok(Item::SetAside(SetAside { id, reason, item: text.as_bytes().into() }));
        let payload = self.payload(text, found);
        if nests_deeper(payload, DEEPEST) {
            return set_aside(id, SetAsideReason::NestedTooDeep);
        }
        let [event_type, subject] = [slot::TYPE, slot::SUBJECT].map(|slot| found[slot].and_then(text::scalar));
        if [&event_type, &subject].into_iter().flatten().any(|text| text.contains('\0')) {
            return set_aside(id, SetAsideReason::NulCharacter);
        }
        Ok(Item::Event(Event {
            id,
            event_type: event_type.map(Cow::into_owned),
            subject: subject.map(Cow::into_owned),
            occurred_at: found[slot::TIME].and_then(occurred_at),
            payload: Payload::from_json_text(payload),
        }))
    }

    /// The id is a string, or a whole number taken from its digits, of any length; it never passes through a float.
    fn id(&self, text: &str, found: &Found<'_>) -> Result<EventId, ItemError> {
        let path = self.id_path.as_str();
        let no_id = |problem: String| ItemError::NoId {
            problem: match self.preset {
                None => format!("{problem} at `{path}`"),
                Some(MappingPreset::CloudEvents) => {
                    format!("{problem} at `{path}`, where `mapping.preset: CloudEvents` has the id")
                }
            },
            remedy: match self.preset {
                None => "set `mapping.idPath` to the path of the id",
                Some(MappingPreset::CloudEvents) => "if it is elsewhere, set paths instead of the preset",
            },
            item: text::kind(text),
        };
        let Some(raw) = found[slot::ID] else {
            return Err(no_id(format!("the item is {} with nothing", text::kind(text))));
        };
        let id = match raw.as_bytes().first() {
            Some(b'"') => match text::string(raw) {
                Some(id) => id,
                None => return Err(no_id("found a string with half a surrogate pair".to_owned())),
            },
            Some(b'0'..=b'9') if raw.bytes().all(|byte| byte.is_ascii_digit()) => Cow::Borrowed(raw),
            Some(b'-') => return Err(no_id("found a negative number".to_owned())),
            Some(b'0'..=b'9') => return Err(no_id("found a number with a fraction or an exponent".to_owned())),
            _ => return Err(no_id(format!("found {}", text::kind(raw)))),
        };
        EventId::new(&id).map_err(|error| no_id(format!("found a text that cannot be an id ({error})")))
    }

    /// The value at `mapping.dataPath`; the whole item where there is none, so that nothing is lost.
    ///
    /// CloudEvents: `data` when it is JSON. The whole event when `data` is text of another content type or Base64, which
    /// mean nothing without `datacontenttype` beside them, and when there is no data, because then the attributes are all.
    fn payload<'a>(&self, text: &'a str, found: &Found<'a>) -> &'a str {
        let whole_event = self.preset == Some(MappingPreset::CloudEvents)
            && (found[slot::DATA_BASE64].is_some_and(|raw| raw != "null")
                || !found[slot::DATA_CONTENT_TYPE].and_then(text::string).is_none_or(|media| is_json(&media)));
        if whole_event { text } else { found[slot::DATA].unwrap_or(text) }
    }

    /// An item that is JSON but for NUL bytes in its strings, which PostgreSQL could store in no text: set aside under its
    /// id. `None` when it is no JSON even so.
    fn with_nul_byte(&self, text: &str) -> Option<Result<Item, ItemError>> {
        // DEL may stand in a string, nowhere else, and like NUL in no id.
        let readable = text.replace('\0', "\u{7f}");
        let found = self.tree.find(&readable).ok()?;
        Some(self.id(&readable, &found).map(|id| {
            Item::SetAside(SetAside { id, reason: SetAsideReason::NulCharacter, item: text.as_bytes().into() })
        }))
    }
}

fn parse(field: &'static str, path: &str) -> Result<Path, OpenError> {
    Path::parse(path).map_err(|error| OpenError::InvalidSpec { field, detail: error.to_string() })
}

/// A JSON media type, as the JSON format of CloudEvents has it: subtype `json`, or ending in `+json`.
fn is_json(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    let subtype = essence.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    subtype == "json" || subtype.ends_with("+json")
}

/// serde_json's texts for syntax errors are fixed and hold no content. Its column is that of the byte in question or, for
/// some errors, of the one before; the position is made one of the item.
fn not_json(text: &str, error: &serde_json::Error) -> ItemError {
    let line = error.line().saturating_sub(1);
    let line_start = line.checked_sub(1).and_then(|newline| memchr::memchr_iter(b'\n', text.as_bytes()).nth(newline));
    let at = line_start.map_or(0, |newline| newline + 1) + error.column().saturating_sub(1);
    let said = error.to_string();
    let said = said.split(" at line ").next().unwrap_or_default();
    ItemError::NotJson { at, what: format!("is not JSON: {said}"), cut_short: error.is_eof() }
}

#[cfg(test)]
mod tests;
