//! The dice. Servers, sources and each replica have a timeline of their own; now and then all replicas are restarted one by
//! one, or scaled to one, to five and to one again.

use std::collections::VecDeque;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::{Peer, Planned, Strike};
use crate::forwarder::{Road, Way};
use crate::source::Fault;

/// Who can be struck.
#[derive(Debug, Clone, Copy)]
pub struct Cast<'a> {
    /// The replicas that run at the beginning, and at the end.
    pub replicas: &'a [String],
    /// Those that join for a while.
    pub further: &'a [String],
    pub sources: &'a [String],
}

/// The shortest and longest time between two strikes on the same replica, on the servers, and on the sources.
const PAUSES: (u64, u64) = (3_000, 12_000);
const SERVER_PAUSES: (u64, u64) = (8_000, 25_000);
const STORM_PAUSES: (u64, u64) = (5_000, 20_000);

/// From one change of the number of replicas to the next one, or to the next restart.
const BETWEEN_SCENES: Duration = Duration::from_mins(4);
/// One replica after the other.
const ROLLING_STEP: Duration = Duration::from_secs(5);
/// At one replica; then at five.
const SCALED_DOWN: Duration = Duration::from_secs(12);
const SCALED_UP: Duration = Duration::from_secs(18);
/// A replica that was terminated may be this late: no handoff without an API server.
const DRAINING: Duration = Duration::from_secs(20);
/// From SIGTERM to SIGKILL, where the drain is not to end: one that is well takes half a second.
const DRAINED_FOR: (u64, u64) = (5, 400);
/// A replica that cannot renew its Lease is taken for dead after 5 s: these end soon after others have its sources.
const TAKEOVER: (u64, u64) = (6_500, 10_000);
/// Replicas are overtaken for the first time this early, with COMMITs under way and then with bodies in flight, and once
/// between any two changes of the number of replicas. All of the scene fits before the first of them in the shortest run.
const FIRST_OVERTAKEN: Duration = Duration::from_secs(8);
const COMMITS_OVERTAKEN_WITHIN: Duration = Duration::from_secs(12);
const BODIES_OVERTAKEN_WITHIN: Duration = Duration::from_secs(9);
/// From when replicas cannot renew their Leases to when they can again.
const OVERTAKEN_FOR: Duration = Duration::from_millis(7_500);
/// Sources send slowly, so that the replica is in the middle of a body nearly always: a COMMIT follows soon.
const MID_BODY: Fault = Fault::SlowBody { ms: 1_000 };
const MID_BODY_FOR: Duration = Duration::from_secs(3);
const OVERTAKEN_AFTER: Duration = Duration::from_millis(1_500);
/// It arrives when the sources have been taken over (3.5 to 5 s after the last renewal, and what that takes), and before those
/// that took them over have an answer. They would notice it a second later, by their next EXTEND.
const LATE: Duration = Duration::from_secs(6);
/// Sources think from here on: whoever they were answering before has heard all of it.
const THINKING_AFTER: Duration = Duration::from_millis(3_500);
const THINKING_FOR: Duration = Duration::from_millis(8_500);
const THINKING: Fault = Fault::Thinks { ms: 1_900 };
/// Longer than RESERVE by itself keeps others away (S, D and the gap: some 3.5 s), and within `http.timeout`. When the sources are
/// taken over nobody knows to the second, so they begin to be slow one part after the other.
const LONG_BODY: Fault = Fault::SlowBody { ms: 4_600 };
const LONG_BODY_AFTER: [Duration; 3] =
    [Duration::from_millis(400), Duration::from_secs(2), Duration::from_millis(3_600)];
/// Bodies that began before are at their end when the next replica may be struck.
const NO_LONG_BODY_AFTER: Duration = Duration::from_millis(6_500);
const OUT_OF_SIGHT_AFTER: Duration = Duration::from_millis(1_200);
/// A replica that was away is a member again within this.
const REJOINING: Duration = Duration::from_secs(5);

/// A run shorter than this has shorter outages, so that it still sees some of each kind.
const SHORT: Duration = Duration::from_mins(5);

/// Request bytes are late by less than D (3 s) less the longest time that a source serves one request whose sender is gone
/// (1.5 s), which is longer than `minInterval`: docs/guarantees.md says why.
const LATEST_REQUEST_MS: u64 = 800;
/// How long a source goes on with a request whose sender is gone, at most.
pub const LONGEST_SERVING_MS: u64 = 1_500;

