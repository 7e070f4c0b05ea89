//! Connections, and the one way in which statements run on them.

use std::{
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use sqlx::{
    Connection, PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow},
    query::Query,
};
use tokio::time::Instant;

use super::{
    failure::{Cause, LOSES_STATEMENTS, is_broken, loses_statements, store_error, takes_no_writes},
    installation::{self, Claimed},
    refusal::Refusal,
};
use crate::{clock::Moment, store::StoreError};

/// Every statement ends within this on our side, but for those of a patient pool. Past it the connection is dropped and the
/// answer counts as lost.
pub(super) const STATEMENT_LIMIT: Duration = Duration::from_secs(5);

/// How long a process that ends waits for the server to take leave of it.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// How long the statements of a pool may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    ours: Duration,
    /// What the server is told: a little less, so that a slow statement normally ends with the server's own word, and no
    /// abandoned one works on behind our back.
    server: &'static str,
    /// For each lock.
    lock: &'static str,
}

/// Only ADOPT, FORGET and upkeep ever wait for a lock; all others skip what is locked.
pub(super) const SHORT: Limits = Limits { ours: STATEMENT_LIMIT, server: "4500", lock: "2000" };

/// For what waits until others are done, while nobody waits for it.
pub(super) const PATIENT: Limits = Limits { ours: Duration::from_secs(66), server: "65000", lock: "60000" };

/// How long to wait for a connection: a server that restarts is back within it, and a probe does not hang.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// A connection that was idle for longer is tried before it is used: firewalls forget silently.
const TRUSTED_IDLE: Duration = Duration::from_secs(10);

/// A standby, or a primary that an administrator made read-only before its switch-over.
const IS_READ_ONLY: &str = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean";

