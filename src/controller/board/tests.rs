mod answers;
mod finalizers;
mod partings;

use super::*;
use crate::{
    api::{AcceptedReason, AssignedReason, ReachableReason},
    controller::fixtures::{Story, deleting_its_events, held, source, stream},
};

const STATUS_EVERY: Duration = Duration::from_secs(30);

/// A board, what it looks at, and an API server that answers at once.
struct Desk {
    board: Board,
    reports: Reports,
    desired: Desired,
    wanted: tokio::sync::watch::Receiver<u64>,
    now: Instant,
    begun: Instant,
}

/// A job that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wrote {
    after: Duration,
    stream: StreamName,
    why: &'static str,
}

fn desk() -> Desk {
    desk_with_seed(0)
}

fn desk_with_seed(seed: u64) -> Desk {
    let (now, desired) = (Instant::now(), Desired::default());
    Desk {
        board: Board::new(STATUS_EVERY, seed),
        reports: Reports::default(),
        wanted: desired.changes(),
        desired,
        now,
        begun: now,
    }
}

fn base() -> Base {
    Base { resource_version: "1".to_owned(), status: Arc::default() }
}

impl Desk {
    fn report(&mut self, report: Report) -> &mut Self {
        self.reports.put(&report.holding.stream.clone(), report);
        self.look();
        self
    }

    fn look(&mut self) -> Vec<PendingEvent> {
        let wanted = self.wanted.has_changed().expect("the desired set lives");
        self.wanted.mark_unchanged();
        let at = if wanted { Look::Everything } else { Look::Reports };
        self.board.look(at, &self.reports, &self.desired, self.now)
    }

    fn pass(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }

    fn next(&mut self) -> Option<Job> {
        self.board.next(self.now)
    }

    fn answer(&mut self, job: &Job, done: Done) {
        self.board.done(&job.stream, job.serial, done, self.now);
    }

    /// Does what is due now.
    fn write(&mut self) -> Vec<Wrote> {
        let mut wrote = Vec::new();
        while let Some(job) = self.next() {
            let (why, done) = match &job.kind {
                JobKind::Status { trigger, .. } => (trigger.as_str(), Done::Settled(base())),
                JobKind::Finalizer(step) => (step.as_str(), Done::FinalizerSettled),
            };
            self.answer(&job, done);
            wrote.push(Wrote { after: self.now - self.begun, stream: job.stream, why });
        }
        wrote
    }

    /// Does what becomes due within `time`, when it becomes due.
    fn write_for(&mut self, time: Duration) -> Vec<Wrote> {
        let end = self.now + time;
        let mut wrote = self.write();
        while let Some(at) = self.board.wakes_at(self.now).filter(|at| *at <= end) {
            assert!(at > self.now, "all that is due was written");
            self.now = at;
            wrote.extend(self.write());
        }
        self.now = end;
        wrote
    }
}

fn reasons(wrote: &[Wrote]) -> Vec<&'static str> {
    wrote.iter().map(|wrote| wrote.why).collect()
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[tokio::test(start_paused = true)]
async fn a_source_that_was_just_taken_over_is_written_at_once() {
    let mut desk = desk();
    assert_eq!(reasons(&desk.report(held("orders")).write()), ["transition"]);
}

