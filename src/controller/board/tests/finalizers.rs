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
    for number in 0..1000 {
        desk.desired.put(Arc::new(deleting_its_events(source(&format!("s{number}")))));
        desk.report(held(&format!("s{number}")));
    }
    let ends = desk.now + seconds(180);
    while desk.now < ends {
        match desk.next() {
            Some(job) if matches!(job.kind, JobKind::Finalizer(_)) => desk.answer(&job, Done::Failed),
            Some(job) => {
                told.push(job.stream.clone());
                desk.answer(&job, Done::Settled(base()));
            }
            None => desk.now = desk.board.wakes_at(desk.now).expect("a retry"),
        }
    }
    assert_eq!(told.len(), 1000);
}

#[tokio::test(start_paused = true)]
async fn a_finalizer_is_written_also_while_statuses_are_held_back() {
    let mut desk = desk();
    desk.board.hold_statuses_back(true);
    desk.desired.put(Arc::new(deleting_its_events(source("orders"))));
    let wrote = desk.report(held("orders")).report(held("invoices")).write_for(seconds(4));
    assert_eq!(reasons(&wrote), ["finalizer_added"]);
    desk.board.hold_statuses_back(false);
    assert_eq!(reasons(&desk.write()), ["transition", "transition"]);
}

#[tokio::test(start_paused = true)]
async fn a_finalizer_that_met_an_edit_is_written_again_while_statuses_are_held_back() {
    let mut desk = desk();
    desk.board.hold_statuses_back(true);
    desk.desired.put(Arc::new(deleting_its_events(source("orders"))));
    let add = desk.report(held("orders")).next().expect("the finalizer");
    desk.answer(&add, Done::Conflict);
    assert!(matches!(desk.next().expect("again").kind, JobKind::Finalizer(_)));
}
