//! What follows from the answers of the API server: late ones, refusals, failures, and none yet.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_answer_to_an_older_holding_is_not_taken_for_the_new_one() {
    let mut desk = desk();
    let old = desk.report(held("orders")).next().expect("a write");
    let mut again = held("orders");
    again.holding.acquired_at = crate::controller::fixtures::noon_plus(60);
    desk.report(again);
    desk.answer(&old, Done::Settled(base()));
    assert_eq!(reasons(&desk.write()), ["transition"], "the new holding is still to be written");
}

#[tokio::test(start_paused = true)]
async fn one_source_is_written_once_at_a_time() {
    let mut desk = desk();
    let first = desk.report(held("orders")).next().expect("a write");
    desk.report(held("orders").not_accepted(AcceptedReason::SecretNotFound));
    assert!(desk.next().is_none());
    desk.answer(&first, Done::Settled(base()));
    assert_eq!(reasons(&desk.write()), ["transition"]);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_read_and_written_again_at_once_and_a_second_one_later() {
    let mut desk = desk();
    let first = desk.report(held("orders")).next().expect("a write");
    desk.answer(&first, Done::Conflict);
    let second = desk.next().expect("again, at once");
    assert!(matches!(second.kind, JobKind::Status { base: None, .. }), "the object is read again");
    desk.answer(&second, Done::Conflict);
    assert!(desk.next().is_none());
    assert_eq!(reasons(&desk.pass(seconds(3)).write()), ["transition"]);
}

#[tokio::test(start_paused = true)]
async fn failed_writes_are_repeated_at_growing_intervals_up_to_half_a_minute() {
    let mut desk = desk();
    desk.report(held("orders"));
    let mut at = Vec::new();
    for _ in 0..9 {
        let job = loop {
            match desk.next() {
                Some(job) => break job,
                None => desk.now = desk.board.wakes_at(desk.now).expect("a retry"),
            }
        };
        at.push(desk.now);
        desk.answer(&job, Done::Failed);
    }
    let gaps: Vec<_> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps[0] >= Duration::from_millis(900) && gaps[0] <= Duration::from_millis(1_100));
    assert!(gaps[7] >= seconds(27) && gaps[7] <= seconds(33));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_gone_is_not_written_any_more_but_its_successor_is() {
    let mut desk = desk();
    let job = desk.report(held("orders")).next().expect("a write");
    desk.answer(&job, Done::Gone);
    desk.report(held("orders").not_accepted(AcceptedReason::SecretNotFound));
    assert_eq!(desk.write_for(seconds(600)), []);
    let mut successor = held("orders");
    successor.uid = "another".to_owned();
    desk.report(successor);
    assert_eq!(reasons(&desk.write()), ["transition"]);
}

#[tokio::test(start_paused = true)]
async fn no_more_than_sixteen_requests_are_under_way() {
    let mut desk = desk();
    for name in 0..30 {
        desk.report(held(&format!("s{name}")));
    }
    let jobs: Vec<_> = std::iter::from_fn(|| desk.next()).collect();
    assert_eq!(jobs.len(), 16);
    assert_eq!(desk.board.wakes_at(desk.now), None, "an answer comes first");
    desk.answer(&jobs[0], Done::Settled(base()));
    assert!(desk.next().is_some());
}
