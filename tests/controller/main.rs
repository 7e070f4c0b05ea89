//! The controller against the real API server: what users apply becomes what runs, and what runs becomes what they see.

mod cluster;
mod credentials;
mod outage;
mod replica;
mod seen;
mod wanted;
