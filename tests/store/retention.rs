//! What has expired goes, and nothing else, whatever stands in the way of it.

use std::time::Duration;

use headgate::store::postgres::{PostgresStore, UpkeepError};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::{
    database::Database,
    faults::{cause, pooler_before},
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
