use std::time::Duration;

use crate::{
    api::{
        Source,
        event_source::{Start, StartPosition},
    },
    event::{Cursor, EventId, IdError},
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
}

/// No object may make Headgate ask more often than this (DESIGN 1), whatever the API server let pass.
pub(super) const FLOOR: Duration = Duration::from_millis(200);

/// Of a transport that names no limit of its own.
const DEFAULT_MAX_RESPONSE: u64 = 16 * 1024 * 1024;

impl Settings {
    pub(super) fn of(source: &Source) -> Result<Self, IdError> {
        let spec = &source.spec;
        let min_interval = Duration::from(spec.poll.min_interval).max(FLOOR);
        let http = spec.http.as_ref();
        Ok(Self {
            min_interval,
            max_idle_interval: Duration::from(spec.poll.max_idle_interval).max(min_interval),
            max_error_interval: Duration::from(spec.poll.max_error_interval).max(min_interval),
            batch_size: u32::try_from(spec.poll.batch_size).unwrap_or(1).max(1),
            limit_is_sent: http.is_none_or(|http| !http.limit_param.is_empty()),
            max_response_bytes: http
                .and_then(|http| u64::try_from(http.max_response_bytes).ok())
                .unwrap_or(DEFAULT_MAX_RESPONSE),
            epoch: Epoch(spec.epoch),
            start: start(&spec.start)?,
        })
    }
}

fn start(start: &Start) -> Result<Cursor, IdError> {
    match (start.position, &start.after_id) {
        (StartPosition::AfterID, Some(id)) => Ok(Cursor::After(EventId::new(id)?)),
        _ => Ok(Cursor::Start),
    }
}
