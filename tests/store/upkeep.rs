//! The schema, the days, and whose they are.

use std::time::Duration;

use headgate::store::{
    Gate as _, StoreError,
    postgres::{Bound, InstallationError, PostgresStore, Upkeep, UpkeepError, migrate},
};

use rstest::rstest;

use crate::{
    database::Database,
    faults::cause,
    races::clock,
    replica::{Replica, after, event, events},
};

const DAY: Duration = Duration::from_hours(24);
const DAYS: &str = "SELECT count(*) FROM headgate.partition WHERE state = 'attached' AND parent = 'event'";

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_together_migrate_once() {
    let database = Database::empty().await;
    let starting = (0..4).map(|_| {
        let url = database.url.clone();
        tokio::spawn(async move { migrate(&url, None).await })
    });
    for migrated in futures::future::join_all(starting).await {
        migrated.unwrap().unwrap();
    }
    assert_eq!(database.one::<i64>(DAYS).await, 8);
}

#[tokio::test]
async fn an_append_never_fails_for_a_day_that_is_missing() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.poll(events([1])).await;
    drop_all_days(&database).await;
    assert_eq!(replica.poll(events([2])).await.stored, 1);
    assert_eq!(database.one::<i64>(DAYS).await, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_replica_may_make_the_days_at_any_time() {
    let database = Database::migrated().await;
    let store = database.store();
    assert_eq!(store.upkeep(None).await.unwrap(), Upkeep::default(), "the migration made a week");
    drop_all_days(&database).await;
    let rounds = (0..4).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.upkeep(None).await.unwrap().partitions_made })
    });
    let made: u64 = futures::future::join_all(rounds).await.into_iter().map(Result::unwrap).sum();
    assert_eq!(made, 2 * 8, "each day of both tables once");
}

#[tokio::test(flavor = "multi_thread")]
async fn days_older_than_the_retention_are_dropped_by_whoever_comes_first() {
    let database = Database::migrated().await;
    let store = database.store();
    let mut replica = Replica::adopting(&store, "a", "orders").await;
    replica.poll(vec![event("1", "1")]).await;
    make_past_days(&database, 30).await;
    database.run("UPDATE headgate.event SET stored_at = stored_at - interval '20 days'").await;
    assert_eq!(database.one::<i64>(DAYS).await, 38);

    assert_eq!(store.upkeep(None).await.unwrap(), Upkeep::default(), "without a retention all is kept");
    let mut dropped = Vec::new();
    while dropped.last() != Some(&0) {
        let rounds = (0..4).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.upkeep(Some(10 * DAY)).await.unwrap().partitions_dropped })
        });
        let rounds: Vec<u64> = futures::future::join_all(rounds).await.into_iter().map(Result::unwrap).collect();
        assert!(rounds.iter().all(|tables| *tables <= 16), "a clock that jumped ahead costs days: {rounds:?}");
        dropped.push(rounds.iter().sum());
    }
    // Each day of both tables once. The day that ends within the last ten days stays whole.
    assert_eq!(dropped.iter().sum::<u64>(), 2 * 20);
    assert_eq!(database.one::<i64>(DAYS).await, 18);
    assert_eq!(database.one::<i64>("SELECT count(*) FROM headgate.event").await, 0);
    // What was dropped is not fetched again: the cursor is in the row.
    assert_eq!(replica.adopt().await.cursor, crate::replica::after("1"));
}

#[tokio::test]
async fn what_was_set_aside_goes_after_its_time_a_part_at_a_time() {
    let database = Database::migrated().await;
    database
        .run(
            "INSERT INTO headgate.set_aside (stream, id, reason, item, stored_at) \
             SELECT 'shop/orders', n::text, 'NestedTooDeep', convert_to(repeat(md5(n::text), 20), 'UTF8'), now() - CASE WHEN n > 10 THEN interval '11 days' ELSE '9 days' END \
             FROM generate_series(1, 12010) AS n",
        )
        .await;
    database.run(NOTE_DELETIONS_ASIDE).await;
    database.store().upkeep(Some(10 * DAY)).await.unwrap();
    let deleted = database.all::<i64>("SELECT deleted FROM seen").await;
    assert!(deleted.len() > 2 && deleted.iter().all(|items| *items < 6000), "{deleted:?}");
    assert_eq!(database.one::<i64>("SELECT count(*) FROM headgate.set_aside").await, 10);
}

