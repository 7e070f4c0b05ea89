//! What the loader needs of a spec.

use std::time::Duration;

use crate::{
    api::{Source, event_source::Http},
    event::{Cursor, IdError},
    store::Epoch,
};

/// What the loader needs of a spec. The only place of the loader that looks into the transport union.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) min_interval: Duration,
    pub(super) max_idle_interval: Duration,
    pub(super) max_error_interval: Duration,
    pub(super) batch_size: u32,
    /// Whether the source is told how many events are wanted. If not, no page is ever provably complete.
    pub(super) limit_is_sent: bool,
    pub(super) max_response_bytes: u64,
    pub(super) epoch: Epoch,
    pub(super) start: Cursor,
    pub(super) id_path: String,
}

/// Of a transport that names no limit of its own.
const DEFAULT_MAX_RESPONSE: u64 = 16 * 1024 * 1024;

impl Settings {
    pub(super) fn of(source: &Source) -> Result<Self, IdError> {
        let (poll, http) = (&source.spec.poll, source.spec.http.as_ref());
        Ok(Self {
            min_interval: poll.min_interval(),
            max_idle_interval: poll.max_idle_interval(),
            max_error_interval: poll.max_error_interval(),
            batch_size: poll.batch_size(),
            limit_is_sent: http.is_none_or(|http| http.limit_param().is_some()),
            max_response_bytes: http.map_or(DEFAULT_MAX_RESPONSE, Http::max_response_bytes),
            epoch: Epoch(source.spec.epoch),
            start: source.spec.start_cursor()?,
            id_path: source.spec.mapping.id_path().to_owned(),
        })
    }
}
