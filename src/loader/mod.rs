//! The life of one source: adopt, reserve, send, append, pace. Imports ports only (DESIGN 9).
//!
//! | file | what it is |
//! |---|---|
//! | [`supervisor`](Supervisor) | one task per held source, as ownership directs and the desired set says |
//! | `held` | one source of the supervisor: its Lease, and what runs for it |
//! | `task` | the life of one source: open, adopt, poll until told otherwise |
//! | `forget` | FORGET of a deleted object |
//! | `poll` | one pass: connect, memory, reserve, exchange, pace |
//! | `reserve` | RESERVE and ABORT, the waits of the row |
//! | `row_lock` | a row that another session keeps locked |
//! | `exchange` | SEND, read, EXTEND, append while reading |
//! | `extend` | EXTEND, while a request runs and after it was given up |
//! | `intake` | where the reader of a response and the committer of its prefixes meet |
//! | `lapse` | when a response is given up, because another replica may be next |
//! | `append` | COMMIT, repeated until the row has answered |
//! | `prefix` | which part of a page may be committed (pure) |
//! | `pace` | when to ask next, and for how much (pure) |
//! | `buffer` | the byte budget of the process |
//! | `guard`, `send_limit` | what this process knows of its own requests; S |
//! | [`report`] | what one source was last seen to do |
//! | [`reports`] | those of all held sources, for who looks |
//! | `reporter` | who says it: in the report, and in the log |
//! | `settings` | what the loader needs of a spec |
//! | `context` | what a source shares with the others of its process |

mod append;
pub mod buffer;
mod context;
mod exchange;
mod extend;
mod forget;
mod guard;
mod held;
mod intake;
mod lapse;
mod pace;
mod poll;
mod prefix;
pub mod report;
mod reporter;
pub mod reports;
mod reserve;
mod row_lock;
mod send_limit;
mod settings;
mod supervisor;
mod task;
#[cfg(test)]
mod testing;

pub use supervisor::{Ports, Supervisor};
