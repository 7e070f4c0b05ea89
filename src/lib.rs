//! Headgate collects immutable events from many remote, rate-limited sources into one PostgreSQL store,
//! with any number of equal replicas, without ever transporting the same event twice.
//!
//! The map of the crate, from the ground up. A room imports only rooms that stand above it in this list,
//! and of `store`, `fetch` and `ownership` only the ports (the traits of their `mod.rs`); only [`operator`]
//! names the adapters behind them.
//!
//! | room | what it is |
//! |---|---|
//! | [`mutation`] | rules left out on purpose, for the check of the chaos run. Nothing without the feature `mutations` |
//! | [`clock`] | this machine's clocks, where a suspended machine must be noticed |
//! | `deadline` | the end of the time for an answer, for a process that may have been frozen |
//! | [`backoff`] | waits that grow while something fails |
//! | [`event`] | events, their ids, cursors and streams |
//! | [`permit`] | the right to send one request, which can be spent once |
//! | [`api`] | the custom resource: types, rules, conditions, reasons. No IO |
//! | [`telemetry`] | logs and metrics |
//! | [`desired`] | what should run: written by `controller`, read by `ownership` and `loader` |
//! | [`store`] | the gate and the event store; `store::postgres` is the adapter |
//! | [`fetch`] | asking a source; `fetch::http` and `fetch::credentials::kubernetes` are the adapters, `fetch::decode` the formats |
//! | [`ownership`] | which sources this replica holds; `ownership::kubernetes` is the adapter |
//! | [`loader`] | the life of one source: adopt, reserve, send, append, pace |
//! | [`controller`] | EventSource -> what should run; the status writer; Kubernetes events |
//! | [`admin`] | probes, metrics, `/v1/sources` |
//! | [`cli`] | the command line |
//! | [`operator`] | puts the parts together |
//!
//! An event's way: `fetch::http` -> `fetch::decode` -> `loader` -> `store::postgres`.
//! An EventSource's way: `controller` (watch) -> `desired` -> `ownership` -> `loader` -> `controller` (status).

pub mod admin;
pub mod api;
pub mod backoff;
pub mod cli;
pub mod clock;
pub mod controller;
pub(crate) mod deadline;
pub mod desired;
pub mod event;
pub mod fetch;
pub mod loader;
pub mod mutation;
pub mod operator;
pub mod ownership;
pub mod permit;
pub mod store;
pub mod telemetry;
