//! The right to send one request. RESERVE grants it, SEND spends it, and nothing else can make one twice of it.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use crate::clock::Moment;

/// The random 128-bit name of one reservation (DESIGN 4). Random because counters repeat after a re-creation of the row
/// or a failover.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attempt(u128);

impl Attempt {
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The right to start one request between two instants of the local monotonic clock, if the machine was not suspended
/// meanwhile: the row opens to others by a clock that goes on. It is not `Clone`, and [`Permit::spend`] takes it by value: one
/// grant, one request.
#[derive(Debug)]
pub struct Permit {
    attempt: Attempt,
    issued: Moment,
    opens: Instant,
    closes: Instant,
}

/// The permit was not spent in time; the request must not leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unspendable {
    #[error("the send limit of the reservation has passed")]
    TooLate,
    #[error("the slot of the reservation has not come yet")]
    TooEarly,
}

impl Permit {
    /// The permit of a granted reservation.
    ///
    /// The slot lies `wait` after the database evaluated its clock, which happened between `issued` and `answered`:
    /// `issued` is the instant at which the statement left on a connection that stood, however long it waited for one.
    /// So `answered + wait` is never before the slot, and `issued + wait + send_within` never after the slot's send
    /// limit, whatever the two clocks show: this is all that the proof of P1 and P2 needs (DESIGN 4).
    #[must_use]
    pub fn new(attempt: Attempt, issued: Moment, answered: Instant, wait: Duration, send_within: Duration) -> Self {
        Self { attempt, issued, opens: answered + wait, closes: issued.at + wait + send_within }
    }

    #[must_use]
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// When the reservation was issued.
    #[must_use]
    pub fn issued(&self) -> Moment {
        self.issued
    }

    /// The first instant at which the request may start.
    #[must_use]
    pub fn opens(&self) -> Instant {
        self.opens
    }

    /// The last instant at which the request may start.
    #[must_use]
    pub fn closes(&self) -> Instant {
        self.closes
    }

    /// Spends the permit. Call it as close to the write system call as possible.
    ///
    /// # Errors
    /// When `now` is outside the permit's time: the request must not leave, and the reservation is to be aborted.
    pub fn spend(self, now: Moment) -> Result<Attempt, Unspendable> {
        if now.at < self.opens {
            return Err(Unspendable::TooEarly);
        }
        if now.at + now.slept_since(self.issued) > self.closes {
            return Err(Unspendable::TooLate);
        }
        Ok(self.attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEND_WITHIN: Duration = Duration::from_millis(100);

    fn granted(issued: Instant, answered: Instant, wait: Duration) -> Permit {
        Permit::new(Attempt::random(), awake(issued), answered, wait, SEND_WITHIN)
    }

    fn awake(at: Instant) -> Moment {
        Moment { at, slept: Duration::ZERO }
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_opens_at_its_slot_and_closes_with_the_send_limit() {
        let issued = Instant::now();
        let answered = issued + Duration::from_millis(10);
        let wait = Duration::from_millis(50);
        let spend = |at| granted(issued, answered, wait).spend(awake(at));
        assert_eq!(spend(answered).unwrap_err(), Unspendable::TooEarly);
        assert!(spend(answered + wait).is_ok());
        assert!(spend(issued + wait + SEND_WITHIN).is_ok());
        assert_eq!(spend(issued + wait + SEND_WITHIN + Duration::from_nanos(1)).unwrap_err(), Unspendable::TooLate);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reservation_slower_than_the_send_limit_yields_a_permit_that_cannot_be_spent() {
        let issued = Instant::now();
        let answered = issued + SEND_WITHIN + Duration::from_millis(1);
        assert_eq!(granted(issued, answered, Duration::ZERO).spend(awake(answered)).unwrap_err(), Unspendable::TooLate);
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_is_not_spent_after_a_sleep_of_the_machine_that_its_monotonic_clock_does_not_show() {
        let issued = Instant::now();
        let woken = |slept| Moment { at: issued + Duration::from_millis(5), slept };
        let permit =
            || Permit::new(Attempt::random(), woken(Duration::from_hours(3)), issued, Duration::ZERO, SEND_WITHIN);
        assert!(permit().spend(woken(Duration::from_hours(3))).is_ok(), "what it slept before is not counted");
        let slept = Duration::from_hours(3) + Duration::from_secs(4);
        assert_eq!(permit().spend(woken(slept)).unwrap_err(), Unspendable::TooLate);
    }
}