#[tokio::test(start_paused = true)]
async fn a_condition_that_changed_is_written_at_once() {
    let mut desk = desk();
    desk.report(held("orders")).write();
    desk.pass(seconds(1)).report(held("orders").not_accepted(AcceptedReason::SecretNotFound));
    assert_eq!(reasons(&desk.write()), ["transition"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_when_nothing_changed() {
    let mut desk = desk();
    desk.report(held("orders")).write();
    desk.report(held("orders"));
    assert_eq!(desk.write_for(seconds(3_600)), []);
}

#[tokio::test(start_paused = true)]
async fn counters_are_written_every_thirty_seconds_give_or_take_a_tenth() {
    for seed in 0..8 {
        let mut desk = desk_with_seed(seed);
        desk.report(held("orders").polled_at(0).after_id(1)).write();
        let mut written = vec![Duration::ZERO];
        for second in 1..=600 {
            desk.report(held("orders").polled_at(second).after_id(second.unsigned_abs()));
            for wrote in desk.write_for(seconds(1)) {
                assert_eq!(wrote.why, "counters");
                written.push(wrote.after);
            }
        }
        for gap in written.windows(2).map(|pair| pair[1].checked_sub(pair[0]).unwrap()) {
            assert!(gap >= seconds(27) && gap <= seconds(34), "seed {seed}: {gap:?} between two writes");
        }
        assert!(written.len() > 17, "seed {seed}: the counters were written all along");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_source_is_written_every_five_minutes() {
    let mut desk = desk();
    desk.report(held("orders").polled_at(0)).write();
    let mut wrote = Vec::new();
    for second in 1..=3_600 {
        desk.report(held("orders").polled_at(second));
        wrote.extend(desk.write_for(seconds(1)));
    }
    assert!((10..=13).contains(&wrote.len()), "{} writes in an hour", wrote.len());
    assert!(wrote.iter().all(|wrote| wrote.why == "times"));
}

#[tokio::test(start_paused = true)]
async fn hundreds_of_idle_sources_are_written_once_a_second_in_all() {
    let mut desk = desk();
    for name in 0..600 {
        desk.report(held(&format!("s{name}")).polled_at(0));
    }
    desk.write_for(seconds(60));
    let (mut wrote, mut second) = (Vec::new(), 0);
    for _ in 0..30 {
        second += 60;
        for name in 0..600 {
            desk.reports.put(&stream(&format!("s{name}")), held(&format!("s{name}")).polled_at(second));
        }
        desk.look();
        wrote.extend(desk.write_for(seconds(60)));
    }
    assert!(wrote.iter().all(|wrote| wrote.why == "times"));
    for pair in wrote.windows(2) {
        assert!(pair[1].after >= pair[0].after + seconds(1), "{:?} and {:?}", pair[0], pair[1]);
    }
    // From about the fifth minute after the first write on, one a second.
    assert!((1_500..=1_600).contains(&wrote.len()), "{} writes in half an hour", wrote.len());
}

#[tokio::test(start_paused = true)]
async fn times_that_wait_for_their_turn_do_not_hold_up_counters() {
    let mut desk = desk();
    for name in 0..100 {
        desk.report(held(&format!("s{name}")).polled_at(0).after_id(1));
    }
    desk.write();
    desk.pass(seconds(400));
    for name in 0..50 {
        desk.report(held(&format!("s{name}")).polled_at(400).after_id(1));
    }
    for name in 50..100 {
        desk.report(held(&format!("s{name}")).polled_at(400).after_id(2));
    }
    let wrote = reasons(&desk.write());
    assert_eq!(wrote.iter().filter(|why| **why == "counters").count(), 50, "{wrote:?}");
    assert_eq!(wrote.iter().filter(|why| **why == "times").count(), 1, "{wrote:?}");
}

#[tokio::test(start_paused = true)]
async fn counters_that_are_asked_for_more_seldom_than_times_are_not_written_as_times() {
    let mut desk = desk();
    desk.board = Board::new(seconds(3_600), 0);
    desk.report(held("orders").polled_at(0).after_id(1)).write();
    let mut wrote = Vec::new();
    for minute in 1..=240 {
        desk.report(held("orders").polled_at(minute * 60).after_id(minute.unsigned_abs()));
        wrote.extend(desk.write_for(seconds(60)));
    }
    assert!((3..=4).contains(&wrote.len()), "{wrote:?}");
    assert!(wrote.iter().all(|wrote| wrote.why == "counters"), "{wrote:?}");
}

#[tokio::test(start_paused = true)]
async fn transitions_go_before_counters_when_the_budget_is_spent() {
    let mut desk = desk();
    for name in 0..100 {
        desk.report(held(&format!("s{name}")).after_id(1));
    }
    desk.write();
    desk.pass(seconds(60));
    for name in 0..100 {
        desk.report(held(&format!("s{name}")).after_id(2));
    }
    for name in 100..180 {
        desk.report(held(&format!("s{name}")));
    }
    let first: Vec<_> = reasons(&desk.write());
    assert_eq!(first.len(), 100, "the burst");
    assert!(first[..80].iter().all(|why| *why == "transition"), "{first:?}");
    assert!(first[80..].iter().all(|why| *why == "counters"));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_waits_keeps_its_place_however_often_it_changes() {
    let mut desk = desk();
    for name in 0..101 {
        desk.report(held(&format!("s{name:03}")));
    }
    assert_eq!(desk.write().len(), 100);
    let all = Wanted { statuses: true, times: true };
    let waiting = desk.board.queues.first(all, desk.now).expect("one is left");
    desk.pass(Duration::from_millis(10));
    for name in ["new-1", "new-2"] {
        desk.report(held(name));
    }
    desk.report(held(waiting.name()).not_accepted(AcceptedReason::CANotFound));
    let wrote = desk.write_for(Duration::from_millis(60));
    assert_eq!(wrote[0].stream, waiting);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_was_taken_back_while_it_waited_leaves_only_what_is_still_held() {
    let mut desk = desk();
    for name in 0..100 {
        desk.report(held(&format!("s{name}")).polled_at(0));
    }
    assert_eq!(desk.write().len(), 100, "the burst is spent");
    desk.report(held("s0").polled_at(0).not_accepted(AcceptedReason::SecretNotFound));
    assert!(desk.next().is_none(), "it waits for the budget");
    desk.report(held("s0").polled_at(0).failing(1, ReachableReason::Timeout));
    assert!(desk.pass(seconds(1)).next().is_none(), "it may still come back");
    assert_eq!(reasons(&desk.write_for(seconds(5))), ["transition"]);
}

/// The budget over random histories: never more than it allows, never starved, and the last word is what is written.
#[tokio::test(start_paused = true)]
async fn whatever_happens_the_budget_holds_and_the_newest_state_is_written() {
    for seed in 0..8 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut desk = desk_with_seed(seed);
        let mut wrote = Vec::new();
        for _ in 0..300 {
            for _ in 0..random.random_range(0..20) {
                let mut report = held(&format!("s{}", random.random_range(0..200)));
                if random.random_bool(0.3) {
                    report = report.not_accepted(AcceptedReason::SecretNotFound);
                }
                report.suspended = random.random_bool(0.3);
                if random.random_bool(0.5) {
                    report = report.failing(1, ReachableReason::Timeout);
                } else {
                    report = report.polled_at(random.random_range(0..1_000));
                }
                let report = report.after_id(random.random_range(1..1_000));
                desk.reports.put(&report.holding.stream.clone(), report);
            }
            desk.look();
            wrote.extend(desk.write_for(Duration::from_millis(random.random_range(0..500))));
        }
        for (first, start) in wrote.iter().enumerate() {
            for last in [first + 150, first + 400].into_iter().filter(|last| *last < wrote.len()) {
                let allowed = 100 + wrote[last].after.checked_sub(start.after).unwrap().as_millis() / 50 + 1;
                assert!((last - first) as u128 <= allowed, "seed {seed}: {} writes from {start:?}", last - first);
            }
        }
        desk.write_for(seconds(60));
        for (stream, tracked) in &desk.board.tracked {
            let written = &tracked.written.as_ref().expect("written at least once").view;
            assert_eq!(written.outline(), tracked.view().outline(), "seed {seed}, {stream}");
            assert_eq!(written.counters(), tracked.view().counters(), "seed {seed}, {stream}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_answer_of_a_source_is_written_at_once() {
    let mut desk = desk();
    desk.report(held("orders")).write();
    desk.pass(Duration::from_millis(300)).report(held("orders").polled_at(0).caught_up());
    assert_eq!(reasons(&desk.write()), ["transition"]);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_now_and_then_stays_reachable() {
    let mut desk = desk();
    desk.report(held("orders").polled_at(0)).write();
    for second in 1..=120 {
        let report = held("orders").polled_at(0);
        let failed = second % 4 == 0;
        desk.report(if failed { report.failing(1, ReachableReason::ServerError) } else { report });
        let wrote = desk.write_for(seconds(1));
        assert!(wrote.iter().all(|wrote| wrote.why != "transition"), "after {second} s: {wrote:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_stays_down_is_written_as_unreachable_after_five_seconds() {
    let mut desk = desk();
    desk.report(held("orders").polled_at(0)).write();
    desk.report(held("orders").polled_at(0).failing(1, ReachableReason::Timeout));
    let wrote = desk.write_for(seconds(20));
    assert_eq!(wrote, [Wrote { after: seconds(5), stream: stream("orders"), why: "transition" }]);
}

#[tokio::test(start_paused = true)]
async fn a_new_generation_shows_its_first_verdict_at_once() {
    let mut desk = desk();
    desk.report(held("orders").failing(1, ReachableReason::TLSFailed)).write();
    let mut corrected = held("orders").polled_at(1);
    corrected.generation = 2;
    desk.pass(seconds(1)).report(corrected);
    assert_eq!(reasons(&desk.write()), ["transition"]);
}

#[tokio::test(start_paused = true)]
async fn a_released_source_is_not_written_any_more() {
    let mut desk = desk();
    desk.report(held("orders")).write();
    desk.report(held("orders").not_accepted(AcceptedReason::SecretNotFound));
    desk.reports.remove(&stream("orders"));
    desk.look();
    assert_eq!(desk.write_for(seconds(600)), []);
}
