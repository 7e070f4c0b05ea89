//! The seeded driver: replicas are killed, frozen and terminated by plan while they load, and the checker has the last
//! word.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::fleet::Fleet;
use crate::narrate::say;
use crate::nemesis::{Planned, Strike};

/// A terminating replica has this long to hand off and end.
const PATIENCE: Duration = Duration::from_mins(1);

/// What is due, in the order of time.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deed {
    Kill,
    Pause,
    Resume,
    Terminate,
    /// After a kill.
    Start,
    /// After a termination, which must have ended well.
    StartAgain,
}

/// Does what was planned, in real time, and then waits until `length` is over. Every replica runs at the end.
///
/// # Errors
/// When a replica cannot be started, or does not end well after SIGTERM.
pub async fn strike(fleet: &mut Fleet, plan: &[Planned], length: Duration) -> Result<()> {
    let begun = Instant::now();
    let mut due: BinaryHeap<Reverse<(Duration, Deed, &str)>> = BinaryHeap::new();
    for Planned { at, replica, strike } in plan {
        let (first, then) = match strike {
            Strike::Kill { .. } => (Deed::Kill, Deed::Start),
            Strike::Freeze { .. } => (Deed::Pause, Deed::Resume),
            Strike::Terminate { .. } => (Deed::Terminate, Deed::StartAgain),
        };
        due.push(Reverse((*at, first, replica)));
        due.push(Reverse((*at + strike.over_after(), then, replica)));
    }
    while let Some(Reverse((at, deed, replica))) = due.pop() {
        tokio::time::sleep(at.saturating_sub(begun.elapsed())).await;
        say(format_args!("{:>6.1} s  {deed:?} {replica}", begun.elapsed().as_secs_f64()));
        let done = match deed {
            Deed::Kill => fleet.kill(replica).await,
            Deed::Pause => fleet.pause(replica),
            Deed::Resume => fleet.resume(replica),
            Deed::Terminate => fleet.ask_to_end(replica),
            Deed::Start => fleet.start(replica),
            Deed::StartAgain => match fleet.ended(replica, PATIENCE).await {
                Ok(()) => fleet.start(replica),
                failed => failed,
            },
        };
        done.with_context(|| format!("{deed:?} {replica}"))?;
    }
    tokio::time::sleep(length.saturating_sub(begun.elapsed())).await;
    Ok(())
}
