use std::{
    net::Ipv4Addr,
    sync::{
        Condvar,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures::future::join_all;
use rstest::rstest;
use tokio::time::sleep;

use super::*;

/// A resolver that is silent for names that begin with `silent`, until it is let go.
#[derive(Default)]
struct Resolver {
    let_go: Mutex<bool>,
    changed: Condvar,
    /// Lookups that hold a thread, and the most there were at a time.
    blocked: AtomicUsize,
    most: AtomicUsize,
    asked: AtomicUsize,
}

impl Resolver {
    fn resolve(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        self.asked.fetch_add(1, SeqCst);
        self.most.fetch_max(self.blocked.fetch_add(1, SeqCst) + 1, SeqCst);
        if name.starts_with("silent") {
            let let_go = self.let_go.lock().expect("no panic inside");
            drop(self.changed.wait_while(let_go, |let_go| !*let_go).expect("no panic inside"));
        }
        self.blocked.fetch_sub(1, SeqCst);
        assert!(!name.starts_with("broken"), "a defect of a resolver");
        if name.starts_with("unknown") {
            return Err(io::Error::other("not known"));
        }
        Ok(vec![(Ipv4Addr::LOCALHOST, 0).into()])
    }

    fn let_go(&self) {
        *self.let_go.lock().expect("no panic inside") = true;
        self.changed.notify_all();
    }
}

/// Names as that resolver knows them. Lets it go at its end, or the threads would outlive the test.
struct World {
    resolver: Arc<Resolver>,
    names: SystemNames,
}

impl Drop for World {
    fn drop(&mut self) {
        self.resolver.let_go();
    }
}

/// Of a zone of two labels.
const PLACES_OF_A_ZONE: usize = 48;

/// Long enough for what needs a thread, and no more than that.
const SOON: Duration = Duration::from_secs(20);

impl World {
    fn new() -> Self {
        let resolver = Arc::new(Resolver::default());
        let names = SystemNames::resolved_by({
            let resolver = Arc::clone(&resolver);
            move |name| resolver.resolve(name)
        });
        Self { resolver, names }
    }

    async fn ask(&self, name: &str, within: Duration) -> Result<Vec<SocketAddr>, LookupError> {
        self.names.addresses(name, 8080, Instant::now() + within).await
    }

    /// As a source with a short `http.timeout` asks.
    async fn ask_in_haste(&self, name: &str) -> Result<Vec<SocketAddr>, LookupError> {
        self.ask(name, Duration::from_millis(10)).await
    }

    async fn ask_all_in_haste(&self, names: impl Iterator<Item = String>) {
        let asked = join_all(names.map(|name| async move { self.ask_in_haste(&name).await })).await;
        assert!(asked.iter().all(Result::is_err), "none has an answer");
    }

    async fn all_places_are_free(&self) {
        let asked = Instant::now();
        while self.names.places.available_permits() < PLACES {
            assert!(asked.elapsed() < SOON, "a place was not given back");
            sleep(Duration::from_millis(5)).await;
        }
        assert!(locked(&self.names.running).is_empty(), "nothing is kept of names that nobody asks for");
    }

    /// What the zone of two labels has left.
    fn places_left(&self, zone: &str) -> usize {
        self.names.places_of(zone, PLACES_OF_A_ZONE).available_permits()
    }
}

#[tokio::test]
async fn lookups_that_were_given_up_take_no_more_threads_than_there_are_places_and_queue_for_none() {
    let world = World::new();
    world.ask_all_in_haste((0..1000).map(|of| format!("silent.zone-{of}.example"))).await;
    let begun = PLACES - world.names.places.available_permits();
    assert!(begun > 0, "nothing was put to the test");
    world.resolver.let_go();
    world.all_places_are_free().await;
    world.ask("orders.example", SOON).await.expect("an address");
    assert_eq!(world.resolver.asked.load(SeqCst), begun + 1, "what was given up while it waited was never begun");
    assert!(world.resolver.most.load(SeqCst) <= PLACES);
}

#[tokio::test]
async fn a_silent_zone_leaves_the_names_of_every_other_room() {
    let world = World::new();
    world.ask_all_in_haste((0..1000).map(|of| format!("silent-{of}.attacker.example"))).await;
    assert!(world.resolver.blocked.load(SeqCst) <= PLACES_OF_A_ZONE);
    let others: Vec<_> = (0..100).map(|of| format!("orders.other-{of}.example")).collect();
    for found in join_all(others.iter().map(|other| world.ask(other, SOON))).await {
        assert_eq!(found.expect("an address"), [SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))]);
    }
}

