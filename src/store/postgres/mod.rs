//! The adapter of both ports to PostgreSQL.
//!
//! Every verb is one statement over arrays and a transaction of its own (`sql/`, beside the code that runs it). All begin
//! with `sql/lock.sql`: lock the rows, then read the clock, then judge. Uniqueness of events comes from the cursor and
//! the key; only an append at or below what was stored before looks ids up (`sql/append_reread.sql`).
//!
//! | file | what it is |
//! |---|---|
//! | `gate` | ADOPT, RESET, RESERVE, EXTEND, ABORT, fence off |
//! | `append`, `batch`, `refused` | COMMIT: the statement, what goes into it, and what PostgreSQL refuses |
//! | `coalesce`, `lane`, `queue` | which calls share statements, each with its own answer, and when a statement goes |
//! | `forget` | FORGET, in steps |
//! | `partitions`, `aside`, `clocks` | the days: made ahead, dropped after the retention with the items set aside; and what day it is |
//! | `hidden` | the days that are to be kept and that no reader sees |
//! | `migrate`, `installation` | the schema, and whose it is |
//! | `mutant` | statements with a rule left out, for the check of the chaos run |
//! | `session`, `refusal` | connections, and why there is none |
//! | `answer`, `column`, `failure` | rows to answers, values to columns, errors |

mod answer;
mod append;
mod aside;
mod batch;
mod clocks;
mod coalesce;
mod column;
mod failure;
mod forget;
mod gate;
mod hidden;
mod installation;
mod lane;
mod migrate;
mod mutant;
mod partitions;
mod queue;
mod refusal;
mod refused;
mod session;

use std::{collections::HashSet, fmt, sync::Arc};

use async_trait::async_trait;
use prometheus_client::metrics::{family::Family, histogram::Histogram};

pub use self::{
    answer::Answers,
    hidden::HiddenDay,
    installation::{Bound, InstallationError},
    migrate::{MigrateError, check_url, migrate},
    partitions::{Upkeep, UpkeepError},
    session::InvalidUrl,
};
use self::{coalesce::Lanes, forget::Deletions, installation::Claimed};
use super::{
    Abort, Adopt, Adopted, Answer, Append, Appended, EventStore, Extend, Forget, Gate, Holder, Reserve, Reserved,
    Reset, StoreError,
};
use crate::{
    event::{EventId, StreamName},
    telemetry::metrics::{Metrics, VerbLabels, statement_rows},
};
use session::{PATIENT, SHORT, Sessions};

/// The central store. Cheap to clone; clones share the pools.
#[derive(Clone)]
pub struct PostgresStore {
    pool: Sessions,
    /// EXTEND, ABORT and ping: appends of large batches may keep all of `pool` busy for seconds, and a request in flight
    /// whose extension waits behind them would lose its row.
    urgent: Sessions,
    /// The turn of upkeep and the detaches in it, which wait for readers: they would take two of `pool` for minutes.
    upkeep: Sessions,
    claimed: Claimed,
    lanes: Lanes,
    deletions: Arc<Deletions>,
    statement_rows: Family<VerbLabels, Histogram>,
}

/// These statements take a fraction of a millisecond: one connection serves thousands of sources, and the second one
/// works on when the first hangs.
const URGENT_CONNECTIONS: u32 = 2;

/// One has the turn while the other one detaches.
const UPKEEP_CONNECTIONS: u32 = 2;

impl PostgresStore {
    /// A store that connects when it is first asked, at most `max_connections` times, twice more for what must not
    /// wait behind appends, and twice more while it drops days. TLS is as the URL says (`sslmode`, `sslrootcert`, …).
    ///
    /// # Errors
    /// When the URL cannot be read. Whether the database answers, [`Gate::ping`] tells.
    pub fn new(url: &str, application_name: &str, max_connections: u32) -> Result<Self, InvalidUrl> {
        let options = session::options(url, application_name)?;
        let claimed = Claimed::default();
        let urgent = session::pool(options.clone(), URGENT_CONNECTIONS, SHORT, &claimed);
        let upkeep = session::pool(options.clone(), UPKEEP_CONNECTIONS, PATIENT, &claimed);
        let pool = session::pool(options, max_connections, SHORT, &claimed);
        let (lanes, deletions) = (Lanes::new(max_connections), Arc::new(Deletions::over(max_connections)));
        Ok(Self { pool, urgent, upkeep, claimed, lanes, deletions, statement_rows: statement_rows() })
    }

    /// The same store, which drops days over `url`: a pooler may take neither its longer limits nor its long transaction well.
    ///
    /// # Errors
    /// When the URL cannot be read.
    pub fn upkeep_over(self, url: &str, application_name: &str) -> Result<Self, InvalidUrl> {
        let options = session::options(url, application_name)?;
        Ok(Self { upkeep: session::pool(options, UPKEEP_CONNECTIONS, PATIENT, &self.claimed), ..self })
    }

    /// The same store, which counts into `metrics`.
    #[must_use]
    pub fn counting(self, metrics: &Metrics) -> Self {
        Self { statement_rows: metrics.statement_rows.clone(), ..self }
    }

    /// Closes all connections; statements under way end first.
    pub async fn close(&self) {
        tokio::join!(self.pool.close(), self.urgent.close(), self.upkeep.close());
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").finish_non_exhaustive()
    }
}

/// The answer to the only request of a statement.
fn only<T>(answers: Answers<T>) -> Result<T, StoreError> {
    answers.into_iter().next().expect("a statement answers each of its requests")
}

#[async_trait]
impl Gate for PostgresStore {
    async fn adopt(&self, adopt: Adopt) -> Result<Answer<Adopted>, StoreError> {
        self.lanes.adopt.ask(self, adopt).await
    }

    async fn reset(&self, reset: Reset) -> Result<Answer<Adopted>, StoreError> {
        self.reset_all(&[reset]).await.and_then(only)
    }

    async fn reserve(&self, reserve: Reserve) -> Result<Answer<Reserved>, StoreError> {
        self.lanes.reserve.ask(self, reserve).await
    }

    async fn extend(&self, extend: Extend) -> Result<Answer<()>, StoreError> {
        self.lanes.extend.ask(self, extend).await
    }

    async fn abort(&self, abort: Abort) -> Result<Answer<()>, StoreError> {
        self.lanes.abort.ask(self, abort).await
    }

    async fn forget(&self, forget: Forget) -> Result<Answer<()>, StoreError> {
        self.forget_one(&forget).await
    }

    async fn fence_off(&self, dead: &Holder) -> Result<u64, StoreError> {
        self.fence_off_all(dead).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        session::ping(&self.urgent).await?;
        // Sources live on this pool, and a server that is full may leave it none of its connections. One that is at work is an answer.
        if self.pool.is_at_work() {
            return Ok(());
        }
        let answer = session::ping(&self.pool).await;
        if self.pool.is_at_work() { Ok(()) } else { answer }
    }
}

#[async_trait]
impl EventStore for PostgresStore {
    async fn append(&self, append: &Append) -> Result<Answer<Appended>, StoreError> {
        self.append_one(append).await
    }

    async fn find_stored(&self, stream: &StreamName, ids: &[&EventId]) -> Result<HashSet<EventId>, StoreError> {
        self.find_stored_ids(stream, ids).await
    }

    async fn has_older(&self, stream: &StreamName, id: &EventId) -> Result<bool, StoreError> {
        self.has_older_event(stream, id).await
    }
}
