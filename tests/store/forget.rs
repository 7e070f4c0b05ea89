//! FORGET: the events go, the gate stays.

use std::time::Duration;

use headgate::{
    event::Cursor,
    store::{Answer, Forget, Gate, postgres::PostgresStore},
};

use crate::{
    database::Database,
    replica::{Replica, after, applied, event, events, refused},
    upkeep::NOTE_DELETIONS_ASIDE,
};

fn forgetting(replica: &Replica) -> Forget {
    Forget { stream: replica.stream.clone(), uid: replica.uid.clone() }
}

#[tokio::test]
async fn forgetting_deletes_events_and_cursor_and_keeps_the_gate() {
    let database = Database::migrated().await;
    let store = database.store();
    let mut neighbour = Replica::adopting(&store, "a", "stock").await;
    neighbour.poll(events([1, 2])).await;
    let mut replica = Replica::adopting(&store, "a", "orders").await;
    // More than one statement deletes.
    replica.poll(events(1..=7000)).await;
    replica.reserve().await;
    let late = replica.closing(events([7001]));

    applied(store.forget(forgetting(&replica)).await.unwrap());
    assert_eq!(database.all::<String>("SELECT DISTINCT stream FROM headgate.event").await, ["shop/stock"]);
    let row = refused(replica.try_reserve().await);
    assert_eq!((&row.cursor, row.fence.0), (&Cursor::Start, replica.fence.0 + 1));
    assert!(row.in_flight_for > Duration::from_secs(30), "the request is still waited out: {row:?}");
    assert!(matches!(headgate::store::EventStore::append(&store, &late).await.unwrap(), Answer::Refused(Some(_))));
    applied(store.forget(forgetting(&replica)).await.unwrap());
}

#[tokio::test]
async fn a_new_object_begins_a_forgotten_stream_at_its_own_start() {
    let database = Database::migrated().await;
    let store = database.store();
    let mut replica = Replica::adopting(&store, "a", "orders").await;
    replica.poll(vec![event("x", "1")]).await;
    applied(store.forget(forgetting(&replica)).await.unwrap());

    replica.uid = "uid-2".to_owned();
    let adoption = headgate::store::Adopt { start: after("100"), ..replica.adoption() };
    let adopted = applied(store.adopt(adoption).await.unwrap());
    assert_eq!((adopted.cursor.clone(), adopted.start_ignored, adopted.id_kind), (after("100"), false, None));
    assert_eq!(adopted.events_stored, 0);
    (replica.fence, replica.cursor, replica.id_kind) = (adopted.fence, adopted.cursor, adopted.id_kind);
    replica.poll(events([101])).await;
    assert_eq!(database.all::<i64>("SELECT sequence FROM headgate.events").await, [101]);
}

#[tokio::test]
async fn only_the_object_of_the_row_can_be_forgotten() {
    let database = Database::migrated().await;
    let store = database.store();
    let mut replica = Replica::adopting(&store, "a", "orders").await;
    replica.poll(events([1])).await;
    let old = Forget { uid: "uid-0".to_owned(), ..forgetting(&replica) };
    refused(store.forget(old).await.unwrap());
    assert_eq!(database.one::<i64>("SELECT count(*) FROM headgate.event").await, 1);
    let nothing = Forget { stream: headgate::event::StreamName::new("shop", "nothing-here"), uid: "u".to_owned() };
    applied(store.forget(nothing).await.unwrap());
}

#[tokio::test]
async fn a_deletion_that_is_interrupted_leaves_nothing_that_could_be_stored_twice() {
    let database = Database::migrated().await;
    let store = database.store();
    let mut replica = Replica::adopting(&store, "a", "orders").await;
    replica.poll(events(["x", "y", "z"])).await;
    // The second step cannot run.
    let mut blocker = database.sql.begin().await.unwrap();
    sqlx::query("LOCK TABLE headgate.event IN EXCLUSIVE MODE").execute(&mut *blocker).await.unwrap();
    store.forget(forgetting(&replica)).await.unwrap_err();
    blocker.rollback().await.unwrap();

    replica.uid = "uid-2".to_owned();
    assert_eq!(replica.adopt().await.cursor, Cursor::Start);
    assert_eq!(replica.poll(events(["x", "y", "z", "zz"])).await.repeated, 3);
    assert_eq!(database.one::<i64>("SELECT count(*) FROM headgate.event").await, 4);
}

#[tokio::test]
async fn one_statement_deletes_a_bounded_number_of_items_set_aside() {
    let database = Database::migrated().await;
    let store = database.store();
    let mut replica = Replica::adopting(&store, "a", "orders").await;
    replica.poll(events([1])).await;
    database
        .run(
            "INSERT INTO headgate.set_aside (stream, id, reason, item, stored_at) \
             SELECT 'shop/orders', n::text, 'NestedTooDeep', '[[]]', now() FROM generate_series(1, 12000) AS n",
        )
        .await;
    database.run(NOTE_DELETIONS_ASIDE).await;
    applied(store.forget(forgetting(&replica)).await.unwrap());
    assert_eq!(database.all::<i64>("SELECT deleted FROM seen").await, [5000, 5000, 2000]);
}

/// The server ends a statement that deletes more than a few events, as it does when they are so large that it takes too long.
const CUT_OFF_LARGE_DELETIONS: &str = "
    CREATE FUNCTION cut_off() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF (SELECT count(*) FROM gone) > 100 THEN
            RAISE EXCEPTION 'canceling statement due to statement timeout' USING ERRCODE = 'query_canceled';
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER cut_off AFTER DELETE ON headgate.event REFERENCING OLD TABLE AS gone
        FOR EACH STATEMENT EXECUTE FUNCTION cut_off()";

#[tokio::test]
async fn a_deletion_that_takes_too_long_goes_on_in_smaller_steps_until_it_is_done() {
    let database = Database::migrated().await;
    let store = database.store();
    let mut replica = Replica::adopting(&store, "a", "orders").await;
    replica.poll(events(1..=1000)).await;
    database.run(CUT_OFF_LARGE_DELETIONS).await;
    // The statement that was cut off may have the row for a moment.
    while matches!(store.forget(forgetting(&replica)).await.unwrap(), Answer::Locked) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(database.one::<i64>("SELECT count(*) FROM headgate.event").await, 0);
}

#[tokio::test]
async fn many_streams_that_are_deleted_leave_connections_to_those_that_are_polled() {
    const DELETED: usize = 8;
    let database = Database::migrated().await;
    let store = PostgresStore::new(&database.url, "headgate-test", 4).expect("a URL");
    let mut polled = Replica::adopting(&store, "a", "orders").await;
    let mut doomed = Vec::new();
    for number in 0..DELETED {
        let mut replica = Replica::adopting(&store, "a", &format!("doomed-{number}")).await;
        replica.poll(events([1])).await;
        doomed.push(replica);
    }
    // Nothing is deleted for now.
    let mut blocker = database.sql.begin().await.unwrap();
    sqlx::query("LOCK TABLE headgate.set_aside IN EXCLUSIVE MODE").execute(&mut *blocker).await.unwrap();
    let deletions: Vec<_> = doomed
        .iter()
        .map(|replica| {
            let (store, forget) = (store.clone(), forgetting(replica));
            tokio::spawn(async move { store.forget(forget).await })
        })
        .collect();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while database.one::<i64>(waits).await == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    polled.reserve().await;
    assert_eq!(database.one::<i64>(waits).await, 1, "one of four connections deletes");
    blocker.rollback().await.unwrap();
    for deletion in deletions {
        applied(deletion.await.unwrap().unwrap());
    }
}
