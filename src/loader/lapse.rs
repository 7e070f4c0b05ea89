//! When a request in flight must be given up, because another replica may be about to send the next one.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    select,
    time::{Instant, sleep_until},
};

use super::context::{Context, IN_FLIGHT};
use crate::permit::Permit;

/// How long before another replica may send a response is given up: a reset needs a moment to arrive, and two clocks do not
/// run alike. What is left of D and of a Lease's duration is still long enough for two lost extensions or renewals.
const AHEAD: Duration = Duration::from_millis(300);

/// The in-flight deadline of one attempt, as this process knows it for certain.
///
/// Another replica sends only after *both* have come about, so giving up `AHEAD` of
/// `max(row_shut_until, alive_until)` comes first:
///
/// - Its RESERVE found the deadline passed. RESERVE and EXTEND evaluate the database's clock after they were issued here,
///   so what stands in the row is not before `issued + wait + S + D`, or `issued + D`: `row_shut_until` (DESIGN 4).
/// - It adopted, so it holds the source's Lease. As long as that is known to be ours, this means that this incarnation was
///   declared dead: not before its last renewal was issued plus the duration of the Lease: `alive_until`. It is not known
///   any more from the moment in which ownership says that the Lease is lost, nor while an unanswered write may have given
///   it away: then the row counts alone.
///
/// What is left is a Lease that somebody deletes or edits by hand, until the watch shows it; a second process under the
/// name of this one ([`Renewal`](crate::ownership::Renewal)); and a source that ignores a reset (R3).
///
/// With a Lease that is known to be ours and fresh, a database that is away gives nothing up, however long (P5); and as long as the database answers,
/// nor does an API server that is away.
#[derive(Debug)]
pub(super) struct Lapse {
    row_shut_until: Mutex<Instant>,
}

impl Lapse {
    pub(super) fn of(permit: &Permit) -> Self {
        Self { row_shut_until: Mutex::new(permit.closes() + IN_FLIGHT) }
    }

    /// An EXTEND that was issued at this instant was applied.
    pub(super) fn extended(&self, issued: Instant) {
        let mut until = self.row_shut_until();
        *until = (issued + IN_FLIGHT).max(*until);
    }

    /// Waits until neither the row nor the Lease keeps others away for certain.
    pub(super) async fn comes(&self, context: &Context) {
        let mut renewals = context.shared.ownership.renewals();
        let mut lease = context.lease.clone();
        loop {
            let is_ours = *lease.borrow_and_update();
            let alive_until = {
                let renewal = renewals.borrow_and_update();
                let renewal = renewal.as_ref().filter(|renewal| is_ours && renewal.holder == context.holder);
                renewal.map(|renewal| renewal.alive_until)
            };
            let row_shut_until = *self.row_shut_until();
            let until = alive_until.map_or(row_shut_until, |alive| alive.max(row_shut_until)) - AHEAD;
            if until <= Instant::now() {
                return;
            }
            select! {
                () = sleep_until(until) => {}
                Ok(()) = renewals.changed() => {}
                Ok(()) = lease.changed() => {}
            }
        }
    }

    fn row_shut_until(&self) -> MutexGuard<'_, Instant> {
        self.row_shut_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
