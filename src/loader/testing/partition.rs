//! Replicas that keep member Leases, one of which holds the source, cut off from the API server, from the database, or from
//! both, while the source stays in reach; in paused time. Others take over in the very moment in which they may.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    Frost, World, number,
    source::Odds,
    world::{FakeOwnership, LEASE_DURATION, RENEW_EVERY, Steering},
};
use crate::{
    ownership::Ownership,
    store::{Gate, Holder},
};

const MIN_INTERVAL: Duration = Duration::from_millis(200);
const TICK: Duration = Duration::from_millis(10);

/// What the API server knows of the members.
#[derive(Default)]
struct Leases {
    /// When the last renewal of each living incarnation landed.
    landed: Mutex<HashMap<String, Instant>>,
}

impl Leases {
    fn renew(&self, member: &str) -> bool {
        let mut landed = self.landed.lock().expect("no panic inside");
        landed.get_mut(member).map(|at| *at = Instant::now()).is_some()
    }

    fn join(&self, member: &str) {
        self.landed.lock().expect("no panic inside").insert(member.to_owned(), Instant::now());
    }

    fn declare_dead(&self, member: &str) {
        self.landed.lock().expect("no panic inside").remove(member);
    }

    fn silence(&self, member: &str) -> Option<Duration> {
        self.landed.lock().expect("no panic inside").get(member).map(Instant::elapsed)
    }
}

/// One incarnation, and its task while it holds the source, or did until it learned that it does not.
struct Member {
    name: String,
    ownership: Arc<FakeOwnership>,
    task: Option<(JoinHandle<()>, Steering)>,
}

/// Renews a member Lease until the incarnation has ended and knows it.
async fn renew(name: String, leases: Arc<Leases>, ownership: Arc<FakeOwnership>, mut rng: StdRng) {
    loop {
        let issued = Instant::now();
        sleep(Duration::from_millis(rng.random_range(0..100))).await;
        if !ownership.is_cut_off() {
            let lives = leases.renew(&name);
            sleep(Duration::from_millis(rng.random_range(0..100))).await;
            match (ownership.is_cut_off(), lives) {
                (false, true) => ownership.renewed(&Holder::new(&name), issued),
                (false, false) => return ownership.ended(),
                (true, _) => {}
            }
        }
        sleep(RENEW_EVERY).await;
    }
}

/// What a replica is cut off from.
#[derive(Debug, Clone, Copy)]
enum Cut {
    Api,
    Database,
    Both,
    DatabaseOfAll,
}

struct Story {
    world: World,
    leases: Arc<Leases>,
    members: Vec<Member>,
    holder: usize,
    joined: usize,
    takeovers: usize,
    rng: StdRng,
}

