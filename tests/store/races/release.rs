//! Two releases on one database, while an update rolls out or is rolled back. There is one release so far: what stands in
//! for the next one is what migrations are allowed to do, which is to add.

use std::time::Duration;

use headgate::{
    event::Cursor,
    store::{
        EventStore, Fence, Forget, Gate, StoreError,
        postgres::{Bound, InstallationError, MigrateError, PostgresStore, UpkeepError, migrate},
    },
};
use rstest::rstest;
use sqlx::{
    Connection, PgConnection,
    migrate::{Migrate as _, Migrator},
};

use crate::{
    database::Database,
    faults::cause,
    replica::{GAP, Replica, after, applied, events},
    upkeep::drop_all_days,
};

/// What the next release may do to the schema: each table gets columns, and there is a new table. Some of the columns have names
/// that statements of this release give to what they compute.
const NEXT_RELEASE: [&str; 5] = [
    "ALTER TABLE headgate.source ADD COLUMN next_a text, ADD COLUMN next_b integer NOT NULL DEFAULT 7, \
     ADD COLUMN now timestamptz, ADD COLUMN starts_at timestamptz, ADD COLUMN ends_at timestamptz, ADD COLUMN slot_at timestamptz, \
     ADD COLUMN starts_in interval, ADD COLUMN in_flight_for interval, ADD COLUMN start text, ADD COLUMN repeated boolean, \
     ADD COLUMN grows boolean, ADD COLUMN epoch_after bigint, ADD COLUMN ordinal bigint, ADD COLUMN request bigint, \
     ADD COLUMN position integer",
    "ALTER TABLE headgate.commits ADD COLUMN next_a bytea",
    "ALTER TABLE headgate.event ADD COLUMN next_a timestamptz",
    "ALTER TABLE headgate.set_aside ADD COLUMN next_a json",
    "CREATE TABLE headgate.next (stream text PRIMARY KEY REFERENCES headgate.source)",
];

/// Writes that a migration with this number was applied.
const APPLIED: &str = "INSERT INTO headgate.migration (version, description, success, checksum, execution_time) \
                       VALUES (9999, 'of the next release', true, '\\x00', 1)";

#[tokio::test(flavor = "multi_thread")]
async fn polls_of_this_release_go_on_while_the_next_one_migrates() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    // The statements of this release are prepared, and planned, before the tables change.
    for id in 1..=6 {
        replica.poll(events([id])).await;
    }
    for (change, id) in NEXT_RELEASE.into_iter().zip(7..) {
        replica.reserve().await;
        database.run(change).await;
        let page = replica.closing(events([id]));
        assert_eq!(replica.append(&page).await.stored, 1, "after {change}");
    }
    replica.reset(1).await;
    assert_eq!(replica.poll(events(1..=12)).await.repeated, 11);
    assert_eq!(replica.adopt().await.cursor, after("12"));
    replica.reserve().await;
    applied(replica.extend(replica.in_flight).await);
    applied(replica.abort(GAP).await);
    let forget = Forget { stream: replica.stream.clone(), uid: replica.uid.clone() };
    applied(replica.store.forget(forget).await.unwrap());
}

#[tokio::test]
async fn a_replica_of_this_release_starts_on_the_schema_of_the_next_one() {
    let database = Database::migrated().await;
    for change in NEXT_RELEASE.into_iter().chain([APPLIED]) {
        database.run(change).await;
    }
    migrate(&database.url, None).await.unwrap();
    let store = database.store();
    let mut old = Replica::adopting(&store, "a", "orders").await;
    old.poll(events([1, 2])).await;
    // And takes over from one of the next release, which wrote what this one does not know.
    database.run("UPDATE headgate.source SET next_a = 'known to the next release'").await;
    let mut heir = Replica::adopting(&store, "b", "orders").await;
    assert_eq!(heir.poll(events([3])).await.events_stored, 3);
    let kept: String = database.one("SELECT next_a || next_b FROM headgate.source").await;
    assert_eq!(kept, "known to the next release7");
}

fn this_release() -> Migrator {
    let mut migrator = sqlx::migrate!();
    migrator.dangerous_set_table_name("headgate.migration");
    migrator.create_schema("headgate");
    migrator
}

async fn at_version(version: i64) -> Database {
    let database = Database::empty().await;
    let mut session = PgConnection::connect(&database.url).await.unwrap();
    this_release().run_to(version, &mut session).await.unwrap();
    session.close().await.unwrap();
    database
}

