//! A stream of hexadecimal ids has some that are digits only. They are as opaque as the others: stored and found by their text.

use std::collections::BTreeSet;

use headgate::{
    event::{EventId, IdKind},
    store::{Answer, Append, Appended, EventStore, Forget, Gate},
};

use crate::{
    database::Database,
    replica::{Replica, after, applied, event, events},
};

/// A deletion gets no further than its first step.
const REFUSE_DELETIONS: &str = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
    $$ BEGIN RAISE EXCEPTION 'the test says so'; END $$; \
    CREATE TRIGGER refuse BEFORE DELETE ON headgate.event FOR EACH STATEMENT EXECUTE FUNCTION refuse()";

/// Digits that stand between larger and smaller ones, with leading zeros, as the same number in another spelling, longer than
/// bigint, and some that read as their own place (3, 7) or another's (9).
const FEED: [&str; 14] = [
    "5f07",
    "507199222222",
    "3",
    "507199111111",
    "000000000007",
    "5f08",
    "7",
    "507199111111507199111111",
    "9",
    "5f09",
    "07",
    "00",
    "5f0a",
    "12",
];

/// A stream of its own that has read these.
async fn reading(database: &Database, name: &str, ids: &[&str]) -> Replica {
    let mut replica = Replica::adopting(&database.store(), "a", name).await;
    replica.poll(events(ids)).await;
    replica
}

async fn stored(database: &Database, replica: &Replica) -> Vec<String> {
    let stream = replica.stream.as_str();
    let ids = "SELECT id FROM headgate.events WHERE stream = $1 ORDER BY sequence";
    sqlx::query_scalar(ids).bind(stream).fetch_all(&database.sql).await.unwrap()
}

async fn is_read_again(database: &Database, replica: &Replica) -> bool {
    let mark = "SELECT reread_to IS NOT NULL FROM headgate.source WHERE stream = $1";
    sqlx::query_scalar(mark).bind(replica.stream.as_str()).fetch_one(&database.sql).await.unwrap()
}

async fn found(replica: &Replica, ids: &[&str]) -> BTreeSet<String> {
    let ids: Vec<_> = ids.iter().map(|id| EventId::new(id).unwrap()).collect();
    let found = replica.store.find_stored(&replica.stream, &ids.iter().collect::<Vec<_>>()).await.unwrap();
    found.iter().map(|id| id.as_str().to_owned()).collect()
}

#[tokio::test]
async fn digits_in_an_opaque_stream_are_stored_in_feed_order_and_found_by_their_text() {
    let database = Database::migrated().await;
    for size in [1, 2, 3, 14] {
        let mut replica = Replica::adopting(&database.store(), "a", &format!("in-pages-of-{size}")).await;
        for page in FEED.chunks(size) {
            let told = replica.poll(events(page)).await;
            assert_eq!((told.stored, told.repeated, told.conflicting), (page.len() as u64, 0, 0));
            assert_eq!(replica.adopt().await.id_kind, Some(IdKind::Opaque));
        }
        assert_eq!(stored(&database, &replica).await, FEED);
        assert_eq!(found(&replica, &FEED).await, FEED.iter().map(ToString::to_string).collect());
        assert!(found(&replica, &["0000000000007", "1", "2", "507199222223", "0"]).await.is_empty());
    }
}

#[tokio::test]
async fn digits_that_come_again_are_looked_up_by_their_text() {
    let database = Database::migrated().await;
    let mut replica = reading(&database, "orders", &FEED).await;
    replica.reserve().await;
    // Known to hold what is stored, as from a source that lists it again.
    let again = vec![event("007", "1"), event("7", "1"), event("9", "{\"id\": \"9\"}"), event("012", "1")];
    let again = Append { looks_up: true, ..replica.closing(again) };
    let told = replica.append(&again).await;
    assert_eq!(told, Appended { stored: 2, repeated: 1, conflicting: 1, events_stored: 16 });
    assert_eq!(stored(&database, &replica).await[14..], ["007", "012"]);
    assert_eq!(database.all::<String>("SELECT id FROM headgate.set_aside").await, ["7"]);
}

/// How a reset comes about.
#[derive(Debug, Clone, Copy)]
enum Reset {
    Once,
    /// The second one before anything came of the first.
    Twice,
    /// To where the stream stands, and then to its beginning.
    InPlace,
    /// By a deletion that was interrupted, and an object that keeps what it left.
    Deletion,
}

impl Reset {
    async fn of(self, replica: &mut Replica) {
        match self {
            Self::Once => drop(replica.reset(1).await),
            Self::Twice => {
                replica.reset(1).await;
                replica.reset(2).await;
            }
            Self::InPlace => {
                let in_place = replica.resetting_to(1, replica.cursor.clone());
                let adopted = applied(replica.store.reset(in_place).await.unwrap());
                (replica.fence, replica.epoch) = (adopted.fence, adopted.epoch);
                replica.reset(2).await;
            }
            Self::Deletion => {
                let forget = Forget { stream: replica.stream.clone(), uid: replica.uid.clone() };
                replica.store.forget(forget).await.unwrap_err();
                // The server lets go of the row after it has told of the failure.
                while replica.store.adopt(replica.adoption()).await.unwrap() == Answer::Locked {}
                replica.adopt().await;
            }
        }
    }
}

