//! A standby that has not seen everything is promoted (R4). What was lost is lost as a whole: cursor and events go back
//! together, and no token of a lost attempt opens anything.

use std::time::Duration;

use headgate::store::{Adopted, Answer, Append, EventStore, Fence, Gate, StoreError};
use headgate_bed::postgres::Postgres;
use sqlx::{Connection, PgConnection};

use super::link::Link;
use crate::{
    database::Database,
    faults::{cause, until_answered},
    replica::{Replica, after, applied, event, events, refused},
};

/// A primary with a standby behind a line that can be cut.
struct Pair {
    primary: Postgres,
    standby: Postgres,
    line: Link,
    database: Database,
}

impl Pair {
    async fn up() -> Self {
        let mut primary = Postgres::temporary().await.unwrap();
        let line = Link::to(([127, 0, 0, 1], primary.port()).into()).await;
        let standby = primary.standby(line.port()).await.unwrap();
        let database = Database::migrated_on(&primary.url()).await;
        Self { primary, standby, line, database }
    }

    async fn catch_up(&self) {
        self.standby.caught_up_with(&self.primary).await.unwrap();
    }

    /// The primary is gone for good, the standby takes its place. The same database, as it is there.
    async fn fail_over(mut self) -> (Postgres, Database) {
        self.primary.kill().await.unwrap();
        self.standby.promote().await.unwrap();
        let database = self.database.on(&self.standby.url()).await;
        (self.standby, database)
    }
}

