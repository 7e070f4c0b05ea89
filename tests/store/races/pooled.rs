//! The store through a real pooler in transaction mode: every statement may meet another server session than the one
//! before, and other clients' statements in between.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::FutureExt;

use headgate::store::{Answer, Append, Close, EventStore, Extend, Gate, StoreError, Then, postgres::PostgresStore};
use headgate_bed::pgbouncer::PgBouncer;

use crate::{
    database::Database,
    faults::{cause, until_answered},
    replica::{GAP, Replica, after, applied, events, refused},
    upkeep::make_past_days,
};

/// Far fewer than there are clients.
const SERVER_SESSIONS: u32 = 2;
const CLIENTS: u64 = 12;

/// What administrators read.
const PAGE: &str = include_str!("../../../docs/pooler.md");

fn block(language: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(&format!("```{language}\n")).expect("the page has the block");
    rest.split_once("```").expect("a block has an end").0
}

/// A database behind a pooler.
struct Pooled {
    database: Database,
    pooler: PgBouncer,
}

impl Pooled {
    /// A pooler with these settings, before a role without any.
    async fn with(settings: &[(&str, &str)]) -> Self {
        let database = Database::migrated().await;
        let pooler = PgBouncer::before(&database.url, SERVER_SESSIONS, settings).await.unwrap();
        Self { database, pooler }
    }

    /// A pooler that is set up as the page says, before a role that is not.
    async fn before_any_role() -> Self {
        let settings: Vec<(&str, &str)> = block("ini").lines().map(|line| line.split_once(" = ").unwrap()).collect();
        Self::with(&settings).await
    }

    /// Both as the page says.
    async fn as_the_page_says() -> Self {
        let pooled = Self::before_any_role().await;
        // The tests share a role; in this database it is set up.
        let name: String = pooled.database.one("SELECT quote_ident(current_database())").await;
        let set =
            block("sql").replace("ALTER ROLE headgate SET", &format!("ALTER ROLE CURRENT_USER IN DATABASE {name} SET"));
        sqlx::raw_sql(sqlx::AssertSqlSafe(set)).execute(&pooled.database.sql).await.unwrap();
        pooled
    }

    fn store(&self) -> PostgresStore {
        PostgresStore::new(&self.pooler.url(&self.database.url).unwrap(), "headgate-pooled", 8).unwrap()
    }

    /// The sessions that the pooler has.
    async fn server_sessions(&self) -> i64 {
        self.database
            .one(
                "SELECT count(*) FROM pg_stat_activity \
                 WHERE application_name = 'headgate-pooled' AND datname = current_database()",
            )
            .await
    }

    /// Ends them, and waits until they are gone.
    async fn end_server_sessions(&self) {
        let ended: i64 = self
            .database
            .one(
                "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity \
                 WHERE application_name = 'headgate-pooled' AND datname = current_database()",
            )
            .await;
        assert!(ended > 0, "there was no session to end");
    }

    async fn is_whole(&self, streams: u64, events_of_each: u64) {
        let torn: Vec<String> = self
            .database
            .all(
                "SELECT stream FROM headgate.source AS s LEFT JOIN headgate.event USING (stream) \
                 GROUP BY stream, cursor, events_stored, attempt HAVING count(sequence) <> events_stored \
                 OR max(sequence) <> events_stored OR cursor <> events_stored::text OR attempt IS NOT NULL",
            )
            .await;
        assert_eq!(torn, Vec::<String>::new());
        let stored: i64 = self.database.one("SELECT count(*) FROM headgate.event").await;
        assert_eq!(stored.cast_unsigned(), streams * events_of_each);
    }
}

