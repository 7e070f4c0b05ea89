//! The row protocol of DESIGN 4, model-checked: every order of its steps, with two replicas that both believe to hold the
//! source, pauses everywhere, and faults.
//!
//! One tick stands for S, the time within which a reserved request must start. The others are as small as keeps their
//! order: S <= the way to the source < minInterval < D, and a request that is under way for as long as it can be still
//! leaves room for the gap. The source hears of its peer as long as the peer extends, and stops D after the last time.
//!
//! `HEADGATE_MODEL_WIDE=1 cargo test --test model -- --nocapture` goes on to two faults and three events: minutes.

#![expect(clippy::print_stdout, reason = "the number of states is the report")]

mod properties;
mod protocol;
mod replica;
mod response;
mod row;
mod source;
mod variants;

use std::{env, time::Instant};

use stateright::{Checker, HasDiscoveries, Model};

use protocol::{Bounds, Protocol, Times};
use variants::{Broken, Outside, Variant};

impl Times {
    pub(crate) fn usual() -> Self {
        Self { min_interval: 2, send_within: 1, in_flight: 3, at_most_ahead: 1, on_its_way: 1, serves_silent_peer: 3 }
    }
}

impl Bounds {
    /// The least that shows a prefix, a takeover and every fault.
    fn usual() -> Self {
        Self { replicas: 2, events: 2, page: 2, faults: 1 }
    }

    fn wide() -> Self {
        Self { events: 3, faults: 2, ..Self::usual() }
    }
}

fn built() -> Protocol {
    Protocol { variant: Variant::Built, times: Times::usual(), bounds: Bounds::usual(), milestones: false }
}

/// Searches until these properties are violated, and fails if one is not.
fn catch(protocol: Protocol, name: &str, breaks: &[&'static str]) {
    let started = Instant::now();
    let found = HasDiscoveries::AllOf(breaks.iter().copied().collect());
    let checker = protocol.checker().finish_when(found).spawn_bfs().join();
    let states = checker.unique_state_count();
    println!("{name}: caught within {states} states, {:.1?}", started.elapsed());
    for property in breaks {
        let path = checker.assert_any_discovery(property);
        println!("  {property}: {:?}", path.into_actions());
    }
}

#[test]
fn the_protocol_as_built_keeps_its_promises_in_every_order_of_its_steps() {
    let wide = env::var_os("HEADGATE_MODEL_WIDE").is_some();
    let bounds = if wide { Bounds::wide() } else { Bounds::usual() };
    let started = Instant::now();
    let checker = Protocol { bounds, ..built() }.checker().threads(2).spawn_bfs().join();
    println!("as built: holds in {} states, {:.1?}", checker.unique_state_count(), started.elapsed());
    checker.assert_properties();
}

/// After a crash the gap counts from an arrival that nobody saw: RESERVE has left room for the way beside `minInterval`.
#[test]
fn the_gap_is_kept_after_a_crash_however_long_it_and_the_way_are_beside_the_deadline() {
    let usual = Times::usual();
    for times in
        [Times { min_interval: usual.in_flight + 1, ..usual }, Times { on_its_way: usual.on_its_way + 1, ..usual }]
    {
        let bounds = Bounds { faults: 0, ..Bounds::usual() };
        let name = format!("{times:?}");
        let checker = Protocol { times, bounds, ..built() }.checker().threads(2).spawn_bfs().join();
        println!("{name}: holds in {} states", checker.unique_state_count());
        checker.assert_properties();
    }
}

#[test]
fn what_the_promises_speak_of_does_happen() {
    let started = Instant::now();
    let checker = Protocol { milestones: true, ..built() }.checker().spawn_bfs().join();
    println!("as built: all reached within {} states, {:.1?}", checker.unique_state_count(), started.elapsed());
    checker.assert_properties();
}

#[test]
fn each_rule_that_is_left_out_breaks_the_promises_it_is_there_for() {
    for broken in Broken::ALL {
        let bounds = Bounds { faults: broken.faults(), ..Bounds::usual() };
        let protocol = Protocol { variant: Variant::Broken(broken), bounds, ..built() };
        catch(protocol, &format!("{broken:?}"), broken.breaks());
    }
}

/// What the documents name as left: the model must see it, or it does not see what the protocol rests on.
#[test]
fn each_assumption_about_the_world_is_needed() {
    for outside in Outside::ALL {
        let bounds = Bounds { faults: 0, ..Bounds::usual() };
        let protocol =
            Protocol { variant: Variant::Outside(outside), times: outside.times(), bounds, milestones: false };
        catch(protocol, &format!("{outside:?}"), outside.breaks());
    }
}