/// Plans a run of this length, in the order of time. A replica is left alone until it is back from the last strike.
#[must_use]
pub fn plan(seed: u64, cast: Cast<'_>, length: Duration) -> Vec<Planned> {
    let mut planner = Planner { dice: StdRng::seed_from_u64(seed), length, plan: Vec::new() };
    planner.servers();
    planner.storms(cast.sources);
    let mut scenes = planner.overtakings(cast);
    scenes.extend(planner.scenes(cast));
    for (place, replica) in cast.replicas.iter().enumerate() {
        let first = [planner.first_strike(place), planner.overtaking(place)];
        planner.strikes(replica, first, &scenes);
    }
    planner.plan.sort_by(|a, b| (a.at, &a.whom).cmp(&(b.at, &b.whom)));
    planner.plan
}

struct Planner {
    dice: StdRng,
    length: Duration,
    plan: Vec<Planned>,
}

impl Planner {
    fn is_short(&self) -> bool {
        self.length < SHORT
    }

    fn push(&mut self, at: Duration, whom: &str, strike: Strike) {
        self.plan.push(Planned { at, whom: whom.to_owned(), strike });
    }

    fn millis(&mut self, (least, most): (u64, u64)) -> Duration {
        Duration::from_millis(self.dice.random_range(least..=most))
    }

    fn servers(&mut self) {
        let longest_outage = if self.is_short() { 15_000 } else { 60_000 };
        let mut at = self.millis(SERVER_PAUSES);
        while at < self.length {
            let (whom, strike) = match self.dice.random_range(0..12) {
                0..2 => ("kube-apiserver", Strike::StopApiServer { lasting: self.millis((2_000, longest_outage)) }),
                2..4 => ("etcd", Strike::StopEtcd { lasting: self.millis((100, 5_000)) }),
                4..6 => ("postgres", Strike::CrashPostgres { lasting: self.millis((100, 3_000)) }),
                6..8 => ("postgres", Strike::StopPostgres { lasting: self.millis((100, 8_000)) }),
                8..10 => ("postgres", Strike::KillSession { nth: self.dice.random() }),
                _ => ("postgres", Strike::EndSession { nth: self.dice.random() }),
            };
            let until = at + strike.over_after();
            self.push(at, whom, strike);
            at = until + self.millis(SERVER_PAUSES);
        }
    }

    fn storms(&mut self, sources: &[String]) {
        let mut at = self.millis(STORM_PAUSES);
        while at < self.length {
            let fault = match self.dice.random_range(0..7) {
                0 => Fault::Status(503),
                1 => Fault::Status(500),
                2 => Fault::RateLimited { seconds: self.dice.random_range(1..4), as_date: self.dice.random() },
                3 => Fault::CutBody { share: self.dice.random_range(0.05..0.95) },
                4 => Fault::SlowBody { ms: self.dice.random_range(100..=LONGEST_SERVING_MS) },
                5 => Fault::NoticesLate { ms: self.dice.random_range(0..=LONGEST_SERVING_MS) },
                _ => Fault::NeverAnswers,
            };
            let struck = self.dice.random_range(sources.len().div_ceil(4)..=sources.len());
            let mut on: Vec<String> = sources.sample(&mut self.dice, struck).cloned().collect();
            on.sort();
            let lasting = self.millis((1_000, 8_000));
            self.push(at, "sources", Strike::Storm { on, fault, lasting });
            at += lasting + self.millis(STORM_PAUSES);
        }
    }

    /// Replicas that live are overtaken, and nothing but the row stands between them and those who have their sources then.
    /// Returns when these scenes have the replicas for themselves.
    fn overtakings(&mut self, cast: Cast<'_>) -> Vec<(Duration, Duration)> {
        let within = COMMITS_OVERTAKEN_WITHIN + BODIES_OVERTAKEN_WITHIN;
        let mut scenes = Vec::new();
        let mut at = FIRST_OVERTAKEN;
        while at + within < self.length {
            scenes.push((at, at + within));
            at += BETWEEN_SCENES;
        }
        // Nothing else may excuse what comes twice, or keep anybody from taking over.
        self.plan.retain(|it| !scenes.iter().any(|(from, until)| it.at < *until && *from < it.until() + REJOINING));
        for (from, _) in &scenes {
            // All but one: who has just come may hold nothing yet. The heir of the first ones has nearly all that they had.
            let heir = self.dice.random_range(0..cast.replicas.len());
            let next = (heir + 1) % cast.replicas.len();
            self.late_commits(cast, *from, &cast.replicas[heir]);
            self.bodies_in_flight(cast, *from + COMMITS_OVERTAKEN_WITHIN, &cast.replicas[next]);
        }
        scenes
    }

