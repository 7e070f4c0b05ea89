//! The database's clock jumps, and the waits were written by the clock before.
//!
//! All that the store knows of time is `clock_timestamp()`. Each database here has a clock of its own in its search path,
//! in front of PostgreSQL's: for every statement of the store this is a server whose clock was set, and it needs no root
//! and no library in front of the server's.

use std::time::{Duration, Instant};

use headgate::store::{Adopted, Answer, EventStore, Gate, Reserve};

use crate::{
    database::Database,
    faults::until_answered,
    replica::{GAP, Replica, applied, events, refused},
};

pub(crate) const HOUR: i64 = 3600;
pub(crate) const DAY: i64 = 24 * HOUR;

/// A database whose clock can be set. Sessions that were open before keep the true one.
pub(crate) async fn database_with_a_clock_of_its_own() -> Database {
    let database = Database::migrated().await;
    database
        .run(
            "CREATE SCHEMA own_clock; \
             CREATE TABLE own_clock.jumped (seconds bigint NOT NULL); \
             INSERT INTO own_clock.jumped VALUES (0); \
             CREATE FUNCTION own_clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS \
             'SELECT pg_catalog.clock_timestamp() + seconds * interval ''1 second'' FROM own_clock.jumped'; \
             ALTER FUNCTION headgate.make_partitions(integer, timestamptz) SET search_path = own_clock, pg_catalog; \
             DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = own_clock, pg_catalog, public', \
             current_database()); END $$",
        )
        .await;
    database
}

/// Sets the clock so far ahead of the true one, or behind it.
pub(crate) async fn set(database: &Database, seconds: i64) {
    sqlx::query("UPDATE own_clock.jumped SET seconds = $1").bind(seconds).execute(&database.sql).await.unwrap();
}

async fn is_whole(database: &Database, events: i64) {
    let shown: String = database
        .one("SELECT format('%s %s %s %s', count(*), count(DISTINCT sequence), min(sequence), max(sequence)) FROM headgate.event")
        .await;
    assert_eq!(shown, format!("{events} {events} 1 {events}"));
    assert_eq!(database.one::<String>("SELECT cursor FROM headgate.source").await, events.to_string());
}

/// A grant: its slot opened between these two, because the database read its clock between question and answer.
#[derive(Debug, Clone, Copy)]
struct Granted {
    earliest: Instant,
    latest: Instant,
}

/// Grants that follow each other too closely, however long the answers took.
fn surely_too_close(grants: &[Granted], gap: Duration) -> Vec<Duration> {
    let between = grants.windows(2).map(|pair| pair[1].latest - pair[0].earliest);
    between.filter(|longest| *longest < gap).collect()
}

/// Asks until it is granted, which takes a few looks; no wait it is told may be longer than `longest`.
async fn reserve_within(replica: &mut Replica, longest: Duration) -> Granted {
    for _ in 0..200 {
        let asked = Instant::now();
        match replica.try_reserve().await {
            Answer::Applied(reserved) => {
                return Granted { earliest: asked + reserved.wait, latest: Instant::now() + reserved.wait };
            }
            Answer::Locked => tokio::task::yield_now().await,
            Answer::Refused(row) => {
                let row = row.unwrap();
                let wait = row.starts_in.max(row.in_flight_for);
                assert!(wait <= longest, "{wait:?}");
                tokio::time::sleep(wait).await;
            }
        }
    }
    panic!("the wait never passes");
}

#[tokio::test]
async fn the_clock_of_these_tests_is_the_one_that_the_store_reads() {
    let database = database_with_a_clock_of_its_own().await;
    set(&database, 40 * DAY).await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.poll(events([1])).await;
    let ahead: bool = database
        .one(
            "SELECT slot > pg_catalog.now() + interval '39 days' AND stored_at > pg_catalog.now() + interval '39 days' \
             FROM headgate.source JOIN headgate.event USING (stream)",
        )
        .await;
    assert!(ahead);
}

/// One request was granted and is in flight; then the clock is set back and an heir comes.
async fn an_heir_after_the_clock_went_back_by(seconds: i64) {
    let in_flight = GAP * 2;
    let database = database_with_a_clock_of_its_own().await;
    let store = database.store();
    let mut crashed = Replica::adopting(&store, "a", "orders").await;
    crashed.in_flight = in_flight;
    let first = reserve_within(&mut crashed, in_flight).await;
    set(&database, -seconds).await;

    let mut heir = Replica::new(&store, "b", "orders");
    let Adopted { in_flight_for, starts_in, .. } = heir.adopt().await;
    assert!(in_flight_for <= in_flight && starts_in <= in_flight + GAP, "{in_flight_for:?} {starts_in:?}");
    let second = reserve_within(&mut heir, in_flight + GAP).await;
    // Set back, the clock can only make the wait longer than it was: the request is waited out.
    let too_close = surely_too_close(&[first, second], in_flight);
    assert!(too_close.is_empty(), "{too_close:?}");
    let page = heir.closing(events([1]));
    heir.append(&page).await;
    is_whole(&database, 1).await;
}

#[tokio::test]
async fn a_clock_that_goes_back_a_second_costs_an_heir_no_more_than_the_wait_that_was_written() {
    an_heir_after_the_clock_went_back_by(1).await;
}

#[tokio::test]
async fn a_clock_that_goes_back_a_year_costs_an_heir_no_more_than_the_wait_that_was_written() {
    an_heir_after_the_clock_went_back_by(365 * DAY).await;
}

