//! The database as ownership sees it: it fences off, and it answers or not.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;

use crate::store::{Abort, Adopt, Adopted, Answer, Extend, Forget, Gate, Holder, Reserve, Reserved, Reset, StoreError};

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
        self.reach()
    }
}