    /// What replicas commit arrives at the database when others have taken the source over, and have asked for the same again
    /// and have no answer yet. It finds the cursor where it was, and the attempt of somebody else: nothing but the attempt keeps
    /// it from storing what is on its way a second time.
    fn late_commits(&mut self, cast: Cast<'_>, at: Duration, heir: &String) {
        for overtaken in cast.replicas.iter().filter(|replica| *replica != heir) {
            let strike = Strike::Overtaken { late: LATE, lasting: OVERTAKEN_FOR };
            self.push(at + OVERTAKEN_AFTER, overtaken, strike);
        }
        self.on_all(cast, at, MID_BODY, MID_BODY_FOR);
        self.on_all(cast, at + THINKING_AFTER, THINKING, THINKING_FOR);
    }

    /// Replicas go on in health while others take their sources over: these find a body in flight that takes longer than anybody
    /// knew when it was asked for. Nothing but the deadline, which was extended since, keeps them from asking beside it.
    fn bodies_in_flight(&mut self, cast: Cast<'_>, at: Duration, heir: &String) {
        for overtaken in cast.replicas.iter().filter(|replica| *replica != heir) {
            let strike = Strike::Lines { to: vec![Peer::ApiServer], road: Road::Cut, lasting: OVERTAKEN_FOR };
            self.push(at + OUT_OF_SIGHT_AFTER, overtaken, strike);
        }
        let part = cast.sources.len().div_ceil(LONG_BODY_AFTER.len());
        for (on, after) in cast.sources.chunks(part).zip(LONG_BODY_AFTER) {
            let storm =
                Strike::Storm { on: on.to_vec(), fault: LONG_BODY, lasting: NO_LONG_BODY_AFTER.saturating_sub(after) };
            self.push(at + after, "sources", storm);
        }
    }

    fn on_all(&mut self, Cast { sources, .. }: Cast<'_>, at: Duration, fault: Fault, lasting: Duration) {
        self.push(at, "sources", Strike::Storm { on: sources.to_vec(), fault, lasting });
    }

    /// Restarts and changes of the number of replicas. Returns when they have the replicas for themselves.
    fn scenes(&mut self, cast: Cast<'_>) -> Vec<(Duration, Duration)> {
        let mut scenes = Vec::new();
        let mut at = BETWEEN_SCENES.min(self.length) / 2;
        let mut scales: bool = self.dice.random();
        while at + SCALED_DOWN * 2 + SCALED_UP < self.length {
            let until = if scales { self.scale(cast, at) } else { self.roll(cast.replicas, at) };
            scenes.push((at, until));
            at += BETWEEN_SCENES;
            scales = !scales;
        }
        // Nobody can be drained while no Lease can be written.
        let is_in_the_way = |outage: &Planned| {
            scenes.iter().any(|(from, until)| outage.at < *until + DRAINING && *from < outage.until())
        };
        self.plan.retain(|planned| !planned.strike.stops_the_api() || !is_in_the_way(planned));
        scenes
    }

    fn roll(&mut self, replicas: &[String], mut at: Duration) -> Duration {
        for replica in replicas {
            let back_after = self.millis((200, 2_000));
            self.push(at, replica, Strike::Terminate { back_after });
            at += ROLLING_STEP;
        }
        at
    }

    fn scale(&mut self, Cast { replicas, further, .. }: Cast<'_>, at: Duration) -> Duration {
        let (up, down) = (at + SCALED_DOWN, at + SCALED_DOWN + SCALED_UP);
        for replica in &replicas[1..] {
            self.push(at, replica, Strike::Terminate { back_after: SCALED_DOWN });
            self.push(down, replica, Strike::Terminate { back_after: SCALED_DOWN });
        }
        for replica in further {
            self.push(up, replica, Strike::Join { lasting: SCALED_UP });
        }
        down + SCALED_DOWN
    }

    /// So that no plan goes without any of these.
    fn first_strike(&mut self, place: usize) -> Strike {
        match place % 3 {
            0 => Strike::Kill { back_after: self.millis((200, 6_000)) },
            1 => Strike::Freeze { lasting: self.millis((2_500, 10_000)) },
            _ => Strike::Terminate { back_after: self.millis((200, 3_000)) },
        }
    }

