//! When a peer is suspect: its member Lease has been silent for its duration on *my* clock, while I myself was well.
//!
//! No timestamp of a Lease is ever compared with a clock; what counts is when this process saw the Lease change. A
//! suspicion is only the right to try: the peer is dead when one compare-and-set on the very version whose silence was
//! measured succeeds, and everyone sees that same write (DESIGN 6).

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::lease::Version;
use crate::clock::Moment;

/// How many of my renewals are remembered. A peer that wrote nothing after the oldest of them counts as not heard.
const RENEWALS_KEPT: usize = 32;

/// The silence of every peer, as this replica measures it.
#[derive(Debug)]
pub struct Membership {
    /// Two renewals of mine further apart than this: the silence may have been mine (a pause, a slow API server).
    late_after: Duration,
    peers: HashMap<Arc<str>, Peer>,
    /// No silence counts from before this instant.
    listening_since: Instant,
    /// When my last renewal succeeded.
    renewed: Option<Instant>,
    /// The versions that my last renewals wrote, and when each was issued.
    wrote: VecDeque<(u64, Moment)>,
}

#[derive(Debug)]
struct Peer {
    version: Version,
    /// What the Lease itself says, not what I am configured with: mine may be shorter.
    duration: Duration,
    seen: Instant,
}

impl Membership {
    #[must_use]
    pub fn new(late_after: Duration, now: Instant) -> Self {
        Self { late_after, peers: HashMap::new(), listening_since: now, renewed: None, wrote: VecDeque::new() }
    }

    /// A peer's member Lease was seen. The same version seen again is no sign of life.
    pub fn seen(&mut self, lease: &Arc<str>, version: &Version, duration: Duration, now: Instant) {
        let fresh = || Peer { version: version.clone(), duration, seen: now };
        match self.peers.get_mut(lease) {
            Some(peer) if peer.version == *version => {}
            Some(peer) => *peer = fresh(),
            None => {
                self.peers.insert(lease.clone(), fresh());
            }
        }
    }

    /// A peer's member Lease is gone, or names nobody any more. Returns when it was last heard of.
    pub fn gone(&mut self, lease: &str) -> Option<Instant> {
        self.peers.remove(lease).map(|peer| peer.seen)
    }

    /// My own renewal succeeded. When it comes late, whatever silence was measured meanwhile was mine.
    pub fn renewed(&mut self, now: Instant) {
        if !self.is_well(now) {
            self.listening_since = now;
        }
        self.renewed = Some(now);
    }

    /// A renewal of mine that was issued at this moment wrote this version.
    pub fn wrote(&mut self, version: &Version, issued: Moment) {
        let Some(number) = version.number() else { return };
        self.wrote.truncate(RENEWALS_KEPT - 1);
        self.wrote.push_front((number, issued));
    }

    /// Whether this peer is known to have given a sign of life since `within` ago: its Lease has a version that is newer than
    /// what I wrote in that time myself.
    ///
    /// That it was not silent since I began to listen proves nothing of that kind. Right after my start, or after an outage or a
    /// pause of mine, everything that a list shows is new to me, and a connection may hand me what is no longer news.
    #[must_use]
    pub fn is_heard(&self, lease: &str, within: Duration, now: Moment) -> bool {
        let shown = self.peers.get(lease).and_then(|peer| peer.version.number());
        let before = |shown: u64| self.wrote.iter().find(|(mine, _)| *mine < shown);
        shown.and_then(before).is_some_and(|(_, issued)| now.since(*issued) <= within)
    }

    /// My own renewal failed.
    pub fn renewal_failed(&mut self, now: Instant) {
        self.listening_since = now;
    }

    /// Declaring this peer dead was refused: measure anew before trying again.
    pub fn excuse(&mut self, lease: &str, now: Instant) {
        if let Some(peer) = self.peers.get_mut(lease) {
            peer.seen = now;
        }
    }

