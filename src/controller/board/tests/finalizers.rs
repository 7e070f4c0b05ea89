use rstest::rstest;

use super::*;

#[tokio::test(start_paused = true)]
async fn the_finalizer_is_asked_for_once_and_again_only_when_the_watch_does_not_show_it() {
    let mut desk = desk();
    desk.desired.put(Arc::new(deleting_its_events(source("orders"))));
    let wrote = desk.report(held("orders")).write_for(seconds(4));
    assert_eq!(reasons(&wrote), ["finalizer_added", "transition"]);
    assert_eq!(reasons(&desk.write_for(seconds(2))), ["finalizer_added"]);
    let mut finalized = deleting_its_events(source("orders"));
    finalized.has_finalizer = true;
    desk.desired.put(Arc::new(finalized));
    desk.look();
    assert_eq!(desk.write_for(seconds(600)), []);
}

#[tokio::test(start_paused = true)]
async fn the_finalizer_of_a_deleted_object_goes_when_its_events_are_gone() {
    let mut desk = desk();
    let mut deleted = deleting_its_events(source("orders"));
    (deleted.has_finalizer, deleted.deleting) = (true, true);
    desk.desired.put(Arc::new(deleted));
    assert_eq!(reasons(&desk.report(held("orders")).write()), ["transition"]);
    let mut forgotten = held("orders");
    forgotten.forgotten = true;
    assert_eq!(reasons(&desk.report(forgotten).write()), ["finalizer_removed"]);
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_went_back_to_retain_loses_its_finalizer() {
    let mut desk = desk();
    let mut retained = source("orders");
    retained.has_finalizer = true;
    desk.desired.put(Arc::new(retained));
    assert!(reasons(&desk.report(held("orders")).write()).contains(&"finalizer_removed"));
}

#[tokio::test(start_paused = true)]
async fn what_another_object_forgot_does_not_free_this_one() {
    let mut desk = desk();
    let mut deleted = deleting_its_events(source("orders"));
    (deleted.has_finalizer, deleted.deleting, deleted.uid) = (true, true, "another".to_owned());
    desk.desired.put(Arc::new(deleted));
    let mut forgotten = held("orders");
    forgotten.forgotten = true;
    assert_eq!(reasons(&desk.report(forgotten).write()), ["transition"]);
}

#[tokio::test(start_paused = true)]
async fn a_finalizer_that_is_refused_keeps_nothing_from_being_told_of_this_source_or_of_others() {
    let mut desk = desk();
    let mut told = Vec::new();
    desk.report(held("healthy").polled_at(1));
    for number in 0..1000 {
        desk.desired.put(Arc::new(deleting_its_events(source(&format!("s{number}")))));
        desk.report(held(&format!("s{number}")));
    }
    let ends = desk.now + seconds(180);
    let mut counted = 0;
    while desk.now < ends {
        if counted == 0 && desk.now + seconds(60) > ends {
            counted = 7;
            desk.report(held("healthy").polled_at(1).after_id(counted));
        }
        match desk.next() {
            Some(job) if matches!(job.kind, JobKind::Finalizer(_)) => desk.answer(&job, Done::Failed),
            Some(job) => {
                told.push(job.stream.clone());
                desk.answer(&job, Done::Settled(base()));
            }
            None => desk.now = desk.board.wakes_at(desk.now).expect("a retry"),
        }
    }
    let of_healthy = told.iter().filter(|stream| stream.name() == "healthy").count();
    assert_eq!((told.len() - of_healthy, of_healthy), (1000, 2), "its counters too");
}

#[tokio::test(start_paused = true)]
async fn a_finalizer_is_written_also_while_statuses_are_held_back() {
    let mut desk = desk();
    desk.board.hold_statuses_back(true, desk.now);
    desk.desired.put(Arc::new(deleting_its_events(source("orders"))));
    let wrote = desk.report(held("orders")).report(held("invoices")).write_for(seconds(4));
    assert_eq!(reasons(&wrote), ["finalizer_added"]);
    desk.board.hold_statuses_back(false, desk.now);
    assert_eq!(reasons(&desk.write()), ["transition", "transition"]);
}

#[rstest]
#[case::an_edit(Done::Conflict, 0)]
#[case::a_failure(Done::Failed, 2)]
#[tokio::test(start_paused = true)]
async fn a_finalizer_that_was_not_written_is_tried_again_while_statuses_are_held_back(
    #[case] answer: Done,
    #[case] after: u64,
) {
    let mut desk = desk();
    desk.board.hold_statuses_back(true, desk.now);
    desk.desired.put(Arc::new(deleting_its_events(source("orders"))));
    let add = desk.report(held("orders")).next().expect("the finalizer");
    desk.answer(&add, answer);
    let again = desk.pass(seconds(after)).next().expect("again");
    assert!(matches!(again.kind, JobKind::Finalizer(_)));
    desk.answer(&again, Done::Failed);
    // What has failed before is told when all is told again.
    desk.board.hold_statuses_back(false, desk.now);
    assert_eq!(reasons(&desk.write()), ["transition"]);
}