#[tokio::test]
async fn upkeep_stops_no_append_while_a_long_reader_is_at_work() {
    let database = Database::migrated().await;
    let store = PostgresStore::new(&database.url, "headgate-test", 1).unwrap();
    let mut replica = Replica::adopting(&store, "a", "orders").await;
    replica.poll(events([1])).await;
    make_past_days(&database, 2).await;
    let mut reader = database.sql.begin().await.unwrap();
    sqlx::query("SELECT FROM headgate.events").execute(&mut *reader).await.unwrap();

    let upkeep = tokio::spawn({
        let store = store.clone();
        async move { store.upkeep(Some(DAY)).await }
    });
    while database.one::<i64>("SELECT count(*) FROM headgate.partition WHERE state = 'pending'").await == 0 {
        assert!(!upkeep.is_finished(), "{:?}", upkeep.await);
        tokio::task::yield_now().await;
    }
    // The detach waits for the reader; appends wait for nobody.
    for id in 2..=5 {
        assert_eq!(replica.poll(events([id])).await.stored, 1);
    }
    assert!(!upkeep.is_finished(), "all of them went past it");
    let given_up = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity \
                    WHERE datname = current_database() AND query LIKE 'ALTER TABLE % DETACH %' AND state = 'active'";
    while !upkeep.is_finished() {
        database.one::<i64>(given_up).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    upkeep.await.unwrap().unwrap_err();
    reader.rollback().await.unwrap();
    // The next round finishes what was interrupted.
    store.upkeep(Some(DAY)).await.unwrap();
    assert_eq!(database.one::<i64>("SELECT count(*) FROM headgate.partition WHERE ends_on < current_date").await, 0);
}

#[tokio::test]
async fn upkeep_that_is_given_up_while_it_takes_its_turn_leaves_the_pool_usable() {
    let database = Database::migrated().await;
    make_past_days(&database, 2).await;
    // To take the turn takes longer than a caller waits for a connection.
    database
        .run(
            "CREATE SCHEMA slow; \
             CREATE FUNCTION slow.pg_try_advisory_xact_lock(bigint) RETURNS boolean LANGUAGE sql VOLATILE AS \
             'SELECT true FROM pg_catalog.pg_sleep(60)'; \
             DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = slow, pg_catalog', current_database()); END $$",
        )
        .await;
    let store = PostgresStore::new(&database.url, "headgate-test", 1).unwrap();
    let upkeep = tokio::spawn({
        let store = store.clone();
        async move { store.upkeep(Some(DAY)).await }
    });
    // One of its two connections is in the middle of that.
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    while database.one::<i64>(waits).await == 0 {
        assert!(!upkeep.is_finished(), "{:?}", upkeep.await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    upkeep.abort();
    database
        .run("CREATE OR REPLACE FUNCTION slow.pg_try_advisory_xact_lock(bigint) RETURNS boolean LANGUAGE sql VOLATILE AS 'SELECT true'")
        .await;
    assert_eq!(store.upkeep(Some(DAY)).await.unwrap().partitions_dropped, 2);
}

/// The oldest event and the oldest commit, in minutes before the true time.
const OLDEST: &str = "SELECT greatest(extract(epoch FROM pg_catalog.now() - least(e.oldest, c.oldest)) / 60, 0)::bigint FROM \
                      (SELECT min(stored_at) AS oldest FROM headgate.event) AS e, \
                      (SELECT min(stored_at) AS oldest FROM headgate.commits) AS c";

/// How many events are of a commit of their own time.
const OF_THEIR_COMMIT: &str = "SELECT count(*) FROM headgate.event AS e JOIN headgate.commits AS c \
                               ON c.stream = e.stream AND c.stored_at = e.stored_at \
                               AND e.sequence BETWEEN c.first_sequence AND c.last_sequence";

#[rstest]
#[case::of_numbers(["1", "2", "3"])]
#[case::that_are_looked_up(["a", "b", "c"])]
#[tokio::test]
async fn events_that_come_while_the_databases_clock_is_a_year_behind_do_not_expire_when_it_is_right_again(
    #[case] ids: [&str; 3],
) {
    let database = clock::database_with_a_clock_of_its_own().await;
    let store = database.store();
    let mut replica = Replica::adopting(&store, "a", "orders").await;
    replica.poll(events([ids[0]])).await;
    clock::set(&database, -365 * clock::DAY).await;
    assert_eq!(replica.poll(events([ids[1]])).await.stored, 1);

    // Where each id is looked up over all days, too; and an append that is repeated is known again.
    let adopted = replica.reset(1).await;
    replica.reserve().await;
    let page = replica.closing(events(ids));
    let first = replica.append(&page).await;
    assert_eq!((first.stored, first.repeated), (1, 2), "{adopted:?}");
    replica.part = 0;
    assert_eq!(replica.append(&page).await, first);
    assert!(database.one::<i64>(OLDEST).await <= 61, "an hour at most before the time of the replica");
    assert_eq!(database.one::<i64>(OF_THEIR_COMMIT).await, 3);

    clock::set(&database, 0).await;
    store.upkeep(Some(DAY)).await.unwrap();
    assert_eq!(database.one::<i64>("SELECT count(*) FROM headgate.event").await, 3);
    assert_eq!(replica.adopt().await.cursor, after(ids[2]));
}

#[rstest]
#[case::a_year_ahead(365 * clock::DAY, "365 days ahead of")]
#[case::two_hours_ahead(2 * clock::HOUR, "minutes ahead of")]
#[case::a_year_behind(-365 * clock::DAY, "365 days behind")]
#[tokio::test]
async fn nothing_is_dropped_while_the_clocks_disagree_and_days_are_made(#[case] jump: i64, #[case] said: &str) {
    let database = clock::database_with_a_clock_of_its_own().await;
    let store = database.store();
    let mut replica = Replica::adopting(&store, "a", "orders").await;
    replica.poll(events([1])).await;
    make_past_days(&database, 5).await;
    database
        .run(
            "INSERT INTO headgate.set_aside (stream, id, reason, item, stored_at) \
             VALUES ('shop/orders', '7', 'NestedTooDeep', '', now() - interval '4 days')",
        )
        .await;
    clock::set(&database, jump).await;
    let made_ahead = "SELECT bool_or(ends_on > (pg_catalog.now() AT TIME ZONE 'UTC' + greatest($1, 0) * interval '1 second')::date + 7) \
                      FROM headgate.partition";
    let kept = "SELECT (SELECT count(*) FROM headgate.partition WHERE ends_on <= (pg_catalog.now() AT TIME ZONE 'UTC')::date) \
                + (SELECT count(*) FROM headgate.set_aside)";

    let error = store.upkeep(Some(DAY)).await.unwrap_err();
    assert!(matches!(error, UpkeepError::ClocksDisagree { .. }), "{error:?}");
    assert!(error.to_string().contains(said) && error.to_string().contains("set right"), "{error}");
    assert_eq!(database.one::<i64>(kept).await, 2 * 5 + 1);
    let made_ahead: bool = sqlx::query_scalar(made_ahead).bind(jump).fetch_one(&database.sql).await.unwrap();
    assert!(made_ahead, "the days that appends need are there");
    store.upkeep(None).await.unwrap();

    clock::set(&database, 0).await;
    assert_eq!(store.upkeep(Some(DAY)).await.unwrap().partitions_dropped, 2 * 4);
    assert_eq!(database.one::<i64>(kept).await, 2);
}

#[tokio::test]
async fn a_schema_belongs_to_one_installation_until_another_takes_it_over() {
    let database = Database::migrated().await;
    let store = database.store();
    let owner = async |store: &PostgresStore, uid: &str, take_over| {
        store.claim_installation(uid, Bound::ToNone, take_over).await
    };
    owner(&store, "lease-1", false).await.unwrap();
    owner(&store, "lease-1", false).await.unwrap();
    let error = owner(&store, "lease-2", false).await.unwrap_err();
    assert!(matches!(&error, InstallationError::Taken { owner } if owner == "lease-1"), "{error}");
    assert!(error.to_string().contains("--take-over"), "{error}");
    owner(&store, "lease-2", true).await.unwrap();
    owner(&store, "lease-1", false).await.unwrap_err();
}

#[tokio::test]
async fn an_installation_uses_no_other_database_than_the_one_that_its_leases_belong_to() {
    let (database, other) = (Database::migrated().await, Database::migrated().await);
    let claim =
        async |of: &Database, bound, take_over| of.store().claim_installation("lease-1", bound, take_over).await;
    let name = claim(&database, Bound::ToNone, false).await.unwrap();
    assert_eq!(claim(&database, Bound::To(&name), false).await.unwrap(), name);
    assert_eq!(claim(&database, Bound::ToOneInUse, false).await.unwrap(), name, "it knows this installation");

    for (bound, named) in [(Bound::To(&name), Some(&name)), (Bound::ToOneInUse, None)] {
        let error = claim(&other, bound, false).await.unwrap_err();
        assert!(matches!(&error, InstallationError::Elsewhere { theirs } if theirs.as_ref() == named), "{error}");
        assert!(error.to_string().contains("scale to 0") && error.to_string().contains("--take-over"), "{error}");
        assert_eq!(other.one::<i64>("SELECT count(*) FROM headgate.installation").await, 0, "it is left as it was");
    }

    let new = claim(&other, Bound::To(&name), true).await.unwrap();
    assert_ne!(new, name);
    assert_eq!(claim(&other, Bound::To(&new), false).await.unwrap(), new);
}

#[tokio::test]
async fn a_backup_from_before_databases_had_names_gets_the_one_that_the_leases_know() {
    let database = Database::migrated().await;
    database
        .run("INSERT INTO headgate.installation (lease_uid, claimed_at) VALUES ('lease-1', clock_timestamp())")
        .await;
    let store = database.store();
    let name = "00000000-0000-4000-8000-00000000000a";
    let error = store.claim_installation("lease-2", Bound::To(name), false).await.unwrap_err();
    assert!(matches!(&error, InstallationError::Taken { owner } if owner == "lease-1"), "{error}");
    assert_eq!(store.claim_installation("lease-1", Bound::To(name), false).await.unwrap(), name);
    assert_eq!(database.one::<String>("SELECT database::text FROM headgate.installation").await, name);
}

#[rstest]
#[case::another_name("UPDATE headgate.installation SET database = gen_random_uuid()")]
#[case::another_installation("UPDATE headgate.installation SET lease_uid = 'lease-2'")]
#[case::an_empty_one("TRUNCATE headgate.installation")]
#[case::no_schema("DROP TABLE headgate.installation")]
#[tokio::test]
async fn a_session_with_another_database_than_the_claimed_one_is_not_used(#[case] leads_elsewhere: &'static str) {
    let database = Database::migrated().await;
    let store = database.store();
    store.claim_installation("lease-1", Bound::ToNone, false).await.unwrap();
    store.ping().await.unwrap();
    let replica = Replica::adopting(&store, "a", "orders").await;
    database.run(leads_elsewhere).await;
    database
        .run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
        .await;
    // The first hear that their connection was lost.
    refused_until_said(async || store.ping().await).await;
    refused_until_said(async || store.reserve(replica.reservation()).await.map(drop)).await;
}

async fn refused_until_said(mut ask: impl AsyncFnMut() -> Result<(), StoreError>) {
    for _ in 0..20 {
        let error = ask().await.expect_err("this is not the claimed database");
        let cause = cause(&error);
        if cause.contains("not the database") && cause.contains("restart the replica") {
            return;
        }
    }
    panic!("it was never said why");
}

/// Notes in `seen` how many items set aside each statement deletes.
pub(crate) const NOTE_DELETIONS_ASIDE: &str = "CREATE TABLE seen (deleted bigint); \
     CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS \
     $$ BEGIN INSERT INTO public.seen SELECT count(*) FROM gone; RETURN NULL; END $$; \
     CREATE TRIGGER see AFTER DELETE ON headgate.set_aside REFERENCING OLD TABLE AS gone \
     FOR EACH STATEMENT EXECUTE FUNCTION see()";

/// Days before today, as a store that has run for a while has them.
pub(crate) async fn make_past_days(database: &Database, days: i32) {
    for back in 1..=days {
        for parent in ["event", "commits"] {
            let sql: String = sqlx::query_scalar(
                "SELECT format('CREATE TABLE headgate.%1$I PARTITION OF headgate.%2$I FOR VALUES FROM (%3$L) TO (%4$L)', \
                 $1 || to_char(day, '_YYYYMMDD'), $1, day || ' 00:00:00+00', (day + 1) || ' 00:00:00+00') \
                 FROM (SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date - $2 AS day) AS d",
            )
            .bind(parent)
            .bind(back)
            .fetch_one(&database.sql)
            .await
            .unwrap();
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&database.sql).await.unwrap();
        }
    }
}

pub(crate) async fn drop_all_days(database: &Database) {
    for day in database.all::<String>("SELECT name FROM headgate.partition").await {
        let sql = format!("DROP TABLE headgate.{day}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&database.sql).await.unwrap();
    }
}
