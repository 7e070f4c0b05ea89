//! What has expired goes, and nothing else, whatever stands in the way of it.

use std::time::Duration;

use headgate::store::postgres::UpkeepError;

use crate::{database::Database, faults::cause, upkeep::make_past_days};

const DAY: Duration = Duration::from_hours(24);
const EXPIRED: &str = "SELECT count(*) FROM headgate.partition WHERE ends_on < current_date";

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
