//! The promises P1 to P7 of DESIGN 2, on whole replicas as processes, with a real PostgreSQL and a real API server: what
//! the sources saw, and what the store holds at the end.

mod chaos;
mod handover;
mod hostile;
mod isolation;
mod lifecycle;
mod outage;
mod reasons;
mod refusal;
mod start;
mod tls_front;
mod world;
