//! Who takes a row over, what it finds there, and what becomes of the holder before.

use std::time::Duration;

use headgate::{
    event::Cursor,
    store::{Adopt, Answer, Epoch, EventStore, Fence, Forget, Gate, Holder},
};

use crate::{
    database::Database,
    replica::{GAP, Replica, after, applied, events, refused},
};

#[tokio::test]
async fn who_adopts_a_row_keeps_every_wait_that_stands_in_it() {
    let database = Database::migrated().await;
    let store = database.store();
    let minute = Duration::from_mins(1);
    let mut asked_to_wait = Replica::adopting(&store, "a", "asked-to-wait").await;
    asked_to_wait.reserve().await;
    applied(asked_to_wait.abort(minute).await);
    let mut extended = Replica::adopting(&store, "a", "extended").await;
    extended.in_flight = GAP;
    extended.reserve().await;
    applied(extended.extend(minute).await);

    for name in ["asked-to-wait", "extended"] {
        let mut heir = Replica::new(&store, "b", name);
        let adopted = heir.adopt().await;
        assert!(adopted.starts_in.max(adopted.in_flight_for) > minute / 2, "{name}: {adopted:?}");
        let Answer::Refused(Some(row)) = heir.try_reserve().await else { panic!("{name} was asked too early") };
        assert!(row.starts_in.max(row.in_flight_for) > minute / 2, "{name}: {row:?}");
    }
}

#[tokio::test]
async fn a_holder_in_doubt_adopts_its_own_row_again_and_takes_none_from_another() {
    let database = Database::migrated().await;
    let store = database.store();
    let in_doubt = |replica: &Replica| Adopt { in_doubt: true, ..replica.adoption() };
    let mut ours = Replica::new(&store, "a_1", "orders");
    assert_eq!(store.adopt(in_doubt(&ours)).await.unwrap(), Answer::Refused(None), "nobody has adopted it yet");
    let first = ours.adopt().await;
    let Answer::Applied(again) = store.adopt(in_doubt(&ours)).await.unwrap() else { panic!("the row is its own") };
    assert_eq!(again.fence.0, first.fence.0 + 1);
    let theirs = Replica::adopting(&store, "b_1", "orders").await;
    let Answer::Refused(Some(row)) = store.adopt(in_doubt(&ours)).await.unwrap() else { panic!("it is another's") };
    assert_eq!((row.holder, row.fence), (Some(theirs.holder.clone()), theirs.fence));
}

#[tokio::test]
async fn the_holder_before_fails_its_next_reserve_but_its_late_answer_is_kept() {
    let database = Database::migrated().await;
    let mut old = Replica::adopting(&database.store(), "a", "orders").await;
    old.reserve().await;
    let new = Replica::adopting(&database.store(), "b", "orders").await;
    assert_eq!(new.fence, Fence(old.fence.0 + 1));

    let append = old.closing(events([1, 2]));
    assert_eq!(old.append(&append).await.stored, 2);
    let row = refused(old.try_reserve().await);
    assert_eq!((row.holder, row.cursor), (Some(Holder::new("b")), after("2")));
}

#[tokio::test]
async fn a_dead_holder_is_fenced_off_everywhere_and_once() {
    let database = Database::migrated().await;
    let store = database.store();
    let mut orders = Replica::adopting(&store, "dead", "orders").await;
    let mut stock = Replica::adopting(&store, "dead", "stock").await;
    let mut other = Replica::adopting(&store, "alive", "other").await;

    // One row is locked for a moment: it is fenced as soon as it is let go.
    let mut blocker = database.sql.begin().await.unwrap();
    sqlx::query("SELECT FROM headgate.source WHERE stream = 'shop/stock' FOR UPDATE")
        .execute(&mut *blocker)
        .await
        .unwrap();
    let fencing = tokio::spawn({
        let store = store.clone();
        async move { store.fence_off(&Holder::new("dead")).await.unwrap() }
    });
    while database.one::<i64>("SELECT count(*) FROM headgate.source WHERE holder IS NULL").await == 0 {
        tokio::task::yield_now().await;
    }
    blocker.rollback().await.unwrap();
    assert_eq!(fencing.await.unwrap(), 2);

    assert_eq!(refused(orders.try_reserve().await).fence, Fence(orders.fence.0 + 1));
    refused(stock.try_reserve().await);
    applied(other.try_reserve().await);
    assert_eq!(store.fence_off(&Holder::new("dead")).await.unwrap(), 0);
}