/// The connection URL cannot be used. The URL holds a password and is not repeated.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the database URL")]
pub struct InvalidUrl(#[source] Box<dyn std::error::Error + Send + Sync>);

pub(super) fn options(url: &str, application_name: &str) -> Result<PgConnectOptions, InvalidUrl> {
    let options = PgConnectOptions::from_str(url).map_err(|error| InvalidUrl(Box::new(error)))?;
    // Poolers let few settings pass, and no value of ours is a float.
    Ok(options.application_name(application_name).extra_float_digits(None))
}

/// A pool of sessions that are fit for our statements.
#[derive(Debug, Clone)]
pub(super) struct Sessions {
    pool: PgPool,
    limits: Limits,
    /// How many of them run a statement.
    busy: Arc<AtomicU32>,
    /// How many are taken by a ping or a turn, which are no work that shows that the database answers.
    aside: Arc<AtomicU32>,
    unfit: Arc<Mutex<Option<Unfit>>>,
    broke: Broke,
    refusal: Refusal,
}

/// When a connection broke last. The others were most likely lost with it: a server that ended has ended them all. Found one
/// by one, each would cost its caller an answer, and a batch that is held the wait before the next try.
#[derive(Debug, Clone, Default)]
struct Broke(Arc<Mutex<Option<Instant>>>);

impl Broke {
    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether a connection that was idle for so long was so already when another one broke.
    fn is_since(&self, idle_for: Duration) -> bool {
        let broke = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        broke.is_some_and(|broke| broke.elapsed() <= idle_for)
    }
}

/// The last session that was not fit. One that is fit does not make it forgotten: before a pooler that loses statements
/// some are, by luck.
#[derive(Debug, Clone, Copy)]
struct Unfit {
    seen: Instant,
    lacks: &'static str,
}

/// A pool that connects when it is first used. What the sessions need is sent with the start-up packet; no session
/// state is set later, so that a pooler in transaction mode can stand between. One that does not let `options` pass
/// leaves it to the role to have what must not be missing.
pub(super) fn pool(options: PgConnectOptions, max_connections: u32, limits: Limits, claimed: &Claimed) -> Sessions {
    let unfit = Arc::new(Mutex::new(None));
    let noted = Arc::clone(&unfit);
    let broke = Broke::default();
    let suspected = broke.clone();
    let claimed = Arc::clone(claimed);
    let options = options.options([
        ("statement_timeout", limits.server),
        ("lock_timeout", limits.lock),
        // Without it a crash of the server silently loses acknowledged grants and cursors.
        ("synchronous_commit", "on"),
        // The statements lock rows and then judge what is in them; what repeatable read locks, it refuses if it is newer.
        ("default_transaction_isolation", "read committed"),
        // The turn of upkeep is an empty transaction, for as long as readers keep its other session waiting.
        ("idle_in_transaction_session_timeout", "0"),
        // Short statements; compiling them takes longer than running them.
        ("jit", "off"),
        // Planning takes longer than running them too, and PostgreSQL would plan RESERVE again for every poll (0.45 ms beside
        // 0.15 ms): its estimate for arrays of one is better than the one for any array. The plan is the same.
        ("plan_cache_mode", "force_generic_plan"),
        // Statements are planned once and kept: a plan from when the gate had ten rows must not scan ten thousand.
        ("enable_seqscan", "off"),
    ]);
    let pool = PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(CONNECT_LIMIT)
        .test_before_acquire(false)
        .before_acquire(move |connection, idle| {
            let is_suspect = idle.idle_for > TRUSTED_IDLE || suspected.is_since(idle.idle_for);
            Box::pin(async move {
                if is_suspect {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .after_connect(move |connection, _| {
            let (noted, claimed) = (Arc::clone(&noted), Arc::clone(&claimed));
            Box::pin(async move {
                let lacking = match lacks(limits, &claimed, connection).await {
                    Err(error) if loses_statements(&error) => Some(LOSES_STATEMENTS),
                    looked => looked?,
                };
                let Some(lacks) = lacking else { return Ok(()) };
                *noted.lock().unwrap_or_else(PoisonError::into_inner) = Some(Unfit { seen: Instant::now(), lacks });
                // The pool tries again and tells its caller of the time alone.
                Err(sqlx::Error::Configuration(lacks.into()))
            })
        })
        .connect_lazy_with(options);
    Sessions { pool, limits, busy: Arc::default(), aside: Arc::default(), unfit, broke, refusal: Refusal::default() }
}

const SETTINGS: &str = "SELECT NOT pg_is_in_recovery(), current_setting('synchronous_commit') <> 'off', \
                        extract(epoch FROM current_setting('statement_timeout')::interval) * 1000 BETWEEN 1 AND $1::text::numeric";

/// A pooler may have swallowed our settings, and a role may have its own: look at what the session really has.
async fn lacks(
    limits: Limits,
    claimed: &Claimed,
    connection: &mut PgConnection,
) -> Result<Option<&'static str>, sqlx::Error> {
    let (primary, durable, limited): (bool, bool, bool) =
        sqlx::query_as(SETTINGS).bind(limits.server).fetch_one(&mut *connection).await?;
    Ok(match (durable, limited) {
        // It would refuse writes by itself, but tell what it has not seen yet: that an id is not stored.
        _ if !primary => Some("the server is a standby; let the URL lead to the primary"),
        (true, true) => installation::lacks(claimed, connection).await?,
        (false, _) => Some("synchronous_commit is off for this role or database"),
        // A statement that we gave up would work on, and the next try would meet it.
        (true, false) => Some(
            "statement_timeout did not arrive: let the pooler pass `options`, or ALTER ROLE ... SET statement_timeout = '4500ms' \
             (docs/pooler.md)",
        ),
    })
}

impl Sessions {
    /// A connection that counts among these for as long as it is busy.
    async fn acquire(&self, action: &'static str, busy: &Arc<AtomicU32>) -> Result<Busy, StoreError> {
        let began = Instant::now();
        match self.pool.acquire().await {
            Ok(connection) => {
                busy.fetch_add(1, Ordering::Relaxed);
                Ok(Busy { connection: Some(connection), busy: Arc::clone(busy) })
            }
            Err(sqlx::Error::PoolTimedOut) => Err(unavailable(action, self.why_none_was_free(began).await)),
            Err(error) => Err(store_error(action, error)),
        }
    }

    /// To one who has waited since `began`.
    async fn why_none_was_free(&self, began: Instant) -> Cause {
        let connections = self.pool.options().get_max_connections();
        let unfit = *self.unfit.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(unfit) = unfit.filter(|unfit| unfit.seen >= began) {
            Cause::Unfit(unfit.lacks)
        } else if self.busy.load(Ordering::Relaxed) + self.aside.load(Ordering::Relaxed) >= connections {
            Cause::AllBusy { connections, waited: CONNECT_LIMIT }
        } else {
            let said = self.refusal.of(&self.pool.connect_options()).await;
            Cause::NoConnection { within: CONNECT_LIMIT, said }
        }
    }

    /// Whether a statement is under way on one of its connections, other than a ping.
    pub(super) fn is_at_work(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }

    /// Statements under way end first, where that takes no longer than the end of a process may.
    pub(super) async fn close(&self) {
        let _ = tokio::time::timeout(CLOSE_LIMIT, self.pool.close()).await;
    }
}

/// A connection with a statement under way. Dropped before the answer arrived, it is closed: the pool would wait for
/// that answer, for ever if the server is silent.
struct Busy {
    connection: Option<PoolConnection<Postgres>>,
    busy: Arc<AtomicU32>,
}

impl Busy {
    fn connection(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("a busy connection is taken only by done and drop")
    }

    /// Gives it back, with buffers as small as at first: sqlx keeps those of the largest batch for as long as the connection
    /// lives, beside the memory that batches are counted in.
    fn done(mut self) {
        if let Some(mut connection) = self.connection.take() {
            connection.shrink_buffers();
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.busy.fetch_sub(1, Ordering::Relaxed);
        drop(self.connection.take().map(PoolConnection::detach));
    }
}

/// Between its statements it has no snapshot, whatever the database's default is: FINALIZE waits for all that are older.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// A lock of an otherwise empty transaction, held while statements run on other connections. Only upkeep has one. Dropped in any
/// way but by [`Turn::end`], its connection is closed: the pool never gets one back whose transaction is open or unknown.
pub(super) struct Turn(Busy);

impl Turn {
    /// `lock` tells whether it took the lock. None: somebody else has it.
    pub(super) async fn take(
        pool: &Sessions,
        action: &'static str,
        lock: &'static str,
    ) -> Result<Option<Self>, StoreError> {
        let mut turn = Self(pool.acquire(action, &pool.aside).await?);
        let connection = turn.0.connection();
        let mine: bool = within_limit(action, async {
            sqlx::raw_sql(BEGIN).execute(&mut *connection).await?;
            sqlx::query_scalar(lock).fetch_one(connection).await
        })
        .await?;
        if mine {
            return Ok(Some(turn));
        }
        turn.end(action).await?;
        Ok(None)
    }

    pub(super) async fn end(mut self, action: &'static str) -> Result<(), StoreError> {
        within_limit(action, sqlx::raw_sql("ROLLBACK").execute(self.0.connection())).await?;
        self.0.done();
        Ok(())
    }
}

/// Runs one statement in a transaction of its own and returns its rows.
pub(super) async fn rows(
    pool: &Sessions,
    action: &'static str,
    statement: Query<'_, Postgres, PgArguments>,
) -> Result<Vec<PgRow>, StoreError> {
    on_connection(pool, action, async move |connection| statement.fetch_all(connection).await).await
}

/// As [`rows`], and when the statement was issued: after the wait for a connection, before the server saw any of it.
pub(super) async fn rows_issued(
    pool: &Sessions,
    action: &'static str,
    statement: Query<'_, Postgres, PgArguments>,
) -> Result<(Moment, Vec<PgRow>), StoreError> {
    on_connection(pool, action, async move |connection| {
        let issued = Moment::now();
        statement.fetch_all(connection).await.map(|rows| (issued, rows))
    })
    .await
}

/// Asks the server whether it answers, and takes writes.
pub(super) async fn ping(pool: &Sessions) -> Result<(), StoreError> {
    // Aside: two that ask at once must not take each other for work that is done.
    on_counted_connection(pool, "reach the store", &pool.aside, async |connection| {
        let read_only: bool = sqlx::query_scalar(IS_READ_ONLY).fetch_one(connection).await?;
        if read_only { Err(sqlx::Error::AnyDriverError(Cause::ReadOnly.into())) } else { Ok(()) }
    })
    .await
}

/// Runs `work` on a connection of the pool, within its limit.
pub(super) async fn on_connection<T>(
    pool: &Sessions,
    action: &'static str,
    work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
) -> Result<T, StoreError> {
    on_counted_connection(pool, action, &pool.busy, work).await
}

async fn on_counted_connection<T>(
    pool: &Sessions,
    action: &'static str,
    busy: &Arc<AtomicU32>,
    work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
) -> Result<T, StoreError> {
    let mut busy = pool.acquire(action, busy).await?;
    match tokio::time::timeout(pool.limits.ours, work(busy.connection())).await {
        Ok(Err(error)) if takes_no_writes(&error) => {
            // After a failover the host's name leads elsewhere: this connection is closed, and the next one looks it up.
            drop(busy);
            Err(store_error(action, error))
        }
        Ok(result) => {
            if result.as_ref().is_err_and(is_broken) {
                pool.broke.note();
            }
            busy.done();
            result.map_err(|error| store_error(action, error))
        }
        Err(_elapsed) => {
            pool.broke.note();
            Err(silent(action, pool.limits.ours))
        }
    }
}

/// Runs `work`, which brings its own connection, within the statement limit.
pub(super) async fn within_limit<T>(
    action: &'static str,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(STATEMENT_LIMIT, work).await {
        Ok(result) => result.map_err(|error| store_error(action, error)),
        Err(_elapsed) => Err(silent(action, STATEMENT_LIMIT)),
    }
}

fn silent(action: &'static str, limit: Duration) -> StoreError {
    unavailable(action, Cause::Silent(limit))
}

pub(super) fn unavailable(action: &'static str, cause: Cause) -> StoreError {
    StoreError::Unavailable { action, source: Box::new(cause) }
}
