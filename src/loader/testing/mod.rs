//! Fakes behind the ports, with fault knobs, for paused time: the row protocol in memory, a source that notes what it
//! really served, and the parts that a test puts together.

mod row;
mod source;
mod store;
mod world;

mod freeze;
mod simulation;

pub(super) use row::FakeRow;
pub(super) use source::{FakeSource, Odds, Script, Served};
pub(super) use store::FakeStore;
pub(super) use world::{FakeOwnership, Polling, World, event, number};