#[tokio::test]
async fn a_reset_stores_no_event_twice_whichever_was_the_last() {
    let database = Database::migrated().await;
    database.run(REFUSE_DELETIONS).await;
    for reset in [Reset::Once, Reset::Twice, Reset::InPlace, Reset::Deletion] {
        for read in 1..=FEED.len() {
            for size in [1, 4] {
                let case = format!("{reset:?} after {}, then in pages of {size}", FEED[read - 1]);
                let mut replica = reading(&database, &format!("{reset:?}-{read}-{size}"), &FEED[..read]).await;
                reset.of(&mut replica).await;
                let mut told = Appended::default();
                for page in FEED.chunks(size) {
                    let page = replica.poll(events(page)).await;
                    told.repeated += page.repeated;
                    assert_eq!(page.conflicting, 0);
                }
                assert_eq!(stored(&database, &replica).await, FEED, "{case}");
                assert_eq!(told.repeated, read as u64, "{case}");
                assert!(!is_read_again(&database, &replica).await, "{case}: all that was stored came by");
            }
        }
    }
}

#[tokio::test]
async fn a_reset_to_digits_at_which_an_opaque_stream_stands_looks_nothing_up() {
    let database = Database::migrated().await;
    for (name, start, looks_up) in [("here", FEED[1], false), ("larger-digits", "999999999999", true)] {
        let replica = reading(&database, name, &FEED[..2]).await;
        applied(replica.store.reset(replica.resetting_to(1, after(start))).await.unwrap());
        assert_eq!(is_read_again(&database, &replica).await, looks_up, "{name}");
    }
}

#[tokio::test]
async fn what_an_epoch_took_for_numbers_is_found_as_opaque_in_the_next() {
    let database = Database::migrated().await;
    for (name, numbers) in [
        ("fit", ["507199111111", "00507199222222", "507199333333"]),
        ("do-not-fit", ["507199111111507199111111", "507199222222507199222222", "507199333333507199333333"]),
    ] {
        for size in [1, 2, 9] {
            let mut replica = reading(&database, &format!("{name}-{size}"), &numbers).await;
            assert_eq!(replica.id_kind, Some(IdKind::Number));
            replica.reset(1).await;
            // The first page tells, as the loader sees it.
            replica.id_kind = Some(IdKind::Opaque);
            let feed = [numbers[0], "5f07", numbers[1], "5f08", "507199222222", numbers[2], "9", "5f09"];
            let mut told = Appended::default();
            for page in feed.chunks(size) {
                let page = replica.poll(events(page)).await;
                (told.repeated, told.stored) = (told.repeated + page.repeated, told.stored + page.stored);
            }
            assert_eq!((told.repeated, told.stored), (3, 5), "{name} {size}");
            assert_eq!(
                stored(&database, &replica).await[3..],
                ["5f07", "5f08", "507199222222", "9", "5f09"],
                "{name} {size}"
            );
        }
    }
}

#[tokio::test]
async fn a_stream_that_began_as_numbers_reads_on_as_opaque_from_its_cursor() {
    let database = Database::migrated().await;
    let mut replica = reading(&database, "orders", &["507199111111", "507199222222"]).await;
    let on = replica.resetting_to(1, replica.cursor.clone());
    let adopted = applied(replica.store.reset(on).await.unwrap());
    assert_eq!((&adopted.cursor, adopted.id_kind), (&replica.cursor, None));
    (replica.fence, replica.epoch, replica.id_kind) = (adopted.fence, adopted.epoch, None);
    assert_eq!(replica.poll(events(["5f07", "507199000000"])).await.stored, 2);
    assert_eq!(replica.adopt().await.id_kind, Some(IdKind::Opaque));
    assert!(!is_read_again(&database, &replica).await);
    assert_eq!(stored(&database, &replica).await, ["507199111111", "507199222222", "5f07", "507199000000"]);

    // What was stored as numbers is known, though no mark stands.
    let known = BTreeSet::from(["507199111111", "507199222222"].map(str::to_owned));
    assert_eq!(found(&replica, &["507199111111", "5f08", "507199222222", "00"]).await, known);
    let has_older = async |id| replica.store.has_older(&replica.stream, &EventId::new(id).unwrap()).await.unwrap();
    assert!(
        has_older("507199222222").await && !has_older("507199111111").await && !has_older("99999999999999999999").await
    );
    replica.reserve().await;
    let page = Append { looks_up: true, ..replica.closing(events(["5f08", "507199111111"])) };
    let told = replica.append(&page).await;
    assert_eq!((told.stored, told.repeated), (1, 1));
}