#[tokio::test]
async fn a_new_object_goes_on_from_the_cursor_of_the_old_one_and_says_that_its_start_was_ignored() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.reset(5).await;
    replica.poll(events([1, 2])).await;
    assert!(!replica.adopt().await.start_ignored);
    assert_eq!(replica.epoch, Epoch(5), "the epoch of one object stays whatever the adopter believes");

    replica.uid = "uid-2".to_owned();
    replica.epoch = Epoch(0);
    for _ in 0..2 {
        let adopted = replica.adopt().await;
        assert_eq!((adopted.cursor, adopted.epoch, adopted.start_ignored), (after("2"), Epoch(0), true));
    }
    assert!(!replica.reset(1).await.start_ignored);
}

#[tokio::test]
async fn an_object_that_reads_its_ids_from_elsewhere_is_told_what_the_cursor_was_read_from() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.id_path = "$.uuid".to_owned();
    assert_eq!(replica.adopt().await.id_path, "$.uuid", "nothing was read yet");
    replica.poll(events([1, 2])).await;

    let mut other = Replica { uid: "uid-2".to_owned(), id_path: "$.id".to_owned(), ..replica.clone() };
    for _ in 0..2 {
        let adopted = other.adopt().await;
        assert_eq!((adopted.cursor, adopted.epoch, adopted.id_path.as_str()), (after("2"), Epoch(0), "$.uuid"));
    }
    let mut former = Replica { uid: "uid-3".to_owned(), epoch: Epoch(4), ..replica.clone() };
    let adopted = former.adopt().await;
    assert_eq!((adopted.id_path.as_str(), adopted.epoch), ("$.uuid", Epoch(4)), "the cursor is still its own");

    other.uid = "uid-4".to_owned();
    other.epoch = Epoch(9);
    assert_eq!(other.adopt().await.epoch, Epoch(4), "it is larger than what it found, and asks to begin again");
    let adopted = other.reset(9).await;
    assert_eq!((adopted.cursor, adopted.id_path.as_str()), (Cursor::Start, "$.id"));
    other.poll(events([1])).await;
    assert_eq!(other.adopt().await.id_path, "$.id");
}

#[tokio::test]
async fn an_answer_that_is_under_way_brings_no_cursor_of_another_path() {
    let database = Database::migrated().await;
    let mut before = Replica::adopting(&database.store(), "a", "orders").await;
    before.reserve().await;
    let late = before.closing(events([1]));
    let mut same = Replica { uid: "uid-2".to_owned(), ..before.clone() };
    same.adopt().await;
    assert_eq!(before.append(&late).await.stored, 1, "an object with the same path is glad of it");

    let mut before = Replica::adopting(&database.store(), "a", "stock").await;
    before.reserve().await;
    let late = before.closing(events([1]));
    let mut other = Replica { uid: "uid-2".to_owned(), id_path: "$.uuid".to_owned(), ..before.clone() };
    other.adopt().await;
    refused(before.store.append(&late).await.unwrap());
    assert_eq!(other.adopt().await.id_path, "$.uuid");
}

#[tokio::test]
async fn what_ids_were_read_from_is_held_against_nobody_when_an_older_release_has_not_written_it_down() {
    let database = Database::migrated().await;
    for (name, older_release) in [
        ("adopted", "UPDATE headgate.source SET id_path = NULL, id_path_epoch = NULL"),
        ("reset", "UPDATE headgate.source SET epoch = epoch + 1"),
    ] {
        let mut replica = Replica::adopting(&database.store(), "a", name).await;
        replica.poll(events([1])).await;
        replica.id_path = "$.uuid".to_owned();
        assert_eq!(replica.adopt().await.id_path, "$.id", "{name}");
        database.run(older_release).await;
        assert_eq!(replica.adopt().await.id_path, "$.uuid", "{name}");
    }
}

#[tokio::test]
async fn where_the_events_went_with_their_object_ids_are_read_from_anywhere() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.poll(events([1])).await;
    let forget = Forget { stream: replica.stream.clone(), uid: replica.uid.clone() };
    applied(replica.store.forget(forget).await.unwrap());
    replica.id_path = "$.uuid".to_owned();
    assert_eq!(replica.adopt().await.id_path, "$.uuid");
}
