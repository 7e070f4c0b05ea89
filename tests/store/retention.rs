//! What has expired goes, and nothing else, whatever stands in the way of it.

use std::time::Duration;

use headgate::store::postgres::{PostgresStore, UpkeepError};
use rstest::rstest;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::task::JoinHandle;

use crate::{
    database::Database,
    faults::{cause, pooler_before},
    replica::{Replica, events},
    upkeep::make_past_days,
};

const DAY: Duration = Duration::from_hours(24);
const EXPIRED: &str = "SELECT count(*) FROM headgate.partition WHERE ends_on < current_date";

/// The day so long ago, as a table of this parent.
async fn day(database: &Database, parent: &str, back: i32) -> String {
    sqlx::query_scalar("SELECT $1 || to_char((clock_timestamp() AT TIME ZONE 'UTC')::date - $2, '_YYYYMMDD')")
        .bind(parent)
        .bind(back)
        .fetch_one(&database.sql)
        .await
        .unwrap()
}

/// Begins to detach a day, and gives up behind a reader of its table.
async fn interrupt_a_detach(database: &Database, name: &str) {
    let parent = name.split('_').next().unwrap();
    let mut reader = database.sql.begin().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("SELECT FROM headgate.{parent}"))).execute(&mut *reader).await.unwrap();
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    sqlx::raw_sql("SET lock_timeout = '10ms'").execute(&mut connection).await.unwrap();
    let detach = format!("ALTER TABLE headgate.{parent} DETACH PARTITION headgate.{name} CONCURRENTLY");
    sqlx::raw_sql(AssertSqlSafe(detach)).execute(&mut connection).await.unwrap_err();
    reader.rollback().await.unwrap();
}

/// A store whose settings do not arrive, so that those of the database hold.
async fn store_with(database: &Database, settings: &[(&str, &str)]) -> PostgresStore {
    for (setting, value) in settings {
        let set = format!("ALTER DATABASE %I SET {setting} = ''{value}''");
        database.execute(format!("DO $$ BEGIN EXECUTE format('{set}', current_database()); END $$")).await;
    }
    PostgresStore::new(&pooler_before(&database.url).await, "headgate-test", 2).unwrap()
}

/// A session with a snapshot, which reads nothing of ours; and its process id.
async fn reader_of_something_else(database: &Database) -> (sqlx::Transaction<'static, sqlx::Postgres>, i32) {
    let mut reader = database.sql.begin().await.unwrap();
    sqlx::raw_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").execute(&mut *reader).await.unwrap();
    let pid = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *reader).await.unwrap();
    (reader, pid)
}

fn store_cause(error: &UpkeepError) -> String {
    let UpkeepError::Store(error) = error else { panic!("{error:?}") };
    cause(error)
}

#[tokio::test]
async fn days_expire_also_while_none_can_be_made() {
    let database = Database::migrated().await;
    make_past_days(&database, 2).await;
    database
        .run(
            "CREATE OR REPLACE FUNCTION headgate.make_partitions(days_ahead integer, earliest timestamptz) RETURNS integer \
             LANGUAGE plpgsql AS $$ BEGIN RAISE 'could not extend file' USING ERRCODE = 'disk_full'; END $$",
        )
        .await;
    let error = database.store().upkeep(Some(DAY)).await.unwrap_err();
    assert!(store_cause(&error).contains("could not extend file"), "{error:?}");
    assert_eq!(database.one::<i64>(EXPIRED).await, 0);
}

#[tokio::test]
async fn upkeep_does_not_wait_for_itself_whatever_isolation_the_database_is_set_to() {
    let database = Database::migrated().await;
    let isolation = ("default_transaction_isolation", "repeatable read");
    let store = store_with(&database, &[("statement_timeout", "4500ms"), ("lock_timeout", "1500ms"), isolation]).await;
    make_past_days(&database, 2).await;
    interrupt_a_detach(&database, &day(&database, "event", 2).await).await;
    store.upkeep(Some(DAY)).await.unwrap();
    assert_eq!(database.one::<i64>(EXPIRED).await, 0);
}

#[tokio::test]
async fn items_set_aside_go_also_where_they_are_large_and_one_that_never_can_keeps_its_page_alone() {
    let database = Database::migrated().await;
    let store = store_with(&database, &[("statement_timeout", "400ms")]).await;
    // Five items a page.
    database
        .run(
            "INSERT INTO headgate.set_aside (stream, id, reason, item, stored_at) \
             SELECT 'shop/orders', n::text, 'NestedTooDeep', convert_to(repeat('x', 1500), 'UTF8'), now() - interval '11 days' \
             FROM generate_series(1, 60) AS n; \
             CREATE FUNCTION crawl() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM pg_sleep(CASE old.id WHEN '31' THEN 9 ELSE 0.015 END); RETURN old; END $$; \
             CREATE TRIGGER crawl BEFORE DELETE ON headgate.set_aside FOR EACH ROW EXECUTE FUNCTION crawl()",
        )
        .await;
    let error = store.upkeep(Some(10 * DAY)).await.unwrap_err();
    assert!(store_cause(&error).contains("at its time limit"), "{error:?}");
    let left: Vec<String> = database.all("SELECT id FROM headgate.set_aside").await;
    assert!(left.len() <= 5 && left.contains(&"31".to_owned()), "{left:?}");
}

#[tokio::test]
async fn an_interrupted_detach_is_finished_before_an_older_day_is_detached() {
    let database = Database::migrated().await;
    make_past_days(&database, 3).await;
    interrupt_a_detach(&database, &day(&database, "event", 2).await).await;
    database.store().upkeep(Some(DAY)).await.unwrap();
    assert_eq!(database.one::<i64>(EXPIRED).await, 0);
}