#[rstest]
#[case::of_a_registry("attacker.co.uk", "orders.partner.co.uk")]
#[case::of_a_cluster("attacker.svc.cluster.local", "orders.shop.svc.cluster.local")]
#[tokio::test]
async fn a_silent_zone_leaves_its_neighbours_under_one_suffix_room(#[case] silent: &str, #[case] neighbour: &str) {
    let world = World::new();
    for _ in 0..3 {
        world.ask_all_in_haste((0..1000).map(|of| format!("silent-{of}.{silent}"))).await;
    }
    world.ask(neighbour, SOON).await.expect("an address");
}

#[tokio::test]
async fn all_who_ask_for_one_name_share_one_lookup_and_who_asks_later_asks_anew() {
    let world = World::new();
    let (answers, ()) = tokio::join!(join_all((0..100).map(|_| world.ask("silent.example", SOON))), async {
        while world.resolver.asked.load(SeqCst) == 0 {
            sleep(Duration::from_millis(5)).await;
        }
        world.resolver.let_go();
    });
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!((world.resolver.asked.load(SeqCst), world.resolver.most.load(SeqCst)), (1, 1));
    world.ask("silent.example", SOON).await.expect("an address");
    assert_eq!(world.resolver.asked.load(SeqCst), 2);
    world.all_places_are_free().await;
}

#[tokio::test]
async fn who_waits_for_a_place_is_told_that_others_have_them_all() {
    let world = World::new();
    let late = world.ask_in_haste("silent-0.attacker.example").await.expect_err("no answer");
    assert!(matches!(late, LookupError::Late), "{late}");
    world.ask_all_in_haste((1..1000).map(|of| format!("silent-{of}.attacker.example"))).await;
    while world.places_left("attacker.example") > 0 {
        world.ask_all_in_haste((1..1000).map(|of| format!("silent-{of}.attacker.example"))).await;
    }
    let no_place = world.ask_in_haste("orders.attacker.example").await.expect_err("no place");
    assert!(matches!(no_place, LookupError::NoPlace), "{no_place}");
}

#[tokio::test]
async fn a_lookup_that_fails_or_breaks_off_gives_its_place_back() {
    let world = World::new();
    for name in ["unknown.example", "broken.example"] {
        let error = world.ask(name, SOON).await.expect_err("no address");
        assert!(matches!(error, LookupError::NoAddress(_)), "{error}");
    }
    world.all_places_are_free().await;
}

#[test]
fn a_name_is_counted_in_each_zone_that_it_may_be_of() {
    for (name, expected) in [
        (
            "a.b.orders.example.com",
            &[("b.orders.example.com", 12), ("orders.example.com", 24), ("example.com", 48)][..],
        ),
        (
            "orders.shop.svc.cluster.local.",
            &[("shop.svc.cluster.local", 12), ("svc.cluster.local", 24), ("cluster.local", 48)],
        ),
        ("orders.partner.co.uk", &[("partner.co.uk", 24), ("co.uk", 48)]),
        ("orders.example.com", &[("example.com", 48)]),
        ("example.com", &[("example.com", 48)]),
        ("orders", &[("orders", 48)]),
    ] {
        assert_eq!(zones(name).collect::<Vec<_>>(), expected, "{name}");
    }
}
