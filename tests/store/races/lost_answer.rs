//! The transaction was committed and its answer never arrived. Asked again, every verb tells what it did and does nothing
//! twice.

use std::time::Duration;

use headgate::store::{
    Answer, Append, Appended, Close, EventStore, Fence, Forget, Gate, Holder, StoreError, Then, postgres::PostgresStore,
};

use super::link::{Link, address_of};
use crate::{
    database::Database,
    replica::{GAP, Replica, after, applied, event, events, refused},
};

/// A store behind a line that loses answers.
struct Behind {
    database: Database,
    link: Link,
    store: PostgresStore,
}

impl Behind {
    async fn a_line() -> Self {
        let database = Database::migrated().await;
        let link = Link::to(address_of(&database.url)).await;
        let store = PostgresStore::new(&link.url(&database.url), "headgate-test", 1).unwrap();
        // One on each of its connections: from here on the line carries answers to statements alone.
        store.ping().await.unwrap();
        store.fence_off(&Holder::new("nobody")).await.unwrap();
        Self { database, link, store }
    }

    async fn a_line_and_a_replica() -> (Self, Replica) {
        let behind = Self::a_line().await;
        let replica = Replica::adopting(&behind.store, "a", "orders").await;
        (behind, replica)
    }

    /// Runs a verb whose nth statement is carried out and not answered.
    async fn losing<T: std::fmt::Debug>(&self, nth: usize, verb: impl Future<Output = Result<T, StoreError>>) {
        self.link.lose_answer(nth);
        let error = verb.await.expect_err("its answer was lost");
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        assert!(!self.link.will_lose_an_answer(), "it ended before its answer could be lost");
    }

