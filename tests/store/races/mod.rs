//! The races of the row protocol on a real server: what a lock, a lost answer, a crash, a promotion, a clock and another
//! release can do to a row, and what they cannot. `make test` runs this binary on two versions of PostgreSQL.
//!
//! | file | what races |
//! |---|---|
//! | `gap` | RESERVE with transactions that lock its row, roll back or commit |
//! | `flight` | whole polls of many clients, some of which crash and answer late |
//! | `bulk` | statements over the same streams, each in another order |
//! | `lost_answer` | a statement that was committed, and the connection that should say so |
//! | `killed` | polls with the end of their sessions, and with crashes of the server |
//! | `pooled` | the sessions of many clients, through pgbouncer in transaction mode |
//! | `promotion` | a primary with a standby that has not seen all of it, or is gone |
//! | `clock` | the database's clock with the waits that were written by it |
//! | `release` | this release with the schema of an older and of a newer one |
//! | `reapplied` | a request in flight with a new object, a reset or a deletion of its stream |

mod bulk;
pub(crate) mod clock;
mod flight;
mod gap;
mod killed;
mod link;
mod lost_answer;
mod pooled;
mod promotion;
mod reapplied;
mod release;
