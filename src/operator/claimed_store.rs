//! The store, for the parts that start before it may be used: until the schema is that of this release and the database
//! is claimed for this installation, every verb is answered as by a database that is down.

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{
    event::{EventId, StreamName},
    store::{
        Abort, Adopt, Adopted, Answer, Append, Appended, EventStore, Extend, Forget, Gate, Holder, Reserve, Reserved,
        Reset, StoreError,
    },
};

/// A step that is under way is waited for this long: at a usual start nobody hears of it.
const MOMENT: Duration = Duration::from_millis(1_500);

/// How far the claim is.
#[derive(Debug, Clone)]
pub(super) enum Claim {
    /// Trying to do this.
    UnderWay(&'static str),
    /// The last try found no database.
    Unavailable { action: &'static str, why: Arc<str> },
    /// The store may be used.
    Stands,
}

/// A store behind its claim.
pub(super) struct ClaimedStore<S> {
    store: S,
    claim: watch::Receiver<Claim>,
}

impl<S> ClaimedStore<S> {
    pub(super) fn new(store: S, claim: watch::Receiver<Claim>) -> Self {
        Self { store, claim }
    }

    /// The store, once the claim stands; `None` when it never will.
    pub(super) async fn when_claimed(&self) -> Option<&S> {
        let stands = |claim: &Claim| matches!(claim, Claim::Stands);
        self.claim.clone().wait_for(stands).await.ok().map(|_| &self.store)
    }

    /// The store, or why it may not be used yet.
    async fn claimed(&self) -> Result<&S, StoreError> {
        if matches!(*self.claim.borrow(), Claim::Stands) {
            return Ok(&self.store);
        }
        let mut claim = self.claim.clone();
        let settled = claim.wait_for(|claim| !matches!(claim, Claim::UnderWay(_)));
        // Whatever ended the wait: what follows is how it stands.
        let _ = tokio::time::timeout(MOMENT, settled).await.map(drop);
        let (action, why) = match &*self.claim.borrow() {
            Claim::Stands => return Ok(&self.store),
            Claim::UnderWay(action) => (*action, "this is still under way".into()),
            Claim::Unavailable { action, why } => (*action, why.to_string().into()),
        };
        Err(StoreError::Unavailable { action, source: why })
    }
}

#[async_trait]
impl<S: Gate> Gate for ClaimedStore<S> {
    async fn adopt(&self, adopt: Adopt) -> Result<Answer<Adopted>, StoreError> {
        self.claimed().await?.adopt(adopt).await
    }

    async fn reset(&self, reset: Reset) -> Result<Answer<Adopted>, StoreError> {
        self.claimed().await?.reset(reset).await
    }

    async fn reserve(&self, reserve: Reserve) -> Result<Answer<Reserved>, StoreError> {
        self.claimed().await?.reserve(reserve).await
    }

    async fn extend(&self, extend: Extend) -> Result<Answer<()>, StoreError> {
        self.claimed().await?.extend(extend).await
    }

    async fn abort(&self, abort: Abort) -> Result<Answer<()>, StoreError> {
        self.claimed().await?.abort(abort).await
    }

    async fn forget(&self, forget: Forget) -> Result<Answer<()>, StoreError> {
        self.claimed().await?.forget(forget).await
    }

    async fn fence_off(&self, dead: &Holder) -> Result<u64, StoreError> {
        self.claimed().await?.fence_off(dead).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.claimed().await?.ping().await
    }
}

#[async_trait]
impl<S: EventStore> EventStore for ClaimedStore<S> {
    async fn append(&self, append: &Append) -> Result<Answer<Appended>, StoreError> {
        self.claimed().await?.append(append).await
    }

    async fn find_stored(&self, stream: &StreamName, ids: &[&EventId]) -> Result<HashSet<EventId>, StoreError> {
        self.claimed().await?.find_stored(stream, ids).await
    }

    async fn has_older(&self, stream: &StreamName, id: &EventId) -> Result<bool, StoreError> {
        self.claimed().await?.has_older(stream, id).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::cause::in_one_line;

    fn store(claim: Claim) -> (watch::Sender<Claim>, ClaimedStore<&'static str>) {
        let (claiming, claim) = watch::channel(claim);
        (claiming, ClaimedStore::new("the store", claim))
    }

    async fn answer(store: &ClaimedStore<&'static str>) -> String {
        match store.claimed().await {
            Ok(store) => (*store).to_owned(),
            Err(error @ StoreError::Unavailable { .. }) => in_one_line(&error),
            Err(error) => panic!("{error:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_reaches_an_unclaimed_store_and_all_hear_why() {
        let (claiming, store) = store(Claim::UnderWay("migrate the schema"));
        assert_eq!(
            answer(&store).await,
            "the database is not reachable while trying to migrate the schema: this is still under way"
        );
        claiming.send_replace(Claim::Unavailable { action: "migrate the schema", why: "refused".into() });
        assert_eq!(answer(&store).await, "the database is not reachable while trying to migrate the schema: refused");
        claiming.send_replace(Claim::Stands);
        assert_eq!(answer(&store).await, "the store");
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_while_the_claim_is_under_way_gets_the_store_when_it_stands() {
        let (claiming, store) = store(Claim::UnderWay("claim the installation"));
        let (answer, ()) = tokio::join!(answer(&store), async {
            tokio::time::sleep(MOMENT / 2).await;
            claiming.send_replace(Claim::Stands);
        });
        assert_eq!(answer, "the store");
    }

    #[tokio::test]
    async fn a_claim_that_stands_outlives_the_claiming() {
        let (claiming, store) = store(Claim::Stands);
        drop(claiming);
        assert_eq!(answer(&store).await, "the store");
        assert!(store.when_claimed().await.is_some());
    }
}
