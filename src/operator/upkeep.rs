//! The days of the store, kept up by any replica; they do not get into each other's way.

use std::{sync::Arc, time::Duration};

use tracing::{info, warn};

use super::claimed_store::ClaimedStore;
use crate::{
    store::postgres::{PostgresStore, Upkeep},
    telemetry::metrics::Metrics,
};

/// How often day partitions are made and expired ones dropped. They are made a week ahead, so a day of failures is none.
const EVERY: Duration = Duration::from_hours(1);

/// After a failure: readers that last leave few moments in which a day can be detached, and a clock is set right soon.
const RETRY: Duration = Duration::from_mins(5);

/// Makes the partitions of the next days and drops the expired ones, again and again.
pub(super) async fn keep_up(store: Arc<ClaimedStore<PostgresStore>>, retention_days: Option<u32>, metrics: &Metrics) {
    let retention = retention_days.map(|days| Duration::from_hours(24) * days);
    let Some(store) = store.when_claimed().await else { return };
    loop {
        let done = store.upkeep(retention).await;
        let next = if done.is_ok() { EVERY } else { RETRY };
        match done {
            Ok(done) if done != Upkeep::default() => {
                info!(made = done.partitions_made, dropped = done.partitions_dropped, "partitions");
            }
            Ok(_) => {}
            Err(error) => {
                metrics.upkeep_failures.inc();
                warn!(error = &error as &dyn std::error::Error, "cannot keep the partitions up");
            }
        }
        warn_of_hidden(store, retention).await;
        tokio::time::sleep(next).await;
    }
}

/// A retention that was raised while a day was on its way out does not bring it back.
async fn warn_of_hidden(store: &PostgresStore, retention: Option<Duration>) {
    match store.hidden_days(retention).await {
        Ok(days) => {
            for day in days {
                warn!(
                    table = day.table,
                    bring_back = day.bring_back,
                    "a day that has not expired is hidden from readers"
                );
            }
        }
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "cannot look for days that are hidden from readers");
        }
    }
}
