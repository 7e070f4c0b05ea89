//! The members that take sources, what each holds, and what nobody holds: the view, prepared for the assignment.

use std::{collections::HashMap, sync::Arc};

use super::{
    assignment::{Seat, bound},
    lease::MemberLease,
    rendezvous::Key,
    view::View,
};
use crate::{event::StreamName, store::Holder};

/// One count of the view.
#[derive(Debug, Default)]
pub struct Roster {
    /// In the order of their holders, the same on every replica.
    pub holders: Vec<Holder>,
    /// The seat of each holder.
    pub seats: Vec<Seat>,
    index: HashMap<Holder, usize>,
    /// Sources that should run.
    pub total: usize,
    /// Those without a living holder, sorted.
    pub orphans: Vec<StreamName>,
    /// Further ones, not in `total`, that nobody can hold for now.
    pub denied: usize,
}

impl Roster {
    /// Counts. A draining member takes nothing, nor does one whose database is lost or has never answered it; when that
    /// is so for all who stay, it makes no difference and they take.
    ///
    /// A source whose claim the API server has denied is left out until the next try: dealt to a member, it would fill a part of
    /// that member's share, which then gets fewer of the others.
    #[must_use]
    pub fn count(
        view: &View,
        streams: Vec<StreamName>,
        is_stuck: impl Fn(&Holder) -> bool,
        is_denied: impl Fn(&StreamName) -> bool,
    ) -> Self {
        let live = || view.members().filter_map(|lease| Some((lease, lease.holder()?)));
        let staying = || live().filter(|(lease, _)| !lease.state.draining);
        let any_database = staying().any(|(lease, _)| lease.state.has_database());
        let newest = newest_template(live().map(|(lease, _)| lease));
        let mut takers: Vec<(&Holder, Seat)> = staying()
            .filter(|(lease, _)| !any_database || lease.state.has_database())
            .map(|(lease, holder)| {
                let seat = Seat {
                    member: Key::of(&lease.pod),
                    held: 0,
                    newest: Some(&lease.template) == newest.as_ref(),
                    stuck: is_stuck(holder),
                };
                (holder, seat)
            })
            .collect();
        takers.sort_by_key(|(holder, _)| *holder);
        let mut roster = Self {
            holders: takers.iter().map(|(holder, _)| (*holder).clone()).collect(),
            seats: takers.iter().map(|(_, seat)| *seat).collect(),
            index: takers.iter().enumerate().map(|(at, (holder, _))| ((*holder).clone(), at)).collect(),
            total: streams.len(),
            orphans: Vec::new(),
            denied: 0,
        };
        roster.count_sources(view, streams, is_denied);
        roster
    }

    /// The seat of a holder that takes sources.
    #[must_use]
    pub fn seat_of(&self, holder: &Holder) -> Option<usize> {
        self.index.get(holder).copied()
    }

    /// The most that one of them takes.
    #[must_use]
    pub fn bound(&self) -> usize {
        bound(self.total, self.seats.len())
    }

    fn count_sources(&mut self, view: &View, streams: Vec<StreamName>, is_denied: impl Fn(&StreamName) -> bool) {
        for stream in streams {
            let holder = view.source(&stream).and_then(|lease| lease.holder.as_ref());
            match holder {
                Some(holder) if view.is_live(holder) => {
                    if let Some(&at) = self.index.get(holder) {
                        self.seats[at].held += 1;
                    }
                }
                _ if is_denied(&stream) => self.denied += 1,
                _ => self.orphans.push(stream),
            }
        }
        self.total -= self.denied;
        self.orphans.sort_unstable();
    }
}