impl Story {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::seeded(seed);
        // A reset has arrived before the time that is left for it, so an overlap is not of the network's making (R3).
        world.source.notices_a_reset_after = Duration::from_millis(50);
        world.source.timeout = Duration::from_secs(30);
        world.source.odds(Odds { fails: 0.0, slow: 0.6, cut: 0.0, never_answers: 0.1 }, Duration::from_millis(5));
        world.object.spec.poll.batch_size = *[20, 1000].get(rng.random_range(0..2)).expect("one of two");
        world.object.spec.poll.max_error_interval = Duration::from_secs(2).into();
        world.store.faults(|faults| faults.latency = Duration::from_millis(20));
        let mut story =
            Self { world, leases: Arc::default(), members: Vec::new(), holder: 0, joined: 0, takeovers: 0, rng };
        (0..3).for_each(|_| story.join());
        story.run_here(0);
        story
    }

    fn join(&mut self) {
        self.joined += 1;
        let name = format!("member-{}", self.joined);
        let ownership = Arc::<FakeOwnership>::default();
        self.leases.join(&name);
        let rng = StdRng::seed_from_u64(self.rng.random());
        tokio::spawn(renew(name.clone(), Arc::clone(&self.leases), Arc::clone(&ownership), rng));
        self.members.push(Member { name, ownership, task: None });
    }

    fn run_here(&mut self, member: usize) {
        let Member { name, ownership, .. } = &self.members[member];
        let (task, steering) = self.world.task_of(name, &Frost::default(), self.rng.random(), Arc::clone(ownership));
        self.members[member].task = Some((tokio::spawn(task.run()), steering));
        self.holder = member;
    }

    fn cut(&self, member: usize, cut: Cut, is: bool) {
        let Member { name, ownership, .. } = &self.members[member];
        ownership.cut_off(is && matches!(cut, Cut::Api | Cut::Both));
        self.world.store.faults(|faults| {
            faults.unavailable = is && matches!(cut, Cut::DatabaseOfAll);
            if is && matches!(cut, Cut::Database | Cut::Both) {
                faults.cut_off.insert(name.clone());
            } else {
                faults.cut_off.remove(name);
            }
        });
    }

    /// Time passes, and whoever may take over does.
    async fn passes(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            sleep(TICK).await;
            let holder = self.members[self.holder].name.clone();
            if self.leases.silence(&holder).is_some_and(|silence| silence >= LEASE_DURATION) {
                self.leases.declare_dead(&holder);
                self.world.store.fence_off(&Holder::new(&holder)).await.expect("never fails here");
                let others = (0..self.members.len()).filter(|member| *member != self.holder);
                let next = others.max_by_key(|member| !self.members[*member].ownership.is_cut_off());
                self.takeovers += 1;
                self.run_here(next.expect("three members"));
            }
            self.stop_those_that_ended();
        }
    }

    /// An incarnation that learned of its end stops its task, and the replica joins anew.
    fn stop_those_that_ended(&mut self) {
        let ended = |member: &Member| {
            self.leases.silence(&member.name).is_none() && !member.ownership.is_cut_off() && member.knows_its_end()
        };
        let Some(member) = self.members.iter().position(ended) else { return };
        if let Some((_, steering)) = &self.members[member].task {
            steering.stop.cancel();
        }
        let holder = self.members[self.holder].name.clone();
        let gone = self.members.remove(member);
        // Its last poll may take long; nobody waits for it.
        drop(gone.task.map(|(task, _)| task));
        self.join();
        let place = |member: &Member| member.name == holder;
        self.holder = self.members.iter().position(place).expect("the holder lives");
    }

    async fn run(mut self, seed: u64, cuts: &[Cut]) -> Told {
        let mut last = 0;
        for _ in 0..8 {
            let more = self.rng.random_range(1..400);
            self.world.source.add((last + 1..=last + more).map(number));
            last += more;
            let quiet = Duration::from_millis(self.rng.random_range(0..3000));
            self.passes(quiet).await;
            let cut = *cuts.get(self.rng.random_range(0..cuts.len())).expect("one of them");
            let victim = self.members[self.holder].name.clone();
            self.cut(self.holder, cut, true);
            let pause = Duration::from_millis(self.rng.random_range(20..20_000));
            self.passes(pause).await;
            let victim = self.members.iter().position(|member| member.name == victim).expect("it is cut off");
            self.cut(victim, cut, false);
            self.passes(Duration::from_secs(3)).await;
        }
        self.world.source.odds(Odds::default(), Duration::from_millis(5));
        let healed = Instant::now();
        while self.world.cursor() != last.to_string() {
            assert!(healed.elapsed() < Duration::from_mins(5), "seed {seed}: stuck at {}", self.world.cursor());
            self.passes(Duration::from_millis(200)).await;
        }
        let ids: Vec<_> = (1..=last).map(|number| number.to_string()).collect();
        assert_eq!(self.world.stored_ids(), ids, "seed {seed}");
        for pair in self.world.source.log().windows(2) {
            assert!(pair[1].start - pair[0].start >= MIN_INTERVAL, "seed {seed}: {pair:#?}");
            assert!(
                pair[0].end.is_some_and(|end| end <= pair[1].start),
                "seed {seed}: two in flight: {:?}",
                pair.iter()
                    .map(|served| (&served.replica, served.start, served.first_byte, served.end, served.ids.len()))
                    .collect::<Vec<_>>()
            );
        }
        self.assert_nobody_took_the_row_back(seed);
        Told { repeats: self.repeats(), lapsed: self.world.requests("lapsed"), takeovers: self.takeovers }
    }

    /// Ids that were served again although what served them before was whole.
    fn repeats(&self) -> usize {
        let mut served = HashSet::new();
        let log = self.world.source.log();
        log.iter()
            .filter(|request| request.usable)
            .flat_map(|request| &request.ids)
            .filter(|id| !served.insert(*id))
            .count()
    }

    /// Each incarnation holds the row once: one that was fenced off does not take it back.
    fn assert_nobody_took_the_row_back(&self, seed: u64) {
        let mut adopters = self.world.store.row(&self.world.stream, |row| row.adopters.clone());
        adopters.dedup();
        let distinct: HashSet<_> = adopters.iter().collect();
        assert_eq!(distinct.len(), adopters.len(), "seed {seed}: {adopters:?}");
    }
}

impl Member {
    fn knows_its_end(&self) -> bool {
        self.ownership.renewals().borrow().is_none()
    }
}

/// What came of a story.
#[derive(Debug, Default)]
struct Told {
    repeats: usize,
    lapsed: u64,
    takeovers: usize,
}

fn run_seeds(cuts: &[Cut]) -> Told {
    let seeds = std::env::var("HEADGATE_TEST_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(16);
    let mut all = Told::default();
    for seed in 0..seeds {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let told = runtime.block_on(async { Story::new(seed).run(seed, cuts).await });
        all.repeats += told.repeats;
        all.lapsed += told.lapsed;
        all.takeovers += told.takeovers;
    }
    all
}

#[test]
fn a_replica_cut_off_from_everything_but_the_source_is_silent_before_another_one_sends() {
    let told = run_seeds(&[Cut::Both]);
    assert!(told.takeovers > 0 && told.lapsed > 0, "nothing was put to the test: {told:?}");
}

#[test]
fn a_replica_cut_off_from_the_api_server_alone_gives_no_response_up_and_leaves_the_row_to_the_next() {
    let told = run_seeds(&[Cut::Api]);
    assert!(told.takeovers > 0, "nothing was put to the test: {told:?}");
    assert_eq!((told.lapsed, told.repeats), (0, 0), "{told:?}");
}

#[test]
fn an_outage_of_the_database_alone_gives_no_response_up_however_long_it_is() {
    let told = run_seeds(&[Cut::Database, Cut::DatabaseOfAll]);
    assert_eq!((told.lapsed, told.repeats, told.takeovers), (0, 0, 0), "{told:?}");
}