    /// Others take its sources over while the replica lives and has a request in flight, or a batch to commit: what the row
    /// is there for.
    fn overtaking(&mut self, place: usize) -> Strike {
        let lasting = self.millis(TAKEOVER);
        match place % 3 {
            0 => Strike::Lines { to: vec![Peer::ApiServer], road: Road::Cut, lasting },
            1 => Strike::Lines { to: vec![Peer::ApiServer, Peer::Database], road: Road::Cut, lasting },
            _ => Strike::Freeze { lasting },
        }
    }

    fn strikes(&mut self, replica: &str, first: [Strike; 2], scenes: &[(Duration, Duration)]) {
        let mut at = self.millis(PAUSES);
        let mut first = VecDeque::from(first);
        while at < self.length {
            let mut strike = first.pop_front().unwrap_or_else(|| self.strike());
            if matches!(strike, Strike::Terminate { .. }) && self.has_no_api(at) {
                strike = Strike::Kill { back_after: strike.over_after() };
            }
            let until = at + strike.over_after();
            let scene = scenes.iter().find(|(from, end)| at < *end && until + REJOINING > *from);
            if let Some((_, end)) = scene {
                first.push_front(strike);
                at = *end;
            } else {
                self.push(at, replica, strike);
                at = until;
            }
            at += self.millis(PAUSES);
        }
    }

    /// Whether a replica that is terminated then finds nobody to write its handoffs.
    fn has_no_api(&self, at: Duration) -> bool {
        let outages = self.plan.iter().filter(|planned| planned.strike.stops_the_api());
        outages.into_iter().any(|outage| outage.at < at + DRAINING && at < outage.until() + DRAINING)
    }

    fn strike(&mut self) -> Strike {
        let (longest_freeze, longest_cut) = if self.is_short() { (15_000, 12_000) } else { (30_000, 30_000) };
        match self.dice.random_range(0..18) {
            0..5 => Strike::Kill { back_after: self.millis((200, 6_000)) },
            5 => {
                let drained_for = self.millis(DRAINED_FOR);
                Strike::KillWhileDraining { drained_for, back_after: self.millis((200, 6_000)) }
            }
            // Most freezes are shorter than the member Lease, some are much longer: both sides of the deadline count.
            6..8 => Strike::Freeze { lasting: self.millis((20, 2_500)) },
            8..10 => Strike::Freeze { lasting: self.millis((2_500, longest_freeze)) },
            10 => Strike::Terminate { back_after: self.millis((200, 3_000)) },
            11..13 => Strike::ClockJump { seconds: self.jump(), lasting: self.millis((1_000, longest_cut)) },
            _ => {
                let to = self.peers();
                let road = self.road(&to);
                Strike::Lines { to, road, lasting: self.millis((500, longest_cut)) }
            }
        }
    }

    /// A second to a month, ahead or back.
    fn jump(&mut self) -> i64 {
        const MINUTE: i64 = 60;
        const DAY: i64 = 24 * 60 * MINUTE;
        let longest = *[MINUTE, DAY, 30 * DAY].choose(&mut self.dice).expect("it is not empty");
        let seconds = self.dice.random_range(1..=longest);
        if self.dice.random() { seconds } else { -seconds }
    }

    /// One of the three mostly, several sometimes.
    fn peers(&mut self) -> Vec<Peer> {
        const ALL: [Peer; 3] = [Peer::ApiServer, Peer::Database, Peer::Sources];
        let count = *[1, 1, 1, 1, 2, 3].choose(&mut self.dice).expect("it is not empty");
        let mut peers: Vec<Peer> = ALL.sample(&mut self.dice, count).copied().collect();
        peers.sort();
        peers
    }

    fn road(&mut self, to: &[Peer]) -> Road {
        match self.dice.random_range(0..6) {
            0..2 => Road::Cut,
            2 => Road::Swallows(Way::Up),
            3 => Road::Swallows(Way::Down),
            _ if to.contains(&Peer::Sources) => {
                Road::Slow { up: self.millis((0, LATEST_REQUEST_MS)), down: self.millis((0, 500)) }
            }
            // Between COMMIT and its answer; the limit of a statement is 5 s.
            _ => Road::Slow { up: self.millis((0, 200)), down: self.millis((50, 4_000)) },
        }
    }
}

#[cfg(test)]
mod tests;
