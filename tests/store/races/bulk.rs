//! Statements over many streams, each in an order of its own: none waits for another crosswise, and each of their rows is
//! judged alone.

use std::time::Duration;

use futures::future::try_join_all;
use headgate::{
    event::Cursor,
    store::{Abort, Answer, Append, Close, EventStore, Extend, Row},
};
use rand::seq::SliceRandom as _;

use crate::{
    database::Database,
    replica::{Replica, events},
};

const STREAMS: u64 = 24;
const SESSIONS: usize = 6;
const ROUNDS: usize = 25;
/// The ids of a stream begin at its own number times this, so that an answer that belongs to another stream shows.
const APART: u64 = 1_000_000;

fn last_id(replica: &Replica, stream: u64) -> u64 {
    match &replica.cursor {
        Cursor::Start => stream * APART,
        Cursor::After(id) => id.as_str().parse().unwrap(),
    }
}

/// Takes the cursor of a row that refused, after a look whether it is the row of that stream.
fn learn(replica: &mut Replica, stream: u64, row: Option<Row>) {
    let row = row.expect("the row is there");
    replica.cursor = row.cursor;
    assert_eq!(last_id(replica, stream) / APART, stream, "the answer of another stream");
}

/// Streams in an order of chance, some of them left out.
fn drawn(replicas: &mut [(u64, Replica)]) -> &mut [(u64, Replica)] {
    replicas.shuffle(&mut rand::rng());
    let some = rand::random_range(replicas.len() / 2..=replicas.len());
    &mut replicas[..some]
}

/// Reserves, extends, and closes what was granted, by COMMIT or ABORT; returns how many events it was told are stored.
async fn round(replicas: &mut [(u64, Replica)]) -> u64 {
    let store = replicas[0].1.store.clone();
    let mut granted = Vec::new();
    let asking = drawn(replicas);
    let reservations: Vec<_> = asking.iter().map(|(_, replica)| replica.reservation()).collect();
    let answers = store.reserve_all(&reservations).await.unwrap();
    assert_eq!(answers.len(), reservations.len());
    for (((stream, replica), reservation), answer) in asking.iter_mut().zip(reservations).zip(answers) {
        match answer.unwrap() {
            Answer::Applied(_) => {
                (replica.attempt, replica.part) = (reservation.attempt, 0);
                granted.push((*stream, replica.clone()));
            }
            Answer::Refused(row) => learn(replica, *stream, row),
            Answer::Locked => {}
        }
    }
    granted.shuffle(&mut rand::rng());
    extend(&granted).await;
    granted.shuffle(&mut rand::rng());
    let aborted = granted.len() / 4;
    abort(&granted[..aborted]).await;
    append(&granted[aborted..]).await
}

async fn extend(granted: &[(u64, Replica)]) {
    let Some((_, first)) = granted.first() else { return };
    let extends: Vec<_> = granted
        .iter()
        .map(|(_, replica)| Extend {
            stream: replica.stream.clone(),
            attempt: replica.attempt,
            by: Duration::from_mins(2),
        })
        .collect();
    for answer in first.store.extend_all(&extends).await.unwrap().into_iter().map(Result::unwrap) {
        assert!(matches!(answer, Answer::Applied(()) | Answer::Locked), "an open attempt is ours alone: {answer:?}");
    }
}

async fn abort(granted: &[(u64, Replica)]) {
    let close = Close { next_start_in: Duration::ZERO };
    let mut open: Vec<_> = granted
        .iter()
        .map(|(_, replica)| Abort { stream: replica.stream.clone(), attempt: replica.attempt, close })
        .collect();
    while !open.is_empty() {
        let mut answers = granted[0].1.store.abort_all(&open).await.unwrap().into_iter();
        open.retain(|_| match answers.next().unwrap().unwrap() {
            Answer::Applied(()) => false,
            Answer::Locked => true,
            Answer::Refused(row) => panic!("an open attempt is ours alone: {row:?}"),
        });
    }
}

async fn append(granted: &[(u64, Replica)]) -> u64 {
    let mut open: Vec<Append> =
        granted.iter().map(|(stream, replica)| replica.closing(events([last_id(replica, *stream) + 1]))).collect();
    let mut stored = 0;
    while !open.is_empty() {
        open.shuffle(&mut rand::rng());
        // The first goes at once, and all the others in the next statement.
        let appending = open.iter().map(|append| granted[0].1.store.append(append));
        let mut answers = try_join_all(appending).await.unwrap().into_iter();
        open.retain(|_| match answers.next().unwrap() {
            Answer::Applied(appended) => {
                stored += appended.stored;
                false
            }
            Answer::Locked => true,
            Answer::Refused(row) => panic!("an open attempt is ours alone: {row:?}"),
        });
    }
    stored
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_polls_over_the_same_streams_in_any_order_answer_every_row_once_and_never_deadlock() {
    let database = Database::migrated().await;
    let store = database.store();
    let mut replicas = Vec::new();
    for stream in 1..=STREAMS {
        let mut replica = Replica::adopting(&store, "a", &format!("source-{stream}")).await;
        // Every stream has an id of its own from the beginning.
        replica.poll(events([stream * APART])).await;
        replicas.push((stream, replica));
    }
    let sessions = (0..SESSIONS).map(|_| {
        // Each with statements of its own: those of one store wait for each other.
        let store = database.store();
        let mut replicas: Vec<_> = replicas
            .iter()
            .map(|(stream, replica)| (*stream, Replica { store: store.clone(), ..replica.clone() }))
            .collect();
        tokio::spawn(async move {
            let mut stored = 0;
            for _ in 0..ROUNDS {
                stored += round(&mut replicas).await;
            }
            stored
        })
    });
    let told: u64 = futures::future::join_all(sessions).await.into_iter().map(Result::unwrap).sum();
    assert!(told > STREAMS, "only {told} polls");

    let stored: i64 = database.one("SELECT count(*) FROM headgate.event").await;
    assert_eq!(stored, i64::try_from(told + STREAMS).unwrap());
    let torn: Vec<String> = database
        .all(
            "SELECT stream FROM headgate.source AS s JOIN headgate.event USING (stream) GROUP BY stream, cursor, events_stored \
             HAVING count(*) <> max(sequence) - min(sequence) + 1 OR max(sequence)::text <> cursor OR count(*) <> events_stored",
        )
        .await;
    assert_eq!(torn, Vec::<String>::new(), "streams with a hole, or with a cursor that is not their last event");
    let deadlocks: i64 =
        database.one("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").await;
    assert_eq!(deadlocks, 0);
}