/// A replica with a request in flight, as every release has written it.
async fn asking_for_an_older_release(database: &Database, holder: &str, name: &str) -> Replica {
    let mut replica = Replica::new(&database.store(), holder, name);
    let (stream, uid, token) = (&replica.stream, &replica.uid, u128::from_be_bytes(replica.attempt.to_bytes()));
    database
        .execute(format!(
            "INSERT INTO headgate.source (
                stream, uid, holder, fence, epoch, attempt, slot, deadline, longest_flight, not_before, longest_wait
            )
            SELECT
                '{stream}', '{uid}', '{holder}', 1, 0, '\\x{token:032x}', t,
                t + interval '1 min', interval '1 min', t + interval '1 min', interval '1 min'
            FROM clock_timestamp() AS t"
        ))
        .await;
    replica.fence = Fence(1);
    replica
}

#[tokio::test]
async fn on_the_schema_of_an_older_release_what_it_lacks_fails_clearly_and_changes_nothing() {
    let versions: Vec<i64> = this_release().iter().map(|migration| migration.version).collect();
    for &version in &versions[..versions.len() - 1] {
        let database = at_version(version).await;
        let store = database.store();
        let mut replica = asking_for_an_older_release(&database, "a", "orders").await;
        let page = replica.closing(events([1]));
        if version >= 3 {
            assert_eq!(replica.append(&page).await.stored, 1, "days and tables are there");
        }
        let error = match version {
            ..3 => store.append(&page).await.expect_err("there is nothing to store events in, or no day"),
            // What comes again after a reset needs the marks of both kinds of id.
            3 => store.reset(replica.resetting_to(1, Cursor::Start)).await.expect_err("it has one mark"),
            4 => unclaimed(&store).await,
            // Days are made by two clocks.
            5 => match store.upkeep(None).await {
                Err(UpkeepError::Store(error)) => error,
                made => panic!("{made:?}"),
            },
            // An adopter learns what the ids were read from.
            6 => store.adopt(replica.adoption()).await.expect_err("nothing says it"),
            // Several opaque marks are kept.
            7.. => store.reset(replica.resetting_to(1, Cursor::Start)).await.expect_err("it keeps one"),
        };
        assert!(
            matches!(&error, StoreError::Failed { sqlstate, .. } if ["42P01", "42703", "42883"].contains(&sqlstate.as_str())),
            "at {version}: {error:?}"
        );

        // Brought up to date, it goes on with what the older release knew: the request in flight is still its own.
        migrate(&database.url, None).await.unwrap();
        assert_eq!(replica.append(&page).await.stored, 1, "at {version}");
        assert_eq!(replica.poll(events([2])).await.events_stored, 2);
        replica.reset(1).await;
        assert_eq!(replica.poll(events(1..=3)).await.repeated, 2, "at {version}");
    }
}

#[tokio::test]
async fn a_release_that_knows_one_clock_makes_its_days_on_the_schema_of_this_one() {
    let database = Database::migrated().await;
    let days = "SELECT count(*) FROM headgate.partition";
    let made: i64 = database.one(days).await;
    drop_all_days(&database).await;
    assert_eq!(database.one::<i64>("SELECT coalesce(headgate.make_partitions(7), 0)::bigint").await, made);
    assert_eq!(database.one::<i64>(days).await, 2 * 8);
}

/// What a claim comes to in a database that has no name of its own yet.
async fn unclaimed(store: &PostgresStore) -> StoreError {
    match store.claim_installation("lease-1", Bound::ToNone, false).await {
        Err(InstallationError::Store(error)) => error,
        claimed => panic!("{claimed:?}"),
    }
}