    /// How long a peer has been silent, as far as I can tell.
    #[must_use]
    pub fn silence(&self, lease: &str, now: Instant) -> Duration {
        self.peers.get(lease).map_or(Duration::ZERO, |peer| {
            now.saturating_duration_since(std::cmp::max(peer.seen, self.listening_since))
        })
    }

    /// The peers whose silence has lasted, each with the version whose silence was measured.
    ///
    /// Empty when my own last renewal is not fresh: a process that wakes from a pause finds everyone silent.
    #[must_use]
    pub fn suspects(&self, now: Instant) -> Vec<(Arc<str>, Version)> {
        if !self.is_well(now) {
            return Vec::new();
        }
        self.peers
            .iter()
            .filter(|(lease, peer)| self.silence(lease, now) >= peer.duration)
            .map(|(lease, peer)| (lease.clone(), peer.version.clone()))
            .collect()
    }

    /// Whether my own last renewal is fresh.
    #[must_use]
    pub fn is_well(&self, now: Instant) -> bool {
        self.renewed.is_some_and(|renewed| now.saturating_duration_since(renewed) <= self.late_after)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::Lease;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    const DURATION: Duration = Duration::from_secs(5);
    const LATE: Duration = Duration::from_secs(3);
    const STEP: Duration = Duration::from_millis(100);
    const ALMOST: Duration = Duration::from_millis(4_900);

    fn version(n: u64) -> Version {
        let mut lease = Lease::default();
        lease.metadata.resource_version = Some(n.to_string());
        Version::of(&lease)
    }

    /// One replica that watches one peer.
    struct Watcher {
        membership: Membership,
        peer: Arc<str>,
        now: Instant,
    }

    impl Watcher {
        fn of_a_peer_at_version(n: u64) -> Self {
            let now = Instant::now();
            let mut watcher = Self { membership: Membership::new(LATE, now), peer: "headgate-member-b".into(), now };
            watcher.membership.renewed(now);
            watcher.sees(n);
            watcher
        }

        fn sees(&mut self, n: u64) {
            self.membership.seen(&self.peer, &version(n), DURATION, self.now);
        }

        /// Time passes while my own renewals succeed.
        fn passes_in_health(&mut self, time: Duration) {
            let until = self.now + time;
            while self.now < until {
                self.now += STEP;
                self.membership.renewed(self.now);
            }
        }

        fn suspects(&self) -> bool {
            !self.membership.suspects(self.now).is_empty()
        }
    }

    #[test]
    fn a_peer_is_suspect_once_its_lease_was_silent_for_its_duration() {
        let mut watcher = Watcher::of_a_peer_at_version(7);
        watcher.passes_in_health(ALMOST);
        assert!(!watcher.suspects());
        watcher.passes_in_health(STEP);
        assert_eq!(watcher.membership.suspects(watcher.now), [(watcher.peer.clone(), version(7))]);
    }

    #[test]
    fn the_same_version_seen_again_is_no_sign_of_life() {
        let mut watcher = Watcher::of_a_peer_at_version(7);
        watcher.passes_in_health(ALMOST);
        watcher.sees(7);
        watcher.passes_in_health(STEP);
        assert!(watcher.suspects());
        watcher.sees(8);
        assert!(!watcher.suspects());
    }

    #[test]
    fn a_process_that_wakes_from_a_pause_suspects_nobody() {
        let mut watcher = Watcher::of_a_peer_at_version(7);
        watcher.now += Duration::from_mins(1);
        assert!(!watcher.suspects(), "before its first renewal");
        watcher.membership.renewed(watcher.now);
        assert!(!watcher.suspects(), "nor after it: the silence was its own");
        watcher.passes_in_health(DURATION);
        assert!(watcher.suspects(), "only a silence measured in health counts");
    }

    #[test]
    fn a_failed_renewal_of_mine_starts_the_silence_again() {
        let mut watcher = Watcher::of_a_peer_at_version(7);
        watcher.passes_in_health(ALMOST);
        watcher.membership.renewal_failed(watcher.now);
        watcher.passes_in_health(ALMOST);
        assert!(!watcher.suspects());
        watcher.passes_in_health(STEP);
        assert!(watcher.suspects());
    }

    /// My renewal of this version was issued at this moment, so long after the start.
    fn wrote(membership: &mut Membership, number: u64, start: Moment, after: Duration) {
        membership.wrote(&version(number), Moment { at: start.at + after, ..start });
    }

    #[test]
    fn a_peer_is_heard_by_what_it_wrote_after_a_fresh_renewal_of_mine_and_by_nothing_else() {
        let start = Moment::now();
        let after = |time| Moment { at: start.at + time, ..start };
        let (mut membership, peer): (_, Arc<str>) = (Membership::new(LATE, start.at), "headgate-member-b".into());
        let sees = |membership: &mut Membership, number| membership.seen(&peer, &version(number), DURATION, start.at);
        sees(&mut membership, 7);
        assert!(
            !membership.is_heard("headgate-member-b", DURATION, start),
            "a list shows it, and nobody knows how old it is"
        );
        wrote(&mut membership, 8, start, Duration::ZERO);
        assert!(!membership.is_heard("headgate-member-b", DURATION, start), "it wrote that before I did");
        sees(&mut membership, 9);
        assert!(membership.is_heard("headgate-member-b", DURATION, start));
        assert!(membership.is_heard("headgate-member-b", DURATION, after(DURATION)));
        assert!(!membership.is_heard("headgate-member-b", DURATION, after(DURATION + STEP)), "that is long ago");
        assert!(!membership.is_heard("headgate-member-c", DURATION, start), "who is that");
    }

    #[test]
    fn news_that_a_connection_kept_during_my_pause_are_no_sign_of_life_after_it() {
        let start = Moment::now();
        let (mut membership, peer): (_, Arc<str>) = (Membership::new(LATE, start.at), "headgate-member-b".into());
        wrote(&mut membership, 8, start, Duration::ZERO);
        let woken = Moment { at: start.at, slept: start.slept + Duration::from_mins(1) };
        for number in 9..30 {
            membership.seen(&peer, &version(number), DURATION, woken.at);
        }
        assert!(!membership.is_heard(&peer, DURATION, woken));
        membership.wrote(&version(30), woken);
        assert!(!membership.is_heard(&peer, DURATION, woken));
        membership.seen(&peer, &version(31), DURATION, woken.at);
        assert!(membership.is_heard(&peer, DURATION, woken));
    }

    #[test]
    fn over_thousands_of_random_histories_a_suspect_was_silent_in_health_for_its_whole_duration() {
        for seed in 0..2_000 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut watcher = Watcher::of_a_peer_at_version(0);
            let (mut peer_version, mut trouble, mut changed) = (0, watcher.now, watcher.now);
            let mut last_renewed = watcher.now;
            for _ in 0..300 {
                let pause = if rng.random_bool(0.01) { rng.random_range(0..80) } else { 1 };
                watcher.now += STEP * pause;
                match rng.random_range(0..20) {
                    0 => {
                        watcher.membership.renewal_failed(watcher.now);
                        trouble = watcher.now;
                    }
                    1..=12 => {
                        if watcher.now - last_renewed > LATE {
                            trouble = watcher.now;
                        }
                        watcher.membership.renewed(watcher.now);
                        last_renewed = watcher.now;
                    }
                    13 => {
                        peer_version += 1;
                        watcher.sees(peer_version);
                        changed = watcher.now;
                    }
                    _ => watcher.sees(peer_version),
                }
                let silent_in_health = watcher.now - std::cmp::max(trouble, changed) >= DURATION;
                let well = watcher.now - last_renewed <= LATE;
                assert_eq!(watcher.suspects(), silent_in_health && well, "seed {seed}");
            }
        }
    }
}
