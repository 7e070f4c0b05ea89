//! What PostgreSQL does for a poll beside the work itself: planning is paid once for a connection, and a row is found by
//! its key, also by a plan that was made while the table was empty.

use headgate::store::postgres::PostgresStore;

use crate::{
    database::Database,
    replica::{Replica, events},
};

/// More than the five times after which PostgreSQL would decide by itself.
const POLLS: usize = 8;

/// A database that was polled, and that noted what its sessions did for it.
async fn polled() -> Database {
    let database = Database::migrated().await;
    // A trigger runs in the session that polls, so it sees what that session has prepared and scanned.
    database
        .run(
            "CREATE TABLE seen (planned_for_values bigint, scans_of_the_table bigint); \
             CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             INSERT INTO public.seen SELECT \
                 (SELECT sum(custom_plans) FROM pg_prepared_statements), \
                 (SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relid = 'headgate.source'::regclass); \
             RETURN NULL; END $$; \
             CREATE TRIGGER see AFTER UPDATE ON headgate.source FOR EACH ROW EXECUTE FUNCTION see()",
        )
        .await;
    let store = PostgresStore::new(&database.url, "headgate-test", 1).unwrap();
    let mut replica = Replica::adopting(&store, "a", "orders").await;
    for event in 1..=POLLS {
        replica.poll(events([event])).await;
    }
    database
}

#[tokio::test]
async fn the_statements_of_a_poll_are_not_planned_again_for_their_values() {
    let seen = polled().await.all::<i64>("SELECT planned_for_values FROM seen").await;
    assert_eq!(seen, vec![0; 2 * POLLS]);
}

#[tokio::test]
async fn a_poll_finds_its_row_by_the_key_also_when_it_was_planned_on_an_empty_table() {
    let seen = polled().await.all::<i64>("SELECT scans_of_the_table FROM seen").await;
    assert_eq!(seen, vec![0; 2 * POLLS]);
}

#[tokio::test]
async fn numbers_that_come_again_enter_each_day_once_and_not_once_for_each_number() {
    const NUMBERS: i64 = 500;
    let database = Database::migrated().await;
    database
        .run(
            "CREATE TABLE seen (entries bigint, days bigint); \
             CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             INSERT INTO public.seen SELECT sum(idx_scan), count(*) FROM pg_stat_xact_user_tables \
             WHERE schemaname = 'headgate' AND relname LIKE 'event\\_%'; \
             RETURN NULL; END $$; \
             CREATE TRIGGER see AFTER UPDATE ON headgate.source FOR EACH ROW EXECUTE FUNCTION see()",
        )
        .await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.poll(events(1..=NUMBERS)).await;
    replica.reset(1).await;
    assert_eq!(replica.poll(events(1..=NUMBERS)).await.repeated, NUMBERS.unsigned_abs());
    let most: i64 = database.one("SELECT max(entries) FROM seen").await;
    let days: i64 = database.one("SELECT max(days) FROM seen").await;
    assert!(days > 1 && most > 0, "{most} entries into {days} days");
    assert!(most <= 3 * days, "{most} entries into {days} days");
}
