//! The database as ownership sees it: it fences off, and it answers the supervisor or not.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;

use crate::{
    ownership::Ownership,
    store::{Abort, Adopt, Adopted, Answer, Extend, Forget, Gate, Holder, Reserve, Reserved, Reset, StoreError},
};

/// How often the supervisor asks, and how long an answer takes.
const EVERY: Duration = Duration::from_secs(2);
const ANSWERED_AFTER: Duration = Duration::from_millis(150);

/// The database, shared by all.
#[derive(Default)]
pub(super) struct FakeGate {
    pub(super) fenced: Mutex<Vec<Holder>>,
    pub(super) down: AtomicBool,
}

/// One replica's way to it.
pub(super) struct PodGate {
    pub(super) shared: Arc<FakeGate>,
    pub(super) down: Arc<AtomicBool>,
}

impl PodGate {
    fn reach(&self) -> Result<(), StoreError> {
        if self.shared.down.load(Ordering::Relaxed) || self.down.load(Ordering::Relaxed) {
            let source = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
            return Err(StoreError::Unavailable { action: "reach the fake database", source: source.into() });
        }
        Ok(())
    }
}

#[async_trait]
impl Gate for PodGate {
    async fn adopt(&self, _: Adopt) -> Result<Answer<Adopted>, StoreError> {
        unreachable!("the loader adopts")
    }

    async fn reset(&self, _: Reset) -> Result<Answer<Adopted>, StoreError> {
        unreachable!("the loader resets")
    }

    async fn reserve(&self, _: Reserve) -> Result<Answer<Reserved>, StoreError> {
        unreachable!("the loader reserves")
    }

    async fn extend(&self, _: Extend) -> Result<Answer<()>, StoreError> {
        unreachable!("the loader extends")
    }

    async fn abort(&self, _: Abort) -> Result<Answer<()>, StoreError> {
        unreachable!("the loader aborts")
    }

    async fn forget(&self, _: Forget) -> Result<Answer<()>, StoreError> {
        unreachable!("the loader forgets")
    }

    async fn fence_off(&self, dead: &Holder) -> Result<u64, StoreError> {
        self.reach()?;
        self.shared.fenced.lock().unwrap().push(dead.clone());
        Ok(1)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        unreachable!("the supervisor asks")
    }
}

/// Asks as the supervisor of the loader does. Ends never.
pub(super) async fn ask(gate: Arc<PodGate>, ownership: &dyn Ownership) {
    loop {
        tokio::time::sleep(ANSWERED_AFTER).await;
        if gate.reach().is_ok() {
            ownership.database_answered();
        }
        tokio::time::sleep(EVERY).await;
    }
}
