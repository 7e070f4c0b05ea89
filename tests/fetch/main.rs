//! The HTTP adapter against servers of raw sockets that record what really arrives.

mod authentication;
mod bodies;
mod connecting;
mod egress;
mod portions;
mod proxies;
mod raw;
mod requests;
mod secrecy;
mod statuses;
mod tls;
mod tls_by_hand;
mod world;
