//! A request is in flight, and its stream gets a new object, a reset or a deletion: the waits stay, and the late answer is
//! kept or refused as DESIGN 4 says, never half.

use std::time::Duration;

use headgate::{
    event::Cursor,
    store::{Answer, Append, Appended, EventStore, Forget, Gate, StoreError, postgres::PostgresStore},
};

use crate::{
    database::Database,
    faults::until_answered,
    replica::{Replica, after, applied, events, refused},
};

/// The replica that a new object of the same name gets, with a URL of its own.
fn of_a_new_object(old: &Replica, store: &PostgresStore) -> Replica {
    Replica { uid: "uid-2".to_owned(), ..Replica::new(store, "b", old.stream.as_str().strip_prefix("shop/").unwrap()) }
}

#[tokio::test]
async fn a_new_object_waits_out_the_request_of_the_old_one_and_goes_on_behind_its_late_answer() {
    let database = Database::migrated().await;
    let store = database.store();
    let mut old = Replica::adopting(&store, "a", "orders").await;
    old.poll(events([1])).await;
    old.reserve().await;

    let mut new = of_a_new_object(&old, &store);
    let adopted = new.adopt().await;
    assert!(adopted.in_flight_for > Duration::from_secs(30) && adopted.start_ignored, "{adopted:?}");
    assert_eq!(refused(new.try_reserve().await).attempt, Some(old.attempt));

    // Nobody has reserved since: what was transported is kept.
    let late = old.closing(events([2, 3]));
    assert_eq!(old.append(&late).await.stored, 2);
    let row = refused(new.try_reserve().await);
    assert_eq!((row.attempt, &row.cursor), (None, &after("3")), "at the old cursor it would ask for the same again");
    new.cursor = row.cursor;
    assert_eq!(new.poll(events([4])).await, Appended { stored: 1, events_stored: 4, ..Appended::default() });
}

#[tokio::test]
async fn an_answer_for_the_old_object_is_refused_once_the_new_one_has_reserved() {
    let database = Database::migrated().await;
    let store = database.store();
    let mut old = Replica::adopting(&store, "a", "orders").await;
    old.in_flight = Duration::ZERO;
    old.reserve().await;
    let part = old.appending(events([1]));
    old.append(&part).await;

    let mut new = of_a_new_object(&old, &store);
    new.adopt().await;
    new.reserve().await;
    let late = old.closing(events([2]));
    assert_eq!(refused(store.append(&late).await.unwrap()).attempt, Some(new.attempt));
    refused(old.extend(Duration::from_hours(1)).await);
    refused(old.abort(Duration::ZERO).await);
    let page = new.closing(events([2]));
    assert_eq!(new.append(&page).await.events_stored, 2);
}

/// What races with the answer of the request in flight.
#[derive(Debug, Clone, Copy)]
enum Rival {
    Reset,
    Deletion,
    NewObject,
}

impl Rival {
    /// Lets it win over whatever holds the row for a moment.
    async fn strike(self, old: &Replica) {
        let store = &old.store;
        match self {
            Self::Reset => {
                applied(until_answered(async || store.reset(old.resetting_to(1, Cursor::Start)).await).await);
            }
            Self::Deletion => {
                let forget = Forget { stream: old.stream.clone(), uid: old.uid.clone() };
                applied(until_answered(async || store.forget(forget.clone()).await).await);
            }
            Self::NewObject => {
                let new = of_a_new_object(old, store);
                applied(until_answered(async || store.adopt(new.adoption()).await).await);
            }
        }
    }
}

/// What the late answer was told, and what must be true of the stream afterwards.
struct Raced {
    old: Replica,
    kept: bool,
}

