//! What is written of a source that this replica is about to lose, or has lost.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_replica_that_leaves_writes_a_last_word_for_what_it_still_holds() {
    let mut desk = desk();
    desk.report(held("handed-off")).report(held("orders")).write();
    desk.reports.remove(&stream("handed-off"));
    desk.look();
    desk.board.leave(desk.now);
    assert!(!desk.board.is_settled());
    let wrote = desk.write();
    assert_eq!(reasons(&wrote), ["last"]);
    assert_eq!(wrote[0].stream, stream("orders"));
    assert!(desk.board.is_settled());
}

#[tokio::test(start_paused = true)]
async fn last_words_wait_for_no_budget() {
    let mut desk = desk();
    for name in 0..300 {
        desk.report(held(&format!("s{name}")));
    }
    desk.write_for(seconds(60));
    for name in 0..150 {
        let mut lost = held(&format!("s{name}"));
        lost.assigned.reason = AssignedReason::LeaseLost;
        desk.report(lost);
    }
    desk.board.leave(desk.now);
    assert_eq!(desk.write().len(), 300, "at once, and not 100 of them and then 20 a second");
    assert!(desk.board.is_settled());
}

#[tokio::test(start_paused = true)]
async fn a_write_under_way_when_the_replica_leaves_is_not_its_last_word() {
    let mut desk = desk();
    let job = desk.report(held("orders")).next().expect("a write");
    desk.board.leave(desk.now);
    desk.answer(&job, Done::Settled(base()));
    assert!(!desk.board.is_settled());
    assert_eq!(reasons(&desk.write()), ["last"]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_is_written_and_told_even_when_the_task_ended_before_anybody_looked() {
    let mut desk = desk();
    desk.report(held("orders")).write();
    let mut lost = held("orders");
    lost.assigned.reason = AssignedReason::LeaseLost;
    desk.reports.put(&stream("orders"), lost);
    desk.reports.remove(&stream("orders"));
    let events = desk.look();
    assert_eq!(events.iter().map(|event| event.announcement.reason).collect::<Vec<_>>(), ["LeaseLost"]);
    assert!(desk.look().is_empty());
    assert_eq!(reasons(&desk.write()), ["transition"]);
    assert!(desk.look().is_empty());
    assert!(desk.board.tracked.is_empty(), "nothing is kept of it");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_won_again_is_written_as_held() {
    let mut desk = desk();
    desk.report(held("orders")).write();
    let mut lost = held("orders");
    lost.assigned.reason = AssignedReason::LeaseLost;
    desk.report(lost).reports.remove(&stream("orders"));
    desk.look();
    let mut again = held("orders");
    again.holding.acquired_at = crate::controller::fixtures::noon_plus(60);
    desk.report(again);
    let job = desk.next().expect("a write");
    let JobKind::Status { view, .. } = &job.kind else { panic!("a status") };
    assert_eq!(view.report.assigned.reason, AssignedReason::LeaseHeld);
    desk.answer(&job, Done::Settled(base()));
    desk.look();
    assert_eq!(desk.board.tracked.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_report_without_an_object_waits_for_one() {
    let mut desk = desk();
    let mut unknown = held("orders");
    unknown.uid = String::new();
    assert_eq!(desk.report(unknown).write(), []);
    assert_eq!(reasons(&desk.report(held("orders")).write()), ["transition"]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_is_written_and_told() {
    let mut desk = desk();
    desk.report(held("orders")).write();
    let mut lost = held("orders");
    lost.assigned.reason = AssignedReason::LeaseLost;
    desk.reports.put(&stream("orders"), lost);
    let events = desk.look();
    assert_eq!(events.iter().map(|event| event.announcement.reason).collect::<Vec<_>>(), ["LeaseLost"]);
    assert_eq!(reasons(&desk.write()), ["transition"]);
}