/// Every verb once and again: a poll in parts, one that is given up, an heir, and a reset that loads all of it again.
async fn whole_life(store: PostgresStore, stream: String) {
    let mut first = Replica::adopting(&store, "a", &stream).await;
    first.reserve().await;
    for ids in [1..=2, 3..=5] {
        applied(first.extend(Duration::from_mins(1)).await);
        let part = first.appending(events(ids));
        first.append(&part).await;
    }
    let last = first.closing(events([6]));
    first.append(&last).await;
    first.reserve().await;
    applied(first.abort(Duration::ZERO).await);

    let mut heir = Replica::adopting(&store, "b", &stream).await;
    assert_eq!(heir.cursor, after("6"));
    heir.reserve().await;
    refused(first.try_reserve().await);
    let page = heir.closing(events(7..=8));
    assert_eq!(heir.append(&page).await.events_stored, 8);
    heir.reset(1).await;
    assert_eq!(heir.poll(events(1..=10)).await.repeated, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_lives_of_many_streams_pass_over_two_server_sessions() {
    let pooled = Pooled::as_the_page_says().await;
    let replicas = [pooled.store(), pooled.store(), pooled.store()];
    let lives: Vec<_> = (0..CLIENTS)
        .zip(replicas.iter().cycle())
        .map(|(stream, store)| tokio::spawn(whole_life(store.clone(), format!("source-{stream}"))))
        .collect();
    for life in lives {
        life.await.unwrap();
    }
    assert!(pooled.server_sessions().await <= SERVER_SESSIONS.into());
    pooled.is_whole(CLIENTS, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_poll_one_stream_one_is_in_flight_at_a_time_and_no_start_is_too_early() {
    let pooled = Pooled::as_the_page_says().await;
    let me = Replica::adopting(&pooled.store(), "a", "orders").await;
    let ids = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let (mut me, ids) = (me.clone(), Arc::clone(&ids));
            me.store = pooled.store();
            tokio::spawn(poll_three_times(me, ids))
        })
        .collect();
    let mut slots = Vec::new();
    for client in clients {
        slots.extend(client.await.unwrap());
    }
    slots.sort();
    for pair in slots.windows(2) {
        assert!(pair[1].duration_since(pair[0]) >= GAP, "{pair:?}");
    }
    pooled.is_whole(1, 18).await;
}

/// When each grant was known. The end of a poll puts the next grant off by the gap.
async fn poll_three_times(mut me: Replica, ids: Arc<AtomicU64>) -> Vec<Instant> {
    let mut grants = Vec::new();
    while grants.len() < 3 {
        match me.try_reserve().await {
            Answer::Applied(_) => grants.push(Instant::now()),
            Answer::Locked => continue,
            Answer::Refused(row) => {
                let row = row.unwrap();
                me.cursor = row.cursor;
                tokio::time::sleep(row.starts_in.max(row.in_flight_for).min(Duration::from_millis(20))).await;
                continue;
            }
        }
        let id = ids.fetch_add(1, Ordering::SeqCst) + 1;
        let then = Then::Closes(Close { next_start_in: GAP });
        let page = Append { then, ..me.closing(events([id])) };
        // Another one's reservation, which is about to be refused, may have the row for a moment.
        let mut answer = Answer::Locked;
        while answer == Answer::Locked {
            answer = me.store.append(&page).await.expect("an answer");
        }
        applied(answer);
        me.cursor = page.cursor_after;
    }
    grants
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_goes_on_when_its_server_session_ends_between_any_two_statements() {
    let pooled = Pooled::as_the_page_says().await;
    let store = pooled.store();
    let mut replica = Replica::adopting(&store, "a", "orders").await;
    pooled.end_server_sessions().await;

    let reservation = replica.reservation();
    replica.attempt = reservation.attempt;
    applied(until_answered(async || store.reserve(reservation.clone()).await).await);
    pooled.end_server_sessions().await;

    let extend = Extend { stream: replica.stream.clone(), attempt: replica.attempt, by: Duration::from_mins(2) };
    applied(until_answered(async || store.extend(extend.clone()).await).await);
    for ids in [1..=2, 3..=5] {
        pooled.end_server_sessions().await;
        let part = replica.appending(events(ids));
        applied(until_answered(async || store.append(&part).await).await);
        (replica.cursor, replica.part) = (part.cursor_after, part.part + 1);
    }
    pooled.end_server_sessions().await;
    let last = replica.closing(events([6]));
    applied(until_answered(async || store.append(&last).await).await);
    pooled.is_whole(1, 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_changes_its_server_sessions_costs_a_repetition_at_most() {
    let pooled = Pooled::as_the_page_says().await;
    let store = pooled.store();
    let mut replica = Replica::adopting(&store, "a", "orders").await;
    for id in 1..=6 {
        // What was prepared on the old ones is prepared again on the new ones, by the pooler.
        pooled.pooler.tell("RECONNECT").await.unwrap();
        let reservation = replica.reservation();
        applied(until_answered(async || store.reserve(reservation.clone()).await).await);
        (replica.attempt, replica.part) = (reservation.attempt, 0);
        let page = replica.closing(events([id]));
        applied(until_answered(async || store.append(&page).await).await);
        replica.cursor = page.cursor_after;
    }
    pooled.is_whole(1, 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn days_are_made_and_dropped_through_it_by_one_at_a_time() {
    let pooled = Pooled::as_the_page_says().await;
    make_past_days(&pooled.database, 5).await;
    let rounds: Vec<_> = (0..3)
        .map(|_| {
            let store = pooled.store();
            tokio::spawn(async move { store.upkeep(Some(Duration::from_hours(24))).await.unwrap().partitions_dropped })
        })
        .collect();
    let mut dropped = 0;
    for round in rounds {
        dropped += round.await.unwrap();
    }
    assert_eq!(dropped, 2 * 4, "each of them once; yesterday stays");
    let left: i64 = pooled.database.one("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())").await;
    assert_eq!(left, 0, "a lock was left in a session of the pooler");
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_ended_by_the_server_and_not_left_to_work_on() {
    let pooled = Pooled::as_the_page_says().await;
    let mut replica = Replica::adopting(&pooled.store(), "a", "orders").await;
    replica.reserve().await;
    pooled
        .database
        .run(
            "CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NEW; END'; \
             CREATE TRIGGER sleep BEFORE INSERT ON headgate.event FOR EACH ROW EXECUTE FUNCTION sleep()",
        )
        .await;
    let error = replica.store.append(&replica.closing(events([1]))).await.unwrap_err();
    assert!(matches!(error, StoreError::TooSlow { .. }), "{error:?}");
    let working: i64 = pooled
        .database
        .one(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
             AND application_name = 'headgate-pooled' AND state = 'active'",
        )
        .await;
    assert_eq!(working, 0);
}

#[tokio::test]
async fn a_session_through_it_has_all_that_one_of_ours_has() {
    const SETTINGS: &str = "SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings WHERE name IN \
        ('statement_timeout', 'lock_timeout', 'synchronous_commit', 'jit', 'plan_cache_mode', 'enable_seqscan', 'TimeZone')";
    let pooled = Pooled::as_the_page_says().await;
    // A function of ours tells what the sessions of the store have.
    let seen = async |store: &PostgresStore| -> String {
        Replica::adopting(store, "a", &format!("{:x}", rand::random::<u64>())).await;
        pooled.database.one("SELECT seen FROM seen ORDER BY at DESC LIMIT 1").await
    };
    pooled.database.run("CREATE TABLE seen (seen text, at timestamptz DEFAULT clock_timestamp())").await;
    let tell = format!(
        "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen ({SETTINGS}); RETURN NEW; END $$; \
         CREATE TRIGGER tell AFTER INSERT ON headgate.source FOR EACH ROW EXECUTE FUNCTION tell()"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(tell)).execute(&pooled.database.sql).await.unwrap();
    assert_eq!(seen(&pooled.store()).await, seen(&pooled.database.store()).await);
}

#[tokio::test]
async fn a_pooler_that_is_not_set_up_is_told_of_in_one_line() {
    for (settings, what) in [
        (vec![], "ignore_startup_parameters = options"),
        (vec![("ignore_startup_parameters", "options")], "statement_timeout did not arrive"),
    ] {
        let pooled = Pooled::with(&settings).await;
        let error = pooled.store().ping().await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        assert!(cause(&error).contains(what), "{settings:?}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_loses_prepared_statements_is_told_of_in_one_line() {
    let pooled = Pooled::as_the_page_says().await;
    let forgetful = [("ignore_startup_parameters", "options"), ("max_prepared_statements", "0")];
    let pooler = PgBouncer::before(&pooled.database.url, SERVER_SESSIONS, &forgetful).await.unwrap();
    let pooled = Pooled { pooler, ..pooled };
    let error = until_refused(&pooled.store()).await;
    assert!(cause(&error).contains("max_prepared_statements"), "{error:?}");
}

/// Asks from several sides, until the pooler mixes them up.
async fn until_refused(store: &PostgresStore) -> StoreError {
    for stream in 0.. {
        let asked =
            (0..4).map(|n| store.adopt(Replica::new(store, "a", &format!("source-{stream}-{n}")).adoption()).boxed());
        if let Some(error) = futures::future::join_all(asked).await.into_iter().find_map(Result::err) {
            return error;
        }
    }
    unreachable!("there is always a next stream")
}
