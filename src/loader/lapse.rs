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
use crate::{clock::Moment, permit::Permit};

/// How long before another replica may send a response is given up: a TCP RST needs a moment to arrive, and two clocks do not
/// run alike. What is left of D and of a Lease's duration is still long enough for two lost extensions or renewals.
const AHEAD: Duration = Duration::from_millis(300);

/// How soon after it woke up a machine looks whether it has slept too long.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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
/// name of this one ([`Renewal`](crate::ownership::Renewal)); and a source that ignores an RST (R3).
///
/// All of this goes by a clock that stands still while the machine is suspended. What it has slept since the grant is taken off: a
/// little too much, where it was heard of since.
///
/// While the Lease is known to be ours and fresh, no response is given up because the database is away, however long (P5); while the
/// database answers, none because the API server is.
#[derive(Debug)]
pub(super) struct Lapse {
    row_shut_until: Mutex<Instant>,
    issued: Moment,
}

impl Lapse {
    pub(super) fn of(permit: &Permit) -> Self {
        Self { row_shut_until: Mutex::new(permit.closes() + IN_FLIGHT), issued: permit.issued() }
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
            let now = Moment::now();
            let left = time_left(row_shut_until, alive_until, now, self.issued);
            if left.is_zero() {
                return;
            }
            select! {
                // No timer fires because the machine has slept.
                () = sleep_until(now.at + left.min(LOOK_EVERY)) => {}
                Ok(()) = renewals.changed() => {}
                Ok(()) = lease.changed() => {}
            }
        }
    }

    fn row_shut_until(&self) -> MutexGuard<'_, Instant> {
        self.row_shut_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long others are still kept away for certain, of a request whose reservation was `issued`.
fn time_left(row_shut_until: Instant, alive_until: Option<Instant>, now: Moment, issued: Moment) -> Duration {
    let until = alive_until.map_or(row_shut_until, |alive| alive.max(row_shut_until));
    until.saturating_duration_since(now.at).saturating_sub(AHEAD + now.slept_since(issued))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(issued: Instant, seconds: u64, slept: u64) -> Moment {
        Moment { at: issued + Duration::from_secs(seconds), slept: Duration::from_secs(slept) }
    }

    #[tokio::test(start_paused = true)]
    async fn the_row_or_the_lease_keeps_others_away_whichever_does_for_longer() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let (row, lease) = (start + 3 * second, Some(start + 5 * second));
        assert_eq!(time_left(row, None, after(start, 0, 7), after(start, 0, 7)) + AHEAD, 3 * second);
        assert_eq!(time_left(row, lease, after(start, 4, 7), after(start, 0, 7)) + AHEAD, second);
        assert_eq!(time_left(row, lease, after(start, 5, 7), after(start, 0, 7)), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_machine_has_slept_is_over_for_others_too() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let (row, lease) = (start + 3 * second, Some(start + 5 * second));
        assert_eq!(time_left(row, lease, after(start, 1, 9), after(start, 0, 7)) + AHEAD, 2 * second);
        assert_eq!(time_left(row, lease, after(start, 1, 67), after(start, 0, 7)), Duration::ZERO);
    }
}
