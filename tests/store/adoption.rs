//! Who takes a row over, and what it finds there.

use std::time::Duration;

use headgate::store::{Adopt, Answer, Gate};

use crate::{
    database::Database,
    replica::{GAP, Replica, applied},
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
