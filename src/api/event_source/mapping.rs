//! Which parts of an item become which parts of an event.

#![expect(unreachable_pub, reason = "KubeSchema derives a second, private type with the visibility of the first")]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::JSON_PATH;

/// Which parts of an item become which parts of an event: either `preset`, or `idPath` and the other paths.
///
/// The default `idPath` stays in a stored object when somebody applies a preset later, so it may stand beside a preset: it
/// is what CloudEvents says too.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.preset) || has(self.idPath)")
        .message("`idPath` must be set, unless `preset` is")
        .field_path(".idPath"),
    validation = Rule::new(
        "!has(self.preset) || !((has(self.idPath) && self.idPath != '$.id') || has(self.timePath) || has(self.typePath) \
         || has(self.subjectPath) || has(self.dataPath))"
    )
        .message("`preset` must be the only member: it sets every path")
        .field_path(".preset")
)]
pub struct Mapping {
    /// Where the id of the event is in its item: a string or a number, unique in this source. An RFC 9535 singular query
    /// of at most 512 characters. Required, unless `preset` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = JSON_PATH))]
    pub id_path: Option<String>,
    /// Where the time of the event is: RFC 3339, or whole seconds or milliseconds since 1970, up to 9999-12-30T22:00:00Z;
    /// anything else counts as none. An RFC 9535 singular query of at most 512 characters. Default: events have no time of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = JSON_PATH))]
    pub time_path: Option<String>,
    /// Where the type of the event is: a string, a number or a boolean; anything else counts as none. An RFC 9535 singular
    /// query of at most 512 characters. Default: events have no type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = JSON_PATH))]
    pub type_path: Option<String>,
    /// Where the subject of the event is: a string, a number or a boolean; anything else counts as none. An RFC 9535
    /// singular query of at most 512 characters. Default: events have no subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = JSON_PATH))]
    pub subject_path: Option<String>,
    /// Where the payload is: any JSON value, stored byte for byte. An RFC 9535 singular query of at most 512 characters.
    /// Default: the whole item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = JSON_PATH))]
    pub data_path: Option<String>,
    /// CloudEvents: each item is a CloudEvents 1.0 event in JSON, whose attributes give id, time, type, subject and
    /// payload. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<MappingPreset>,
}

impl Mapping {
    /// Where `CloudEvents` has the id, too.
    pub const DEFAULT_ID_PATH: &str = "$.id";

    /// What the ids are read from, also where a preset says it.
    #[must_use]
    pub fn id_path(&self) -> &str {
        match self.preset {
            Some(MappingPreset::CloudEvents) => Self::DEFAULT_ID_PATH,
            None => self.id_path.as_deref().unwrap_or(Self::DEFAULT_ID_PATH),
        }
    }
}

impl Default for Mapping {
    fn default() -> Self {
        Self {
            id_path: Some(Self::DEFAULT_ID_PATH.to_owned()),
            time_path: None,
            type_path: None,
            subject_path: None,
            data_path: None,
            preset: None,
        }
    }
}

/// A mapping that a published format fixes.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum MappingPreset {
    CloudEvents,
}
