//! Fakes behind the ports, with fault knobs, for paused time: the row protocol in memory, a source that notes what it
//! really served, and the parts that a test puts together.

mod freeze;
mod marks;
mod page;
mod partition;
mod row;
mod simulation;
mod source;
mod store;
mod world;

pub(super) use freeze::Frost;
pub(super) use row::FakeRow;
pub(super) use source::{FakeSource, Odds, Script, Served};
pub(super) use store::{FakeStore, Faults};
pub(super) use world::{Steering, World, event, number};
