//! The end of the time for an answer, for a process that may have been frozen when it came.

use std::{pin::pin, time::Duration};

use tokio::time::{Instant, timeout, timeout_at};

/// A timer that is this late waited for more than its turn: the process was stopped, its container was throttled, or the
/// machine is so busy that the same may have happened to a socket.
const LATE: Duration = Duration::from_millis(10);

/// How long it may then take to read what has arrived. A process that wakes sees its timers go off before it has looked at a
/// socket: a stop interrupts `epoll_wait`, which then tells of none.
///
/// It is given to each call of [`before`], so a reader that calls it piece by piece could have it again and again. What bounds it
/// for a whole response is the outer call, around all that is read of it (`loader::exchange`).
const CATCH_UP: Duration = Duration::from_millis(250);

/// The time for an answer was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeOver;

/// What `answer` comes to, if it comes before `end`. Who was frozen at the end reads first what had come before: what is given up
/// is transported again (P3). Whether the answer may still be stored, and the source asked again, is for the row to say.
///
/// # Errors
/// When it has not come.
pub(crate) async fn before<T>(end: Instant, answer: impl Future<Output = T>) -> Result<T, TimeOver> {
    let mut answer = pin!(answer);
    // Not a select: `timeout_at` strikes also where there is always something to read, which leaves a plain timer no turn.
    match timeout_at(end, &mut answer).await {
        Ok(answer) => Ok(answer),
        Err(_) if end.elapsed() > LATE => timeout(CATCH_UP, answer).await.map_err(|_| TimeOver),
        Err(_) => Err(TimeOver),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        sync::oneshot,
        task::yield_now,
        time::{advance, sleep},
    };

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_come_is_given_up_when_its_time_is_over_and_not_later() {
        let begun = Instant::now();
        assert_eq!(before(begun + SECOND, std::future::pending::<()>()).await, Err(TimeOver));
        // Timers have a resolution of a millisecond.
        assert!(begun.elapsed() <= SECOND + Duration::from_millis(1), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_frozen_at_the_end_reads_what_its_sockets_show_a_moment_later() {
        for frozen_for in [SECOND + Duration::from_millis(20), 2 * SECOND] {
            let (arrive, arrived) = oneshot::channel();
            let reading = tokio::spawn(before(Instant::now() + SECOND, arrived));
            yield_now().await;
            advance(frozen_for).await;
            sleep(Duration::from_millis(1)).await;
            arrive.send("events").expect("it still listens");
            assert_eq!(reading.await.expect("no panic"), Ok(Ok("events")), "frozen for {frozen_for:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_always_has_more_to_read_is_given_up_too() {
        let begun = Instant::now();
        // As a socket does that is never empty: it spends all of the task's turn, and comes again.
        let endless = async {
            loop {
                tokio::task::consume_budget().await;
                if begun.elapsed() > 5 * SECOND {
                    return;
                }
                if tokio::task::coop::has_budget_remaining() {
                    continue;
                }
                advance(Duration::from_millis(100)).await;
            }
        };
        assert_eq!(before(begun + SECOND, endless).await, Err(TimeOver));
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_frozen_waits_for_nothing_that_had_not_come() {
        let reading = tokio::spawn(before(Instant::now() + SECOND, std::future::pending::<()>()));
        yield_now().await;
        advance(2 * SECOND).await;
        let given_up = timeout(CATCH_UP + Duration::from_millis(10), reading).await;
        assert_eq!(given_up.expect("soon").expect("no panic"), Err(TimeOver));
    }
}