#[tokio::test]
async fn days_that_cannot_be_dropped_stop_no_other() {
    let database = Database::migrated().await;
    make_past_days(&database, 20).await;
    for back in 4..=20 {
        let name = day(&database, "event", back).await;
        let sql = format!(
            "ALTER TABLE headgate.event DETACH PARTITION headgate.{name}; CREATE VIEW v_{name} AS TABLE headgate.{name}"
        );
        database.execute(sql).await;
    }
    let store = database.store();
    for _round in 0..3 {
        let error = store.upkeep(Some(DAY)).await.unwrap_err();
        assert!(store_cause(&error).contains("other objects depend on it"), "{error:?}");
    }
    assert_eq!(database.one::<i64>(EXPIRED).await, 17, "the days that have a view");
}

#[tokio::test]
async fn a_detach_that_stands_before_all_others_is_told_with_the_way_to_finish_it() {
    let database = Database::migrated().await;
    make_past_days(&database, 4).await;
    interrupt_a_detach(&database, &day(&database, "event", 1).await).await;
    let error = database.store().upkeep(Some(DAY)).await.unwrap_err();
    assert!(
        store_cause(&error).contains("already pending detach") && store_cause(&error).contains("FINALIZE"),
        "{error:?}"
    );
    assert_eq!(database.one::<i64>(EXPIRED).await, 3, "the other table goes on");
}

async fn waits_for(database: &Database, event: &str, upkeep: &JoinHandle<Result<impl Sized, UpkeepError>>) {
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = $1";
    while sqlx::query_scalar::<_, i64>(waits).bind(event).fetch_one(&database.sql).await.unwrap() == 0 {
        assert!(!upkeep.is_finished(), "it did not wait");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[rstest]
#[case::directly(false)]
#[case::past_a_pooler(true)]
#[tokio::test]
async fn an_interrupted_detach_is_finished_behind_long_queries_of_other_tables_and_stops_no_append(
    #[case] is_pooled: bool,
) {
    let database = Database::migrated().await;
    let store = if is_pooled {
        let limits = [("statement_timeout", "4500ms"), ("lock_timeout", "2000ms")];
        store_with(&database, &limits).await.upkeep_over(&database.url, "headgate-test").unwrap()
    } else {
        database.store()
    };
    let mut replica = Replica::adopting(&store, "a", "orders").await;
    make_past_days(&database, 2).await;
    interrupt_a_detach(&database, &day(&database, "event", 2).await).await;
    let (reader, _) = reader_of_something_else(&database).await;
    let upkeep = tokio::spawn({
        let store = store.clone();
        async move { store.upkeep(Some(DAY)).await }
    });
    waits_for(&database, "virtualxid", &upkeep).await;
    for id in 1..=3 {
        assert_eq!(replica.poll(events([id])).await.stored, 1);
    }
    assert!(!upkeep.is_finished(), "all of them went past it");
    // Longer than any other statement waits for a lock.
    tokio::time::sleep(Duration::from_millis(2300)).await;
    reader.rollback().await.unwrap();
    upkeep.await.unwrap().unwrap();
    assert_eq!(database.one::<i64>(EXPIRED).await, 0);
}

#[tokio::test]
async fn whoever_keeps_a_detach_waiting_is_named() {
    let database = Database::migrated().await;
    let store = store_with(&database, &[("statement_timeout", "4500ms"), ("lock_timeout", "1500ms")]).await;
    make_past_days(&database, 2).await;
    interrupt_a_detach(&database, &day(&database, "event", 2).await).await;
    let (_reader, pid) = reader_of_something_else(&database).await;
    let error = store.upkeep(Some(DAY)).await.unwrap_err();
    assert!(store_cause(&error).contains(&format!("[{pid}]")), "{error:?}");
}

#[rstest]
#[case::on_its_way(None)]
#[case::detached(Some("FINALIZE"))]
#[tokio::test]
async fn a_day_that_is_hidden_and_to_be_kept_is_told_with_what_brings_it_back(#[case] further: Option<&str>) {
    let database = Database::migrated().await;
    let store = database.store();
    let mut replica = Replica::adopting(&store, "a", "orders").await;
    replica.poll(events([1])).await;
    make_past_days(&database, 5).await;
    database.run("UPDATE headgate.event SET stored_at = stored_at - interval '3 days'").await;
    assert_eq!(store.hidden_days(None).await.unwrap(), []);
    let name = day(&database, "event", 3).await;
    interrupt_a_detach(&database, &name).await;
    if let Some(how) = further {
        database.execute(format!("ALTER TABLE headgate.event DETACH PARTITION headgate.{name} {how}")).await;
    }
    let seen = "SELECT count(*) FROM headgate.events";
    assert_eq!(database.one::<i64>(seen).await, 0);

    assert_eq!(store.hidden_days(Some(DAY)).await.unwrap(), [], "this one is to go");
    let hidden = store.hidden_days(Some(10 * DAY)).await.unwrap();
    assert_eq!(store.hidden_days(None).await.unwrap(), hidden);
    assert_eq!(hidden.iter().map(|day| &*day.table).collect::<Vec<_>>(), [name]);
    database.execute(hidden[0].bring_back.clone()).await;
    assert_eq!(database.one::<i64>(seen).await, 1);
    assert_eq!(store.hidden_days(None).await.unwrap(), []);
}
