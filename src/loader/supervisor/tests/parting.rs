//! What is left of sources that went.

use super::*;
use crate::{
    admin::{Admin, Sources},
    clock::Moment,
};

impl Replica {
    /// All that a scrape finds.
    pub(super) fn exposition(&self) -> String {
        let sources = Sources { desired: self.desired.clone(), reports: self.world.reports.clone() };
        let admin = Admin { health: Health::starting(), registry: Arc::clone(&self.world.registry), sources };
        admin.metrics(Moment::now()).expect("a text")
    }

    /// The series of the source.
    fn series(&self) -> Vec<String> {
        let label = format!("stream=\"{}\"", self.world.stream);
        self.exposition().lines().filter(|line| line.contains(&label)).map(str::to_owned).collect()
    }

    fn tells(&self, series: &str) -> bool {
        self.series().iter().any(|line| line == series)
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_is_counted_while_it_is_held_and_leaves_no_series_when_it_is_handed_off_or_deleted() {
    let replica = replica(World::with_events(3));
    let stream = replica.stream();
    replica.wants(|_| {});
    replica.holds_the_lease();
    until("counted", || replica.tells("headgate_events_appended_total{stream=\"shop/orders\"} 3")).await;
    replica.world.source.add([number(4)]);
    until("counted on", || replica.tells("headgate_events_appended_total{stream=\"shop/orders\"} 4")).await;
    let asked = replica.world.source.log().len();
    let pages = format!("headgate_requests_total{{stream=\"shop/orders\",outcome=\"page\"}} {asked}");
    until("each request counted", || replica.tells(&pages)).await;

    replica.direct(Directive::Yield(stream.clone()));
    until("yielded", || replica.world.ownership.told().yielded.len() == 1).await;
    assert_eq!(replica.series(), Vec::<String>::new(), "handed off");

    replica.holds_the_lease();
    until("counted again", || !replica.series().is_empty()).await;
    replica.desired.remove(&stream);
    until("finished", || replica.world.ownership.told().finished.len() == 1).await;
    assert_eq!(replica.series(), Vec::<String>::new(), "deleted");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_sources_that_came_and_went_leave_the_metrics_as_long_as_they_were() {
    let replica = replica(World::with_events(1));
    replica.desired.mark_complete();
    let lines = || replica.exposition().lines().count();
    let before = lines();
    let streams: Vec<_> = (0..1000).map(|of| StreamName::new("shop", &format!("orders-{of}"))).collect();
    for stream in &streams {
        replica.desired.put(Arc::new(Source { stream: stream.clone(), ..replica.world.object.clone() }));
        replica.direct(Directive::Run(Holding { stream: stream.clone(), ..replica.world.holding("a") }));
    }
    until("all are counted", || lines() >= before + 2 * streams.len()).await;
    for stream in &streams {
        replica.desired.remove(stream);
    }
    until("all are gone", || replica.world.ownership.told().finished.len() == streams.len()).await;
    assert_eq!(lines(), before);
}

/// Yields in the middle of a request. Returns how many reports are kept for the case that nobody takes over.
async fn kept_of_what_is_yielded(meanwhile: impl FnOnce(&Replica)) -> usize {
    let replica = replica(World::with_events(300));
    let stream = replica.stream();
    replica.world.source.next([Script::Slow(100, Duration::from_millis(700))]);
    replica.wants(|_| {});
    replica.holds_the_lease();
    until("a request", || !replica.world.source.log().is_empty()).await;
    replica.direct(Directive::Yield(stream.clone()));
    sleep(Duration::from_millis(300)).await;
    meanwhile(&replica);
    until("yielded", || replica.world.ownership.told().yielded == [stream.clone()]).await;
    replica.world.reports.left_to_nobody(&[stream]);
    replica.world.reports.take_parted().len()
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_of_a_source_whose_object_goes_while_it_is_yielded() {
    assert_eq!(kept_of_what_is_yielded(|_| {}).await, 1);
    assert_eq!(kept_of_what_is_yielded(|replica| replica.desired.remove(&replica.stream())).await, 0);
}