/// Polls one event after the other until the server is gone; returns the last that was acknowledged.
async fn poll_until_the_end(mut replica: Replica) -> (Replica, u64) {
    let mut acknowledged = 0;
    loop {
        let reservation = replica.reservation();
        match replica.store.reserve(reservation.clone()).await {
            Ok(Answer::Applied(_)) => (replica.attempt, replica.part) = (reservation.attempt, 0),
            Ok(Answer::Locked) => continue,
            Ok(Answer::Refused(row)) => {
                tokio::time::sleep(row.unwrap().starts_in).await;
                continue;
            }
            Err(StoreError::Unavailable { .. }) => return (replica, acknowledged),
            Err(error) => panic!("{error:?}"),
        }
        // Two parts, so that the cut falls between them too.
        for close in [false, true] {
            let ids = events([acknowledged + 1]);
            let page: Append = if close { replica.closing(ids) } else { replica.appending(ids) };
            match replica.store.append(&page).await {
                Ok(Answer::Applied(_)) => acknowledged += 1,
                Err(StoreError::Unavailable { .. }) => return (replica, acknowledged),
                other => panic!("{other:?}"),
            }
            (replica.cursor, replica.part) = (page.cursor_after, page.part + 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cursor_and_events_go_back_together_and_everything_is_read_again_without_a_hole() {
    const STREAMS: usize = 8;
    let pair = Pair::up().await;
    let store = pair.database.store();
    let mut polling = Vec::new();
    for n in 0..STREAMS {
        let mut replica = Replica::adopting(&store, "a", &format!("source-{n}")).await;
        replica.in_flight = Duration::from_millis(500);
        polling.push(tokio::spawn(poll_until_the_end(replica)));
    }
    while pair.database.one::<i64>("SELECT count(*) FROM headgate.event").await < 60 {
        tokio::task::yield_now().await;
    }
    pair.line.cut();
    let seen = pair.database.one::<i64>("SELECT count(*) FROM headgate.event").await;
    while pair.database.one::<i64>("SELECT count(*) FROM headgate.event").await < seen + 60 {
        tokio::task::yield_now().await;
    }
    let (_server, database) = pair.fail_over().await;

    let torn: Vec<String> = database
        .all(
            "SELECT stream FROM headgate.source AS s LEFT JOIN headgate.event USING (stream) \
             GROUP BY stream, cursor, events_stored HAVING count(sequence) <> events_stored \
             OR coalesce(max(sequence), 0) <> events_stored OR coalesce(cursor, '0') <> events_stored::text",
        )
        .await;
    assert_eq!(torn, Vec::<String>::new());

    let store = database.store();
    let mut lost = 0;
    for ended in futures::future::join_all(polling).await {
        let (mut replica, acknowledged) = ended.unwrap();
        replica.store = store.clone();
        let Adopted { events_stored, .. } = replica.adopt().await;
        assert!(events_stored <= acknowledged + 1, "one commit may have gone unanswered");
        lost += acknowledged.saturating_sub(events_stored);
        let next = replica.poll(events(events_stored + 1..=acknowledged + 2)).await;
        assert_eq!((next.repeated, next.events_stored), (0, acknowledged + 2));
    }
    assert!(lost > 0, "the standby had seen everything, so nothing was tried");
    let whole: bool = database
        .one(
            "SELECT count(*) = count(DISTINCT (stream, sequence)) AND count(*) = (SELECT sum(events_stored) FROM headgate.source) \
             FROM headgate.event",
        )
        .await;
    assert!(whole);
}

/// It would refuse writes by itself, and take what it has not seen for what is not stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_lags_gives_no_answer_and_above_all_no_refusal() {
    let pair = Pair::up().await;
    let mut replica = Replica::adopting(&pair.database.store(), "a", "orders").await;
    replica.poll(events(["x"])).await;
    pair.catch_up().await;
    pair.line.cut();
    replica.poll(events(["y"])).await;

    let standby = pair.database.on(&pair.standby.url()).await;
    let store = standby.store();
    let reserved = store.reserve(replica.reservation()).await.unwrap_err();
    let asked = store.find_stored(&replica.stream, &[&event("y", "1").id]).await.unwrap_err();
    for error in [reserved, asked] {
        assert!(matches!(error, StoreError::Unavailable { .. }) && cause(&error).contains("standby"), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_of_a_lost_attempt_opens_anything_and_what_the_standby_knew_to_be_in_flight_is_waited_out() {
    let pair = Pair::up().await;
    let store = pair.database.store();
    let mut replica = Replica::adopting(&store, "a", "orders").await;
    replica.poll(events([1, 2])).await;
    let mut other = Replica::adopting(&store, "a", "stock").await;
    other.reserve().await;
    pair.catch_up().await;
    pair.line.cut();
    replica.reserve().await;
    let (closed, answered) = (replica.clone(), replica.closing(events([3, 4])));
    replica.append(&answered).await;
    replica.reserve().await;
    let part = replica.appending(events([5]));
    replica.append(&part).await;
    let late = replica.closing(events([6]));
    let (_server, database) = pair.fail_over().await;
    let store = database.store();

    // Both lost attempts: the one that was closed, and the one in flight.
    for lost in [&answered, &part, &late] {
        let row = refused(store.append(lost).await.unwrap());
        assert_eq!(row.cursor, after("2"));
    }
    for lost in [closed, replica.clone()] {
        let lost = Replica { store: store.clone(), ..lost };
        refused(lost.extend(Duration::from_hours(1)).await);
        refused(lost.abort(Duration::ZERO).await);
    }
    replica.store = store.clone();
    let behind = refused(replica.try_reserve().await);
    assert_eq!((&behind.cursor, behind.fence), (&after("2"), Fence(1)), "it believes to be at 5");

    // New attempts on the new primary: an attempt number would be given a second time here.
    replica.adopt().await;
    for id in 3..=5 {
        replica.reserve().await;
        for lost in [&answered, &part, &late] {
            refused(store.append(lost).await.unwrap());
        }
        let page = replica.closing(events([id]));
        assert_eq!(replica.append(&page).await.stored, 1);
    }
    assert_eq!(database.all::<i64>("SELECT sequence FROM headgate.events ORDER BY sequence").await, [1, 2, 3, 4, 5]);

    let mut heir = Replica::adopting(&store, "b", "stock").await;
    let row = refused(heir.try_reserve().await);
    assert_eq!(row.attempt, Some(other.attempt));
    assert!(row.in_flight_for > Duration::from_secs(30), "{row:?}");
    // It was in flight all the time, and its answer is as welcome as before.
    other.store = store.clone();
    let page = other.closing(events([1]));
    assert_eq!(applied(store.append(&page).await.unwrap()).stored, 1);
}

/// Waits until commits of this server wait for a standby.
async fn until_commits_wait(database: &Database) {
    loop {
        let mut session = PgConnection::connect(&database.url).await.unwrap();
        let written = sqlx::raw_sql("INSERT INTO probe DEFAULT VALUES").execute(&mut session);
        if tokio::time::timeout(Duration::from_millis(500), written).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_without_its_synchronous_standby_acknowledges_nothing_and_what_it_took_is_stored_once() {
    let server = Postgres::temporary().await.unwrap();
    let database = Database::migrated_on(&server.url()).await;
    let store = database.store();
    let mut replica = Replica::adopting(&store, "a", "orders").await;
    let mut other = Replica::adopting(&store, "a", "stock").await;
    replica.reserve().await;
    database.run("CREATE TABLE probe (id serial)").await;
    database.run("ALTER SYSTEM SET synchronous_standby_names = 'gone'").await;
    database.run("SELECT pg_reload_conf()").await;
    until_commits_wait(&database).await;

    let page = replica.closing(events([1, 2]));
    let asked = other.reservation();
    let (appended, reserved) = tokio::join!(store.append(&page), store.reserve(asked));
    for error in [appended.unwrap_err(), reserved.unwrap_err()] {
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    }

    database.run("ALTER SYSTEM RESET synchronous_standby_names").await;
    database.run("SELECT pg_reload_conf()").await;
    let again = until_answered(async || store.append(&page).await).await;
    assert_eq!(applied(again).events_stored, 2);
    assert_eq!(database.all::<i64>("SELECT sequence FROM headgate.events ORDER BY sequence").await, [1, 2]);
    // Nobody used the grant, so it is waited out.
    other.in_flight = Duration::from_secs(1);
    assert!(matches!(other.try_reserve().await, Answer::Refused(_)));
}
