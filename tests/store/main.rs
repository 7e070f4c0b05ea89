//! The SQL of the store against a real PostgreSQL: each test holds one property of the row protocol (DESIGN 4 and 5).

#![expect(clippy::unwrap_used, reason = "in a test a failed step is a failed test")]

mod adoption;
mod append;
mod coalesce;
mod database;
mod faults;
mod forget;
mod gate;
mod marks;
mod opaque_digits;
mod plans;
mod races;
mod replica;
mod reread;
mod retention;
mod upkeep;