/// The pod template whose first living member began last. All by the API server's clock.
fn newest_template<'a>(live: impl Iterator<Item = &'a MemberLease>) -> Option<Arc<str>> {
    let mut begun = HashMap::new();
    for lease in live {
        let first = begun.entry(lease.template.clone()).or_insert(lease.created);
        *first = std::cmp::min(*first, lease.created);
    }
    begun.into_iter().max_by_key(|(template, first)| (*first, template.clone())).map(|(template, _)| template)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use k8s_openapi::{api::coordination::v1::Lease, apimachinery::pkg::apis::meta::v1::Time};

    use super::*;
    use crate::ownership::lease::SourceLease;

    #[derive(Default)]
    struct Cluster {
        view: View,
        version: u32,
        streams: Vec<StreamName>,
    }

    impl Cluster {
        fn member(mut self, pod: &str, template: &str, began: i64, alter: impl Fn(&mut MemberLease)) -> Self {
            let mut member = MemberLease::begin(pod, 1, template, Duration::from_secs(5));
            member.state.database_silent = Some(Duration::ZERO);
            alter(&mut member);
            let mut lease = member.write(Timestamp::UNIX_EPOCH);
            lease.metadata.creation_timestamp = Some(Time(Timestamp::from_second(began).unwrap()));
            self.apply(lease);
            self
        }

        fn source(mut self, name: &str, holder: Option<&str>) -> Self {
            let stream = StreamName::new("shop", name);
            if let Some(pod) = holder {
                let holder = Holder::new(&format!("{pod}_00000001"));
                self.apply(SourceLease::give(&stream, None, &holder, pod, Timestamp::UNIX_EPOCH));
            }
            self.streams.push(stream);
            self
        }

        fn apply(&mut self, mut lease: Lease) {
            self.version += 1;
            lease.metadata.resource_version = Some(self.version.to_string());
            self.view.apply(&lease);
        }

        fn counted(self) -> Roster {
            self.counted_without("")
        }

        fn counted_without(self, denied: &str) -> Roster {
            Roster::count(&self.view, self.streams, |_| false, |stream| stream.name() == denied)
        }
    }

    fn pods(roster: &Roster, which: impl Fn(&Seat) -> bool) -> Vec<&str> {
        let seats = roster.holders.iter().zip(&roster.seats);
        seats.filter(|(_, seat)| which(seat)).map(|(holder, _)| holder.as_str().split('_').next().unwrap()).collect()
    }

    #[test]
    fn a_source_without_a_living_holder_is_an_orphan_whatever_its_lease_says() {
        let cluster = Cluster::default()
            .member("a", "", 0, |_| {})
            .source("held", Some("a"))
            .source("of-a-dead-holder", Some("b"))
            .source("new", None);
        let roster = cluster.counted();
        assert_eq!(roster.orphans, [StreamName::new("shop", "new"), StreamName::new("shop", "of-a-dead-holder")]);
        assert_eq!(roster.seats[0].held, 1);
    }

    #[test]
    fn what_cannot_be_claimed_makes_nobodys_share_larger() {
        let cluster = Cluster::default().member("a", "", 0, |_| {}).source("held", Some("a")).source("denied", None);
        let roster = cluster.counted_without("denied");
        assert_eq!((roster.orphans.len(), roster.denied, roster.total), (0, 1, 1));
        let held = Cluster::default().member("a", "", 0, |_| {}).source("denied", Some("a")).counted_without("denied");
        assert_eq!((held.seats[0].held, held.denied), (1, 0), "somebody could");
    }

    #[test]
    fn a_lease_of_an_earlier_incarnation_of_the_same_pod_is_an_orphan() {
        let mut cluster = Cluster::default().member("a", "", 0, |_| {});
        let stream = StreamName::new("shop", "orders");
        cluster.apply(SourceLease::give(&stream, None, &Holder::new("a_0000beef"), "a", Timestamp::UNIX_EPOCH));
        cluster.streams.push(stream.clone());
        assert_eq!(cluster.counted().orphans, [stream]);
    }

    #[test]
    fn draining_members_and_members_without_a_database_take_nothing() {
        let roster = Cluster::default()
            .member("a", "", 0, |_| {})
            .member("b", "", 0, |lease| lease.state.draining = true)
            .member("c", "", 0, |lease| lease.state.database_lost = true)
            .member("d", "", 0, |lease| lease.state.database_silent = None)
            .counted();
        assert_eq!(pods(&roster, |_| true), ["a"]);
    }

    #[test]
    fn when_nobody_has_a_database_all_but_the_draining_take() {
        let roster = Cluster::default()
            .member("a", "", 0, |lease| lease.state.database_lost = true)
            .member("b", "", 0, |lease| lease.state.draining = true)
            .member("c", "", 0, |lease| lease.state.database_silent = None)
            .counted();
        assert_eq!(pods(&roster, |_| true), ["a", "c"]);
    }

    #[test]
    fn the_newest_template_is_the_one_whose_first_member_began_last() {
        let roster = Cluster::default()
            .member("old-0", "v1", 10, |_| {})
            // A container of the old template that restarted lately makes it no newer.
            .member("old-1", "v1", 90, |_| {})
            .member("new-0", "v2", 50, |_| {})
            .counted();
        assert_eq!(pods(&roster, |seat| seat.newest), ["new-0"]);
    }
}