    async fn ids(&self) -> Vec<String> {
        self.database.all("SELECT id FROM headgate.events ORDER BY sequence").await
    }
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_applied_on_repeat_and_stored_once() {
    let (behind, mut replica) = Behind::a_line_and_a_replica().await;
    replica.reserve().await;
    for (part, ids) in [vec!["1", "2"], vec!["3"], vec![]].into_iter().enumerate() {
        let append = replica.appending(events(&ids));
        let close = Then::Closes(Close { next_start_in: Duration::from_secs(30) });
        let append = if part == 2 { Append { then: close, ..append } } else { append };
        behind.losing(1, behind.store.append(&append)).await;
        assert_eq!(replica.append(&append).await.stored, u64::try_from(ids.len()).unwrap());
    }
    assert_eq!(behind.ids().await, ["1", "2", "3"]);
    assert_eq!(behind.database.one::<i64>("SELECT events_stored FROM headgate.source").await, 3);
    assert_eq!(behind.database.one::<i64>("SELECT count(*) FROM headgate.commits").await, 2);
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_known_also_after_another_has_reserved() {
    let (behind, mut replica) = Behind::a_line_and_a_replica().await;
    replica.reserve().await;
    let append = replica.closing(events([1, 2]));
    behind.losing(1, behind.store.append(&append)).await;
    let mut heir = Replica::adopting(&behind.database.store(), "b", "orders").await;
    assert_eq!(heir.poll(events([3])).await.stored, 1);
    heir.reserve().await;
    let told = applied(behind.store.append(&append).await.unwrap());
    assert_eq!(told, Appended { stored: 2, events_stored: 3, ..Appended::default() });
    assert_eq!(behind.ids().await, ["1", "2", "3"]);
}

#[tokio::test]
async fn a_reread_whose_answer_was_lost_is_applied_on_repeat_and_stored_once() {
    let (behind, mut replica) = Behind::a_line_and_a_replica().await;
    replica.poll(events([1, 2])).await;
    replica.reset(1).await;
    replica.reserve().await;
    let append = replica.closing(vec![events([1]).remove(0), event("2", "\"other\""), event("3", "3")]);
    // The first statement only finds that ids have to be looked up.
    behind.losing(2, behind.store.append(&append)).await;
    let told = replica.append(&append).await;
    assert_eq!(told, Appended { stored: 1, repeated: 1, conflicting: 1, events_stored: 3 });
    assert_eq!(behind.ids().await, ["1", "2", "3"]);
}

#[tokio::test]
async fn a_reservation_whose_answer_was_lost_shows_its_token_and_is_not_granted_twice() {
    let (behind, replica) = Behind::a_line_and_a_replica().await;
    let reservation = replica.reservation();
    behind.losing(1, behind.store.reserve(reservation.clone())).await;
    let row = refused(behind.store.reserve(reservation.clone()).await.unwrap());
    assert_eq!(row.attempt, Some(reservation.attempt));
    assert!(row.in_flight_for > Duration::ZERO, "{row:?}");
}

#[tokio::test]
async fn an_abort_whose_answer_was_lost_is_applied_on_repeat_and_makes_no_wait_longer() {
    let (behind, mut replica) = Behind::a_line_and_a_replica().await;
    replica.reserve().await;
    let abort = |next_start_in| headgate::store::Abort {
        stream: replica.stream.clone(),
        attempt: replica.attempt,
        close: Close { next_start_in },
    };
    behind.losing(1, behind.store.abort(abort(GAP))).await;
    applied(behind.store.abort(abort(Duration::from_hours(1))).await.unwrap());
    assert!(replica.adopt().await.starts_in <= GAP);
}

#[tokio::test]
async fn an_extension_whose_answer_was_lost_holds() {
    let (behind, mut replica) = Behind::a_line_and_a_replica().await;
    replica.reserve().await;
    let extend = |by| headgate::store::Extend { stream: replica.stream.clone(), attempt: replica.attempt, by };
    behind.losing(1, behind.store.extend(extend(Duration::from_hours(1)))).await;
    applied(behind.store.extend(extend(Duration::from_secs(1))).await.unwrap());
    let row = refused(behind.store.reserve(replica.reservation()).await.unwrap());
    assert!(row.in_flight_for > Duration::from_mins(50), "{row:?}");
}

#[tokio::test]
async fn an_adoption_whose_answer_was_lost_is_made_again_with_a_higher_fence() {
    let behind = Behind::a_line().await;
    let mut replica = Replica::new(&behind.store, "a", "orders");
    behind.losing(1, behind.store.adopt(replica.adoption())).await;
    assert_eq!(replica.adopt().await.fence, Fence(2));
    assert_eq!(replica.poll(events([1])).await.stored, 1);
}

#[tokio::test]
async fn a_reset_whose_answer_was_lost_is_applied_on_repeat_and_raises_the_fence_once() {
    let (behind, mut replica) = Behind::a_line_and_a_replica().await;
    replica.poll(events([1])).await;
    let fence = replica.fence;
    let reset = replica.resetting_to(1, after("0"));
    behind.losing(1, behind.store.reset(reset.clone())).await;
    let adopted = applied(behind.store.reset(reset).await.unwrap());
    assert_eq!((adopted.fence, adopted.cursor), (Fence(fence.0 + 1), after("0")));
}

#[tokio::test]
async fn a_deletion_whose_answer_was_lost_at_any_step_is_finished_on_repeat() {
    for step in 1..=2 {
        let (behind, mut replica) = Behind::a_line_and_a_replica().await;
        replica.poll(events([1, 2])).await;
        let forget = Forget { stream: replica.stream.clone(), uid: replica.uid.clone() };
        behind.link.lose_answer(step);
        let first = behind.store.forget(forget.clone()).await;
        assert!(matches!(first, Err(StoreError::Unavailable { .. })), "step {step}: {first:?}");
        applied(behind.store.forget(forget).await.unwrap());
        assert_eq!(behind.ids().await, Vec::<String>::new(), "step {step}");
        assert!(behind.database.one::<bool>("SELECT uid IS NULL AND cursor IS NULL FROM headgate.source").await);
    }
}

#[tokio::test]
async fn a_dead_holder_whose_fencing_was_not_answered_is_fenced_once() {
    let (behind, mut replica) = Behind::a_line_and_a_replica().await;
    behind.losing(1, behind.store.fence_off(&Holder::new("a"))).await;
    assert_eq!(behind.store.fence_off(&Holder::new("a")).await.unwrap(), 0);
    assert!(matches!(replica.try_reserve().await, Answer::Refused(Some(row)) if row.fence == Fence(2)));
}
