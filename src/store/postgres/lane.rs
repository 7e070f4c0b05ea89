//! Group commit: the calls of one verb that come close together share a statement, and each gets its own answer.
//!
//! [`Queue`] decides what goes when. Here its decisions are run: each statement in a task of its
//! own, so that a caller that goes away takes nobody's answer with it, and each waiting caller with a timer of its own,
//! so that nothing has to watch over a lane in which nobody waits.

use std::{
    error::Error,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::StreamExt as _;
use tokio::{
    select,
    sync::{Notify, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    answer::Answers,
    failure::refuses_sessions,
    queue::{Calls, Limits, Next, Queue, Request},
    session::CONNECT_LIMIT,
};
use crate::store::StoreError;

/// What answers many requests at once: in production a statement of the store.
pub(super) trait Statement<Q: Request>: Clone + Send + Sync + 'static {
    /// One answer for each request, in their order.
    fn run(&self, requests: &[Q]) -> impl Future<Output = Result<Answers<Q::Answer>, StoreError>> + Send;
}

/// How many calls of a statement that failed are asked alone at a time: one that hangs holds few others up, and they leave
/// connections to those who are not concerned.
const AT_ONCE: usize = 4;

type Reply<Q> = oneshot::Sender<Result<<Q as Request>::Answer, StoreError>>;

/// The calls of one verb.
pub(super) struct Lane<Q: Request> {
    queue: Arc<Mutex<Queue<Q, Reply<Q>>>>,
    /// A statement has ended and what waits may go sooner than it knew: one of those who wait looks again.
    sooner: Arc<Notify>,
}

impl<Q: Request> Clone for Lane<Q> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), sooner: self.sooner.clone() }
    }
}

impl<Q: Request> Lane<Q> {
    pub(super) fn new(limits: Limits) -> Self {
        Self { queue: Arc::new(Mutex::new(Queue::new(limits))), sooner: Arc::default() }
    }

    /// Asks, alone or with others, and waits for the answer to this request. For a statement that takes it, it waits as long
    /// as one waits for a connection.
    pub(super) async fn ask(&self, statement: &impl Statement<Q>, request: Q) -> Result<Q::Answer, StoreError> {
        let (reply, mut answer) = oneshot::channel();
        let entered = Instant::now();
        let patience_ends = request.patience().ends;
        let mut place = self.queue().enter(request, reply, entered);
        let (mut taken, mut patient, mut minds) = (false, true, false);
        loop {
            // Nothing waits: this call is under way.
            let Some(next) = self.issue(statement) else { return answer.await.unwrap_or_else(|_| Err(unanswered())) };
            select! {
                biased;
                answer = &mut answer => return answer.unwrap_or_else(|_| Err(unanswered())),
                () = sleep_until(entered + CONNECT_LIMIT), if !taken => {
                    // Under the lock under which a statement takes it: it is either in one or never will be.
                    taken = !self.queue().withdraw(place);
                    if !taken {
                        return Err(StoreError::NotBegun { waited: CONNECT_LIMIT });
                    }
                }
                () = patience_ends.cancelled(), if patient => {
                    (patient, place.ripe) = (false, Instant::now());
                    self.queue().hurry(place, place.ripe);
                }
                // Whoever could have gone before, and found too many statements under way, looks again a second later.
                () = self.sooner.notified() => minds = true,
                () = sleep_until(if minds { next } else { next.max(place.ripe) }) => minds = false,
            }
        }
    }

    /// Issues what is due. Returns when to look again, if anything waits.
    fn issue(&self, statement: &impl Statement<Q>) -> Option<Instant> {
        loop {
            let next = self.queue().next(Instant::now(), Reply::<Q>::is_closed);
            match next {
                Next::Issue(calls) => drop(tokio::spawn(self.clone().run(statement.clone(), calls))),
                Next::NotBefore(at) => return Some(at),
                Next::Nothing => return None,
            }
        }
    }

    async fn run(self, statement: impl Statement<Q>, calls: Calls<Q, Reply<Q>>) {
        let under_way = UnderWay { lane: &self, ticket: calls.ticket };
        answer(&statement, calls.requests, calls.replies).await;
        drop(under_way);
        if self.issue(&statement).is_some() {
            self.sooner.notify_one();
        }
    }

    /// A panic cannot leave the queue half written where it matters: a call that was lost is one without an answer.
    fn queue(&self) -> MutexGuard<'_, Queue<Q, Reply<Q>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A statement under way. However it ends, the lane goes on.
struct UnderWay<'a, Q: Request> {
    lane: &'a Lane<Q>,
    ticket: u64,
}

impl<Q: Request> Drop for UnderWay<'_, Q> {
    fn drop(&mut self) {
        self.lane.queue().ended(self.ticket);
    }
}

/// Runs one statement, and tells each caller its own answer. That a caller has gone changes nothing for the others.
async fn answer<Q: Request>(statement: &impl Statement<Q>, requests: Vec<Q>, replies: Vec<Reply<Q>>) {
    match statement.run(&requests).await {
        Ok(answers) => {
            for (reply, answer) in replies.into_iter().zip(answers) {
                let _ = reply.send(answer);
            }
        }
        Err(StoreError::Unavailable { action, source }) if replies.len() > 1 => {
            let source = Shared(source.into());
            for reply in replies {
                let _ = reply.send(Err(StoreError::Unavailable { action, source: Box::new(source.clone()) }));
            }
        }
        // Asked alone, each would log in once more, as often as the server lets nobody in.
        Err(StoreError::Failed { action, sqlstate, source }) if replies.len() > 1 && refuses_sessions(&sqlstate) => {
            let source = Shared(source.into());
            for reply in replies {
                let (sqlstate, source) = (sqlstate.clone(), Box::new(source.clone()));
                let _ = reply.send(Err(StoreError::Failed { action, sqlstate, source }));
            }
        }
        Err(error) if replies.len() == 1 => {
            if let Some(reply) = replies.into_iter().next() {
                let _ = reply.send(Err(error));
            }
        }
        // The database said no, or ended it at its time limit: it may be the fault of one of them, so it goes on as if they
        // had never met. Nothing of the statement was done, and each verb may be repeated after a lost answer anyway.
        Err(_) => {
            let failed = Instant::now();
            let stay = |(_, reply): &(&Q, Reply<Q>)| !reply.is_closed();
            let each = futures::stream::iter(requests.iter().zip(replies).filter(stay));
            each.for_each_concurrent(AT_ONCE, async |(request, reply)| {
                // As long as one waits for a statement that is shared: what failed left nothing, so none has this call.
                let waited = failed.elapsed();
                let answer = if waited < CONNECT_LIMIT {
                    answer_alone(statement, request).await
                } else {
                    Err(StoreError::NotBegun { waited })
                };
                let _ = reply.send(answer);
            })
            .await;
        }
    }
}

async fn answer_alone<Q: Request>(statement: &impl Statement<Q>, request: &Q) -> Result<Q::Answer, StoreError> {
    let answers = statement.run(std::slice::from_ref(request)).await?;
    answers.into_iter().next().unwrap_or_else(|| Err(unanswered()))
}

fn unanswered() -> StoreError {
    StoreError::Unavailable {
        action: "ask together with others",
        source: "the statement ended without an answer".into(),
    }
}

/// One cause, told to many.
#[derive(Debug, Clone)]
struct Shared(Arc<dyn Error + Send + Sync>);

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Shared {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

#[cfg(test)]
mod tests;