#[tokio::test]
async fn a_clock_that_was_ahead_and_is_set_right_costs_no_more_than_the_wait_that_was_written() {
    let database = database_with_a_clock_of_its_own().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    set(&database, 30 * DAY).await;
    replica.poll(events([1])).await;
    replica.in_flight = GAP;
    reserve_within(&mut replica, GAP).await;
    set(&database, 0).await;
    reserve_within(&mut replica, GAP * 2).await;
    let page = replica.closing(events([2]));
    replica.append(&page).await;
    is_whole(&database, 2).await;
}

#[tokio::test]
async fn a_retry_after_that_was_written_is_the_longest_wait_after_a_jump_back() {
    let database = database_with_a_clock_of_its_own().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.reserve().await;
    applied(replica.abort(Duration::from_mins(10)).await);
    set(&database, -DAY).await;
    let row = refused(replica.try_reserve().await);
    assert!(row.starts_in > Duration::from_mins(9) && row.starts_in <= Duration::from_mins(10), "{row:?}");
    // What was cut is written down: set right again, the wait is over or short, and never longer.
    set(&database, 0).await;
    assert!(replica.adopt().await.starts_in <= Duration::from_mins(10));
}

#[tokio::test]
async fn a_slot_ahead_stays_the_earliest_start_when_the_clock_goes_back() {
    let database = database_with_a_clock_of_its_own().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.reserve().await;
    applied(replica.abort(Duration::from_mins(1)).await);
    let ahead = Reserve { at_most_ahead: Duration::from_mins(2), ..replica.reservation() };
    replica.attempt = ahead.attempt;
    assert!(applied(replica.store.reserve(ahead).await.unwrap()).wait > Duration::from_secs(50));
    set(&database, -HOUR).await;
    applied(replica.abort(Duration::ZERO).await);
    let row = refused(replica.try_reserve().await);
    let written = Duration::from_mins(1) + replica.in_flight + GAP;
    assert!(row.starts_in > Duration::from_secs(50) && row.starts_in <= written, "{row:?}");
}

#[tokio::test]
async fn a_clock_that_goes_back_stops_no_source_whose_reservations_close_each_other() {
    let database = database_with_a_clock_of_its_own().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.reserve().await;
    for jump in [-HOUR, -DAY, -2 * DAY, 0] {
        set(&database, jump).await;
        let ended = Some(replica.ended(GAP));
        let next = Reserve { ended, at_most_ahead: GAP, ..replica.reservation() };
        replica.attempt = next.attempt;
        assert_eq!(applied(replica.store.reserve(next).await.unwrap()).wait, GAP, "the gap since the first byte");
    }
}

#[tokio::test]
async fn an_answer_that_comes_after_the_clock_went_forward_is_kept_until_somebody_reserves() {
    let database = database_with_a_clock_of_its_own().await;
    let store = database.store();
    let mut replica = Replica::adopting(&store, "a", "orders").await;
    replica.reserve().await;
    set(&database, DAY).await;
    let part = replica.appending(events([1, 2]));
    replica.append(&part).await;
    applied(replica.extend(Duration::from_secs(2)).await);

    // Forward once more: the row believes the request over. The holder's own clock is what holds it back from sending.
    set(&database, 2 * DAY).await;
    let too_late = replica.closing(events([3]));
    let mut heir = Replica::adopting(&store, "b", "orders").await;
    applied(heir.try_reserve().await);
    assert_eq!(refused(store.append(&too_late).await.unwrap()).attempt, Some(heir.attempt));
    let page = heir.closing(events([3]));
    heir.append(&page).await;
    is_whole(&database, 3).await;
}

#[tokio::test]
async fn a_clock_that_only_ever_goes_back_breaks_no_gap_and_stops_nobody() {
    let database = database_with_a_clock_of_its_own().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    let (mut grants, mut behind) = (Vec::new(), 0);
    for id in 1..=8 {
        replica.in_flight = GAP;
        grants.push(reserve_within(&mut replica, GAP * 2).await);
        behind += [1, 60, HOUR, DAY][rand::random_range(0..4)];
        set(&database, -behind).await;
        let then = headgate::store::Then::Closes(headgate::store::Close { next_start_in: GAP });
        let page = headgate::store::Append { then, ..replica.closing(events([id])) };
        replica.append(&page).await;
    }
    let too_close = surely_too_close(&grants, GAP);
    assert!(too_close.is_empty(), "{too_close:?}");
    is_whole(&database, 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_all_the_time_leaves_no_hole_and_stores_nothing_twice() {
    const PAGES: i64 = 20;
    let database = database_with_a_clock_of_its_own().await;
    let store = database.store();
    let mut replica = Replica::adopting(&store, "a", "orders").await;
    replica.in_flight = GAP;
    let sql = database.sql.clone();
    let jumping = tokio::spawn(async move {
        loop {
            let seconds = rand::random_range(-20 * DAY..20 * DAY);
            sqlx::query("UPDATE own_clock.jumped SET seconds = $1").bind(seconds).execute(&sql).await.unwrap();
            tokio::time::sleep(Duration::from_millis(rand::random_range(1..40))).await;
        }
    });
    for id in 1..=PAGES {
        reserve_within(&mut replica, GAP * 2).await;
        let page = replica.closing(events([id]));
        // Repeated as after a lost answer: the record of the commit is found on whatever day it was written.
        for _ in 0..2 {
            assert_eq!(applied(until_answered(async || store.append(&page).await).await).stored, 1);
        }
        replica.cursor = page.cursor_after;
    }
    jumping.abort();
    is_whole(&database, PAGES).await;
}
