use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use tokio::time::Instant;

/// Stops a replica the way SIGSTOP does: between two steps, without its knowing, while the world goes on.
#[derive(Debug, Clone, Default)]
pub(in crate::loader) struct Frost {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    since: Option<Instant>,
    wakers: Vec<Waker>,
}

impl Frost {
    pub(in crate::loader) fn freeze(&self) {
        self.state.lock().expect("no panic inside").since.get_or_insert_with(Instant::now);
    }

    pub(in crate::loader) fn thaw(&self) {
        let mut state = self.state.lock().expect("no panic inside");
        state.since = None;
        state.wakers.drain(..).for_each(Waker::wake);
    }

    pub(in crate::loader) fn since(&self) -> Option<Instant> {
        self.state.lock().expect("no panic inside").since
    }

    pub(in crate::loader) fn freezable<F: Future>(&self, work: F) -> Freezable<F> {
        Freezable { work: Box::pin(work), frost: self.clone() }
    }
}

/// Work that makes no step while it is frozen.
pub(in crate::loader) struct Freezable<F> {
    work: Pin<Box<F>>,
    frost: Frost,
}

impl<F: Future> Future for Freezable<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        {
            let mut state = self.frost.state.lock().expect("no panic inside");
            if state.since.is_some() {
                state.wakers.push(cx.waker().clone());
                return Poll::Pending;
            }
        }
        self.work.as_mut().poll(cx)
    }
}
