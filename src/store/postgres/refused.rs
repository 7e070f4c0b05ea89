//! The last resort for a value that PostgreSQL refuses although it passed every check: find it, set it aside, go on.

use sqlx::postgres::PgBindIterExt;

use super::{PostgresStore, batch::Batch, column::Json, failure::refuses_a_value, session};
use crate::{
    event::{Event, SetAsideReason},
    store::StoreError,
};

const PROBE: &str = include_str!("sql/probe.sql");

impl PostgresStore {
    /// The batch without the events that PostgreSQL refuses. Halves until each refused one stands alone: one of a
    /// thousand costs about twenty statements.
    ///
    /// # Errors
    /// With `cause` when no event is at fault, so that nothing is lost and nothing is tried for ever.
    pub(super) async fn set_refused_aside<'a>(
        &self,
        mut batch: Batch<'a>,
        cause: StoreError,
    ) -> Result<Batch<'a>, StoreError> {
        let mut refused = vec![false; batch.events.len()];
        let mut suspects = std::iter::once(0..batch.events.len()).collect::<Vec<_>>();
        while let Some(range) = suspects.pop() {
            if range.is_empty() || self.takes(&batch.events[range.clone()]).await? {
                continue;
            }
            if range.len() == 1 {
                refused[range.start] = true;
            } else {
                let middle = range.start + range.len() / 2;
                suspects.extend([range.start..middle, middle..range.end]);
            }
        }
        if !refused.contains(&true) {
            return Err(cause);
        }
        let reasons: Vec<_> = batch.events.iter().map(|event| reason(event)).collect();
        batch.set_aside_where(|position| refused[position].then_some(reasons[position]));
        Ok(batch)
    }

    async fn takes(&self, events: &[&Event]) -> Result<bool, StoreError> {
        let statement = sqlx::query(PROBE)
            .bind(events.iter().map(|event| event.id.as_str()).bind_iter())
            .bind(events.iter().map(|event| event.event_type.as_deref()).bind_iter())
            .bind(events.iter().map(|event| event.subject.as_deref()).bind_iter())
            .bind(events.iter().map(|event| Json(event.payload.as_str())).bind_iter());
        match session::rows(&self.pool, "look for a refused event", statement).await {
            Ok(_) => Ok(true),
            Err(error) if refuses_a_value(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn reason(event: &Event) -> SetAsideReason {
    let texts = [event.event_type.as_deref(), event.subject.as_deref(), Some(event.payload.as_str())];
    if texts.into_iter().flatten().any(|text| text.contains('\0')) {
        SetAsideReason::NulCharacter
    } else {
        SetAsideReason::RefusedByDatabase
    }
}
