//! Which verbs of the store share statements, and why that keeps every promise.
//!
//! A caller computes the durations of its request before it waits here, and the row counts them from the statement. A
//! statement that comes later moves each of them to the safe side:
//!
//! - ADOPT: the waits it finds are counted by the row when the statement has locked it, and by the caller from the later
//!   answer (P1, P2). Each call gets a fence of its own.
//! - RESERVE: the slot, the deadline and the next start are counted by the row from its own clock, and the send limit S
//!   by the caller from [`Reserved::issued`], the instant at which the *shared* statement left on its connection. The
//!   wait in the lane lies before both, so P1 and P2 do not see it.
//! - EXTEND: `by` ends later, so the row is shut longer than the caller relies on: it counts from before its call (P1).
//! - ABORT, COMMIT and the attempt that a RESERVE closes: `next_start_in` ends later, so the gap only grows (P2).
//! - Fence, cursor and token are compared with the row as it stands when the statement has locked it (P3, P4).
//!
//! A caller that goes away while its call is under way leaves what a lost answer leaves. One that hears that its call was not
//! begun knows more: no statement has it or will have it, so a RESERVE of that kind left nothing that an ABORT would close.

use super::{
    PostgresStore, URGENT_CONNECTIONS,
    answer::Answers,
    append::Outcome,
    lane::{Lane, Statement},
    queue::{Limits, Request},
};
use crate::{
    event::StreamName,
    store::{Abort, Adopt, Adopted, Answer, Append, Extend, Patience, Reserve, Reserved, StoreError},
    telemetry::metrics::VerbLabels,
};

/// The most rows of one statement: beyond it a row gets hardly cheaper, and all of them stay locked for longer.
const MOST_ROWS: usize = 250;

/// The payload of one statement: a few of the largest commits that share.
const MOST_PAYLOAD: usize = 256 * 1024;

/// The calls of each verb that shares statements.
#[derive(Clone)]
pub(super) struct Lanes {
    pub(super) adopt: Lane<Adopt>,
    pub(super) reserve: Lane<Reserve>,
    pub(super) extend: Lane<Extend>,
    pub(super) abort: Lane<Abort>,
    pub(super) append: Lane<Append>,
}

impl Lanes {
    pub(super) fn new(connections: u32) -> Self {
        let limits = |connections| Limits {
            rows: MOST_ROWS,
            bytes: MOST_PAYLOAD,
            statements: usize::try_from(connections).unwrap_or(usize::MAX),
        };
        Self {
            adopt: Lane::new(limits(connections)),
            reserve: Lane::new(limits(connections)),
            extend: Lane::new(limits(URGENT_CONNECTIONS)),
            abort: Lane::new(limits(URGENT_CONNECTIONS)),
            append: Lane::new(limits(connections)),
        }
    }
}

impl PostgresStore {
    pub(super) fn note_rows(&self, verb: &'static str, rows: usize) {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        self.statement_rows.get_or_create(&VerbLabels { verb }).observe(rows.into());
    }
}

impl Request for Adopt {
    type Answer = Answer<Adopted>;

    fn stream(&self) -> &StreamName {
        &self.stream
    }
}

impl Statement<Adopt> for PostgresStore {
    async fn run(&self, requests: &[Adopt]) -> Result<Answers<Answer<Adopted>>, StoreError> {
        self.note_rows("adopt", requests.len());
        self.adopt_all(requests).await
    }
}

impl Request for Reserve {
    type Answer = Answer<Reserved>;

    fn stream(&self) -> &StreamName {
        &self.stream
    }

    fn patience(&self) -> Patience {
        self.patience.clone()
    }
}

impl Statement<Reserve> for PostgresStore {
    async fn run(&self, requests: &[Reserve]) -> Result<Answers<Answer<Reserved>>, StoreError> {
        self.note_rows("reserve", requests.len());
        self.reserve_all(requests).await
    }
}

impl Request for Extend {
    type Answer = Answer<()>;

    fn stream(&self) -> &StreamName {
        &self.stream
    }
}

impl Statement<Extend> for PostgresStore {
    async fn run(&self, requests: &[Extend]) -> Result<Answers<Answer<()>>, StoreError> {
        self.note_rows("extend", requests.len());
        self.extend_all(requests).await
    }
}

impl Request for Abort {
    type Answer = Answer<()>;

    fn stream(&self) -> &StreamName {
        &self.stream
    }
}

impl Statement<Abort> for PostgresStore {
    async fn run(&self, requests: &[Abort]) -> Result<Answers<Answer<()>>, StoreError> {
        self.note_rows("abort", requests.len());
        self.abort_all(requests).await
    }
}

impl Request for Append {
    type Answer = Outcome;

    fn stream(&self) -> &StreamName {
        &self.stream
    }

    fn bytes(&self) -> usize {
        Append::bytes(self)
    }
}

impl Statement<Append> for PostgresStore {
    async fn run(&self, requests: &[Append]) -> Result<Answers<Outcome>, StoreError> {
        self.append_all(requests).await
    }
}
