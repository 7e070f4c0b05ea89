//! The replica's side of the fake source: what the loader holds of it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{FakeSource, Served, Server};
use crate::{
    api::Source,
    clock::Moment,
    fetch::{Failure, FetchError, Fetcher, OpenError, PageRequest, Progress, Reply, Transports},
    loader::testing::{
        freeze::Frost,
        page::{FakePage, Wire, cut},
    },
    permit::Permit,
};

pub(in crate::loader) struct FakeFetcher {
    pub(super) source: FakeSource,
    pub(super) replica: String,
    pub(super) frost: Frost,
}

#[async_trait]
impl Fetcher for FakeFetcher {
    async fn connect(&mut self) -> Result<(), FetchError> {
        let handshake = self.source.lock().handshakes.pop_front().unwrap_or_default();
        if !handshake.is_zero() {
            sleep(handshake).await;
        }
        self.source.lock().connect_errors.pop_front().map_or(Ok(()), Err)
    }

    async fn send(&mut self, permit: Permit, page: &PageRequest) -> Result<Reply, Failure> {
        if permit.spend(Moment::now()).is_err() {
            return Err(Failure { error: FetchError::PermitExpired, progress: Progress::NeverLeft });
        }
        if self.source.found_closed() {
            return Err(Failure { error: FetchError::ClosedWhileIdle, progress: Progress::NeverLeft });
        }
        let (wire, mut answer) = mpsc::channel(4);
        let (source, frost, request) = (self.source.clone(), self.frost.clone(), page.clone());
        let uplink = source.delay();
        let replica = self.replica.clone();
        tokio::spawn(async move {
            sleep(uplink).await;
            let served = Served {
                replica,
                after: request.after.id().map(|id| id.as_str().to_owned()),
                limit: request.limit,
                start: Instant::now(),
                first_byte: None,
                end: None,
                ids: Vec::new(),
                usable: false,
                rotations: source.lock().rotations,
            };
            let number = {
                let mut inner = source.lock();
                inner.log.push(served);
                inner.log.len() - 1
            };
            let script = source.choose();
            Server { source, frost, number, wire }.serve(script, &request).await;
        });
        let first = answer.recv().await;
        let first_byte = Instant::now();
        match first {
            Some(Wire::Prepared) => Ok(Reply::Prepared { first_byte }),
            Some(Wire::Head { holds_back }) => {
                let kept = Arc::clone(&self.source.kept);
                Ok(Reply::Page(Box::new(FakePage::new(first_byte, answer, holds_back, kept))))
            }
            Some(Wire::Fails(error)) => Err(Failure { error, progress: Progress::ReadToEnd { first_byte } }),
            Some(Wire::FailsUnread(error)) => {
                Err(Failure { error, progress: Progress::MayBeServed { first_byte: Some(first_byte) } })
            }
            _ => Err(cut(None)),
        }
    }

    async fn reload_credentials(&mut self) -> Result<bool, OpenError> {
        let reloading = {
            let mut inner = self.source.lock();
            inner.reloads += 1;
            inner.reloading
        };
        sleep(reloading).await;
        let mut inner = self.source.lock();
        if let Some(error) = inner.open_errors.front() {
            return Err(error.clone());
        }
        let rotated = std::mem::take(&mut inner.rotated);
        inner.rotations += usize::from(rotated);
        Ok(rotated)
    }

    fn timeout(&self) -> Duration {
        self.source.timeout
    }
}

pub(in crate::loader) struct FakeTransports {
    pub(super) source: FakeSource,
    pub(super) replica: String,
    pub(super) frost: Frost,
}

#[async_trait]
impl Transports for FakeTransports {
    async fn open(&self, _: &Arc<Source>) -> Result<Box<dyn Fetcher>, OpenError> {
        let refused = {
            let mut inner = self.source.lock();
            inner.opens += 1;
            inner.open_errors.pop_front()
        };
        match refused {
            Some(error) => Err(error),
            None => Ok(Box::new(self.source.fetcher(&self.replica, &self.frost))),
        }
    }
}
