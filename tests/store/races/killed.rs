//! Sessions and servers end in the middle of a poll. Nothing of the row protocol lives in a session, and nothing that was
//! acknowledged is lost with a server.

use std::time::Duration;

use headgate::store::{Abort, Answer, Close, EventStore, Extend, Gate};
use headgate_bed::postgres::Postgres;

use crate::{
    database::Database,
    faults::until_answered,
    replica::{Replica, applied, events, refused},
};

/// Ends every session of the store, and waits until they are gone.
async fn end_all_sessions(database: &Database) {
    let ended: i64 = database
        .one(
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity \
             WHERE datname = current_database() AND application_name = 'headgate-test'",
        )
        .await;
    assert!(ended > 0, "there was no session to end");
}

#[tokio::test]
async fn a_poll_goes_on_when_its_session_ends_between_any_two_statements() {
    let database = Database::migrated().await;
    let store = database.store();
    let mut replica = Replica::adopting(&store, "a", "orders").await;
    end_all_sessions(&database).await;

    let reservation = replica.reservation();
    replica.attempt = reservation.attempt;
    applied(until_answered(async || store.reserve(reservation.clone()).await).await);
    end_all_sessions(&database).await;

    let extend = Extend { stream: replica.stream.clone(), attempt: replica.attempt, by: Duration::from_mins(2) };
    applied(until_answered(async || store.extend(extend.clone()).await).await);
    for ids in [1..=2, 3..=5] {
        end_all_sessions(&database).await;
        let part = replica.appending(events(ids));
        applied(until_answered(async || store.append(&part).await).await);
        (replica.cursor, replica.part) = (part.cursor_after, part.part + 1);
    }
    end_all_sessions(&database).await;

    let last = replica.closing(events([6]));
    assert_eq!(applied(until_answered(async || store.append(&last).await).await).events_stored, 6);
    end_all_sessions(&database).await;

    replica.cursor = last.cursor_after;
    let reservation = replica.reservation();
    applied(until_answered(async || store.reserve(reservation.clone()).await).await);
    end_all_sessions(&database).await;

    let close = Close { next_start_in: Duration::ZERO };
    let abort = Abort { stream: replica.stream.clone(), attempt: reservation.attempt, close };
    applied(until_answered(async || store.abort(abort.clone()).await).await);
    assert_eq!(database.all::<i64>("SELECT sequence FROM headgate.events ORDER BY sequence").await, [1, 2, 3, 4, 5, 6]);
}

/// What kind of end a server comes to.
#[derive(Debug, Clone, Copy)]
enum End {
    /// One backend is killed; the server ends all sessions and recovers by itself.
    OfABackend,
    /// The whole server is killed, and started again.
    OfTheServer,
}

#[tokio::test]
async fn a_crash_forgets_no_grant_and_no_event_that_was_acknowledged() {
    let mut server = Postgres::temporary().await.unwrap();
    let database = Database::migrated_on(&server.url()).await;
    let store = database.store();
    let mut replica = Replica::adopting(&store, "a", "orders").await;
    let ends = [End::OfABackend, End::OfTheServer, End::OfABackend, End::OfABackend];
    for (end, last_id) in ends.into_iter().zip((2..).step_by(2)) {
        // Open before the crash, so that the server is hit between the acknowledgement and the next statement.
        let backend: i32 = database.one("SELECT pg_backend_pid()").await;
        replica.reserve().await;
        let part = replica.appending(events(last_id - 1..=last_id));
        replica.append(&part).await;
        match end {
            End::OfABackend => server.kill_backend(backend.cast_unsigned()).unwrap(),
            End::OfTheServer => {
                server.kill().await.unwrap();
                server.start().await.unwrap();
            }
        }
        server.ready().await.unwrap();

        let reservation = replica.reservation();
        let row = refused(until_answered(async || store.reserve(reservation.clone()).await).await);
        assert_eq!(row.attempt, Some(replica.attempt), "{end:?}: the grant was forgotten");
        assert!(row.in_flight_for > Duration::from_secs(30), "{end:?}: its deadline was forgotten: {row:?}");
        assert_eq!(row.cursor, replica.cursor, "{end:?}: the commit was forgotten");
        let last = replica.closing(vec![]);
        let closed = until_answered(async || store.append(&last).await).await;
        assert!(matches!(closed, Answer::Applied(told) if told.events_stored == last_id), "{end:?}: {closed:?}");
    }
    // The pool of the test was broken by the crashes too, so it is asked until it has a connection again.
    let whole: Vec<i64> = loop {
        let asked = sqlx::query_scalar("SELECT sequence FROM headgate.event ORDER BY sequence");
        if let Ok(sequences) = asked.fetch_all(&database.sql).await {
            break sequences;
        }
    };
    assert_eq!(whole, (1..=8).collect::<Vec<_>>());
}