#[tokio::test]
async fn a_schema_that_another_history_wrote_is_refused_with_the_number_of_the_migration() {
    let database = Database::migrated().await;
    database.run("UPDATE headgate.migration SET checksum = '\\x00' WHERE version = 2").await;
    let error = migrate(&database.url, None).await.unwrap_err();
    assert!(matches!(error, MigrateError::Changed { version: 2 }), "{error:?}");

    let database = Database::migrated().await;
    database.run("UPDATE headgate.migration SET success = false WHERE version = 3").await;
    let error = migrate(&database.url, None).await.unwrap_err();
    assert!(matches!(error, MigrateError::Interrupted { version: 3 }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_waits_for_a_long_reader_stops_polls_no_longer_than_their_own_limit() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.reserve().await;
    let mut reader = database.sql.begin().await.unwrap();
    sqlx::query("SELECT FROM headgate.source").execute(&mut *reader).await.unwrap();
    let url = database.url.clone();
    let migrating = tokio::spawn(async move {
        let mut session = PgConnection::connect(&url).await.unwrap();
        sqlx::raw_sql(NEXT_RELEASE[0]).execute(&mut session).await.unwrap();
    });
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'";
    while database.one::<i64>(waits).await == 0 {
        tokio::task::yield_now().await;
    }
    // Queued behind the migration: not an answer, and above all no refusal.
    let page = replica.closing(events([1]));
    let error = replica.store.append(&page).await.expect_err("the table is locked");
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    reader.rollback().await.unwrap();
    migrating.await.unwrap();
    assert_eq!(replica.append(&page).await.stored, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_waits_for_another_replica_that_is_at_it_longer_than_statements_may_take() {
    let database = at_version(3).await;
    let name: String = database.one("SELECT current_database()::text").await;
    for limit in ["lock_timeout = '50ms'", "statement_timeout = '200ms'"] {
        let sql = format!("ALTER DATABASE \"{name}\" SET {limit}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&database.sql).await.unwrap();
    }
    let mut other = PgConnection::connect(&database.url).await.unwrap();
    other.lock().await.unwrap();
    let url = database.url.clone();
    let migrating = tokio::spawn(async move { migrate(&url, None).await });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND now() - query_start > interval '300 ms'";
    while database.one::<i64>(waits).await == 0 {
        assert!(!migrating.is_finished(), "{:?}", migrating.await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    other.unlock().await.unwrap();
    migrating.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_finds_a_long_reader_in_its_way_lets_polls_go_on_and_migrates_later() {
    let database = at_version(3).await;
    let mut replica = asking_for_an_older_release(&database, "a", "orders").await;
    let page = replica.closing(events([1]));
    let mut backup = database.sql.begin().await.unwrap();
    sqlx::query("SELECT FROM headgate.source").execute(&mut *backup).await.unwrap();
    let started =
        tokio::time::timeout(Duration::from_secs(20), migrate(&database.url, None)).await.expect("it gives up");
    assert!(matches!(started, Err(MigrateError::TableInUse(_))), "the start tries seldom then: {started:?}");
    assert_eq!(replica.append(&page).await.stored, 1);
    backup.rollback().await.unwrap();
    migrate(&database.url, None).await.unwrap();
    replica.reset(1).await;
    assert_eq!(replica.poll(events([1])).await.repeated, 1);
}

/// Every command on a table takes a minute.
const SLOW_STEPS: &str = "CREATE FUNCTION be_slow() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); END'; \
                          CREATE EVENT TRIGGER be_slow ON ddl_command_start EXECUTE FUNCTION be_slow()";

const MIGRATING: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'headgate-migrate'";

#[rstest]
#[case::at_its_limit_in_a_slow_step(true, Some(Duration::from_millis(300)))]
#[case::at_its_limit_behind_another(false, Some(Duration::from_millis(300)))]
#[case::dropped_in_a_slow_step(true, None)]
#[case::dropped_behind_another(false, None)]
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_is_given_up_ends_on_the_server_too(#[case] in_a_step: bool, #[case] limit: Option<Duration>) {
    let database = at_version(3).await;
    let mut other = PgConnection::connect(&database.url).await.unwrap();
    if in_a_step {
        database.run(SLOW_STEPS).await;
    } else {
        other.lock().await.unwrap();
    }
    let given_up = tokio::time::timeout(Duration::from_secs(1), migrate(&database.url, limit)).await;
    match given_up {
        Ok(migrated) => {
            let Err(MigrateError::Store(error @ StoreError::Unavailable { .. })) = migrated else {
                panic!("{migrated:?}")
            };
            assert!(limit.is_some() && cause(&error).contains("headgate migrate"), "{error:?}");
        }
        Err(_dropped) => assert_eq!(limit, None, "without a limit it goes on for as long as somebody waits for it"),
    }
    let began = tokio::time::Instant::now();
    while database.one::<i64>(MIGRATING).await > 0 {
        assert!(began.elapsed() < Duration::from_secs(10), "it holds the lock of all migrations");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