async fn race(rival: Rival, old: Replica) -> Raced {
    let late = old.closing(events([1, 2]));
    let moment = || tokio::time::sleep(Duration::from_micros(rand::random_range(0..3000)));
    let answering = async {
        moment().await;
        until_answered(async || old.store.append(&late).await).await
    };
    let striking = async {
        moment().await;
        rival.strike(&old).await;
    };
    let kept = match tokio::join!(answering, striking).0 {
        Answer::Applied(told) => {
            assert_eq!(told.stored, 2);
            true
        }
        Answer::Refused(_) => false,
        Answer::Locked => unreachable!("asked again until it is answered"),
    };
    Raced { old, kept }
}

/// The new owner takes over and reads on, or again from the start.
async fn read_on(rival: Rival, Raced { old, kept }: &Raced) {
    let mut new = of_a_new_object(old, &old.store);
    if matches!(rival, Rival::Reset) {
        new.uid.clone_from(&old.uid);
    }
    let adopted = new.adopt().await;
    let shown = format!("{rival:?}, kept: {kept}, {adopted:?}");
    match rival {
        Rival::Reset => {
            let stored = 2 * u64::from(*kept);
            assert_eq!((&adopted.cursor, adopted.events_stored), (&Cursor::Start, stored), "{shown}");
        }
        Rival::Deletion => assert_eq!((&adopted.cursor, adopted.events_stored), (&Cursor::Start, 0), "{shown}"),
        Rival::NewObject => {
            assert!(kept, "a new object takes no token away: {shown}");
            assert_eq!(adopted.cursor, after("2"), "{shown}");
        }
    }
    if !kept {
        assert!(adopted.in_flight_for > Duration::from_secs(30), "the source may still be serving it: {shown}");
        return;
    }
    let next = adopted.cursor.id().map_or(1, |id| id.as_str().parse::<u32>().unwrap() + 1);
    assert_eq!(new.poll(events(next..=5)).await.events_stored, 5, "{shown}");
}

async fn a_late_answer_races_with(rival: Rival) {
    const STREAMS: usize = 20;
    let database = Database::migrated().await;
    let store = database.store();
    let mut flights = Vec::new();
    for n in 0..STREAMS {
        let mut old = Replica::adopting(&store, "a", &format!("source-{n}")).await;
        // At the start, where a reset goes back to: the cursor tells nothing apart, only the token does.
        old.reserve().await;
        flights.push(old);
    }
    for raced in futures::future::join_all(flights.into_iter().map(|old| race(rival, old))).await {
        read_on(rival, &raced).await;
    }
    let torn: Vec<String> = database
        .all(
            "SELECT stream FROM headgate.source AS s LEFT JOIN headgate.event USING (stream) \
             GROUP BY stream, events_stored HAVING count(sequence) <> events_stored \
             OR count(sequence) <> count(DISTINCT sequence) OR count(sequence) <> coalesce(max(sequence), 0)",
        )
        .await;
    assert_eq!(torn, Vec::<String>::new());
}

#[tokio::test]
async fn an_answer_that_races_with_a_reset_is_kept_whole_or_refused_whole() {
    a_late_answer_races_with(Rival::Reset).await;
}

#[tokio::test]
async fn an_answer_that_races_with_a_deletion_is_deleted_whole_or_refused_whole() {
    a_late_answer_races_with(Rival::Deletion).await;
}

#[tokio::test]
async fn an_answer_that_races_with_a_new_object_is_always_kept() {
    a_late_answer_races_with(Rival::NewObject).await;
}

#[tokio::test]
async fn a_commit_that_arrives_again_after_a_reset_tells_that_it_was_stored_and_moves_nothing() {
    let database = Database::migrated().await;
    let store = database.store();
    let mut replica = Replica::adopting(&store, "a", "orders").await;
    replica.reserve().await;
    let answered: Append = replica.closing(events([1, 2]));
    replica.append(&answered).await;
    replica.reset(1).await;
    // Its answer was lost, and the reset came in between.
    let told: Result<Answer<Appended>, StoreError> = store.append(&answered).await;
    assert_eq!(applied(told.unwrap()).stored, 2);
    assert_eq!(replica.adopt().await.cursor, Cursor::Start);
}
