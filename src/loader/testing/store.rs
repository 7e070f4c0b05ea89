use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::{sleep, timeout};

use super::FakeRow;
use crate::{
    clock::Moment,
    event::{EventId, StreamName},
    store::{
        Abort, Adopt, Adopted, Answer, Append, Appended, EventStore, Extend, Forget, Gate, Holder, Patience, Reserve,
        Reserved, Reset, StoreError,
    },
};

/// What may go wrong between a replica and the database.
#[derive(Debug, Clone, Default)]
pub(in crate::loader) struct Faults {
    /// No statement arrives.
    pub(in crate::loader) unavailable: bool,
    /// The same for these replicas alone; nor do answers that are under way.
    pub(in crate::loader) cut_off: BTreeSet<String>,
    /// This part of the statements is applied and their answer lost.
    pub(in crate::loader) lose_answers: f64,
    /// This part of the statements finds the row locked.
    pub(in crate::loader) lock: f64,
    /// The longest time that a statement takes each way.
    pub(in crate::loader) latency: Duration,
    /// No statement takes what is asked.
    pub(in crate::loader) busy: bool,
    /// How long a reservation or an abort waits for a connection before it is issued.
    pub(in crate::loader) queue: Duration,
    /// Nobody else reserves: who waits for company waits as long as it may.
    pub(in crate::loader) lonely: bool,
    /// An append of more events than this is ended by the database.
    pub(in crate::loader) too_slow_above: Option<usize>,
    /// The next statements of a verb whose answers are lost.
    pub(in crate::loader) lose_next: Vec<&'static str>,
}

struct Inner {
    rows: HashMap<StreamName, FakeRow>,
    faults: Faults,
    /// The verbs that were asked, in order.
    verbs: Vec<&'static str>,
    /// Reservations that wait for company.
    waiting: usize,
    reserves: Vec<Reserve>,
    extends: Vec<Extend>,
    appends: Vec<Append>,
    rng: StdRng,
}

/// The store in memory. A statement once sent is carried out even if its sender is frozen or dead.
#[derive(Clone)]
pub(in crate::loader) struct FakeStore {
    inner: Arc<Mutex<Inner>>,
    /// Who asks over this connection.
    replica: Option<Arc<str>>,
}

#[derive(Debug, thiserror::Error)]
#[error("the test says so")]
struct Said;

fn unavailable(action: &'static str) -> StoreError {
    StoreError::Unavailable { action, source: Box::new(Said) }
}

impl FakeStore {
    pub(in crate::loader) fn new(seed: u64) -> Self {
        let inner = Inner {
            rows: HashMap::new(),
            faults: Faults::default(),
            verbs: Vec::new(),
            waiting: 0,
            reserves: Vec::new(),
            extends: Vec::new(),
            appends: Vec::new(),
            rng: StdRng::seed_from_u64(seed),
        };
        Self { inner: Arc::new(Mutex::new(inner)), replica: None }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no test panics inside the store")
    }

    /// The connection of one replica.
    pub(in crate::loader) fn asked_by(&self, replica: &str) -> Self {
        Self { replica: Some(replica.into()), ..self.clone() }
    }

    pub(in crate::loader) fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.lock().faults);
    }

    pub(in crate::loader) fn row<T>(&self, stream: &StreamName, read: impl FnOnce(&mut FakeRow) -> T) -> T {
        read(self.lock().rows.get_mut(stream).expect("the row exists"))
    }

    pub(in crate::loader) fn has_row(&self, stream: &StreamName) -> bool {
        self.lock().rows.contains_key(stream)
    }

    pub(in crate::loader) fn asked(&self, verb: &str) -> usize {
        self.lock().verbs.iter().filter(|asked| **asked == verb).count()
    }

    pub(in crate::loader) fn waiting(&self) -> usize {
        self.lock().waiting
    }

    pub(in crate::loader) fn reserves(&self) -> Vec<Reserve> {
        self.lock().reserves.clone()
    }

    pub(in crate::loader) fn extends(&self) -> Vec<Extend> {
        self.lock().extends.clone()
    }

    pub(in crate::loader) fn appends(&self) -> Vec<Append> {
        self.lock().appends.clone()
    }

    async fn statement<T: Send + 'static>(
        &self,
        verb: &'static str,
        stream: StreamName,
        apply: impl FnOnce(&mut Inner) -> Answer<T> + Send + 'static,
    ) -> Result<Answer<T>, StoreError> {
        if self.lock().faults.busy {
            return Err(StoreError::NotBegun { waited: Duration::from_secs(3) });
        }
        let store = self.clone();
        let carried_out = async move {
            let (there, back) = store.latency();
            sleep(there).await;
            let answer = store.carry_out(verb, &stream, apply);
            sleep(back).await;
            if store.is_cut_off_alone() { Err(unavailable(verb)) } else { answer }
        };
        // Spawned, so that neither a freeze nor a crash of the sender stops what is already on its way.
        tokio::spawn(carried_out).await.map_err(|_| unavailable(verb))?
    }

    async fn queued(&self) {
        let queue = self.lock().faults.queue;
        sleep(queue).await;
    }

    async fn in_company(&self, patience: &Patience) {
        if self.lock().faults.lonely {
            self.lock().waiting += 1;
            let _ = timeout(patience.longest, patience.ends.cancelled()).await;
            self.lock().waiting -= 1;
        }
    }

    fn is_cut_off(&self) -> bool {
        self.is_cut_off_alone() || self.lock().faults.unavailable
    }

    fn is_cut_off_alone(&self) -> bool {
        self.replica.as_ref().is_some_and(|replica| self.lock().faults.cut_off.contains(&**replica))
    }

    fn latency(&self) -> (Duration, Duration) {
        let mut inner = self.lock();
        let longest = inner.faults.latency;
        (longest.mul_f64(inner.rng.random()), longest.mul_f64(inner.rng.random()))
    }

    fn carry_out<T>(
        &self,
        verb: &'static str,
        stream: &StreamName,
        apply: impl FnOnce(&mut Inner) -> Answer<T>,
    ) -> Result<Answer<T>, StoreError> {
        let cut_off = self.is_cut_off();
        let mut inner = self.lock();
        inner.verbs.push(verb);
        if cut_off {
            return Err(unavailable(verb));
        }
        let lock = inner.faults.lock;
        if inner.rng.random_bool(lock) {
            return Ok(Answer::Locked);
        }
        let known = inner.rows.contains_key(stream) || verb == "adopt";
        let answer = if known { apply(&mut inner) } else { Answer::Refused(None) };
        let told = inner.faults.lose_next.iter().position(|lost| *lost == verb);
        if let Some(told) = told {
            inner.faults.lose_next.remove(told);
            return Err(unavailable(verb));
        }
        let lose = inner.faults.lose_answers;
        if inner.rng.random_bool(lose) { Err(unavailable(verb)) } else { Ok(answer) }
    }
}

impl Inner {
    fn row(&mut self, stream: &StreamName) -> &mut FakeRow {
        self.rows.get_mut(stream).expect("checked before")
    }
}

#[async_trait]
impl Gate for FakeStore {
    async fn adopt(&self, adopt: Adopt) -> Result<Answer<Adopted>, StoreError> {
        self.statement("adopt", adopt.stream.clone(), move |inner| {
            inner.rows.entry(adopt.stream.clone()).or_insert_with(|| FakeRow::new(&adopt)).adopt(&adopt)
        })
        .await
    }

    async fn reset(&self, reset: Reset) -> Result<Answer<Adopted>, StoreError> {
        self.statement("reset", reset.stream.clone(), move |inner| inner.row(&reset.stream).reset(&reset)).await
    }

    async fn reserve(&self, reserve: Reserve) -> Result<Answer<Reserved>, StoreError> {
        self.in_company(&reserve.patience).await;
        self.queued().await;
        let issued = Moment::now();
        self.statement("reserve", reserve.stream.clone(), move |inner| {
            inner.reserves.push(reserve.clone());
            inner.row(&reserve.stream).reserve(&reserve, issued)
        })
        .await
    }

    async fn extend(&self, extend: Extend) -> Result<Answer<()>, StoreError> {
        self.statement("extend", extend.stream.clone(), move |inner| {
            inner.extends.push(extend.clone());
            inner.row(&extend.stream).extend(&extend)
        })
        .await
    }

    async fn abort(&self, abort: Abort) -> Result<Answer<()>, StoreError> {
        self.queued().await;
        self.statement("abort", abort.stream.clone(), move |inner| inner.row(&abort.stream).abort(&abort)).await
    }

    async fn forget(&self, forget: Forget) -> Result<Answer<()>, StoreError> {
        let answer = self
            .statement("forget", forget.stream.clone(), move |inner| inner.row(&forget.stream).forget(&forget))
            .await?;
        Ok(if answer == Answer::Refused(None) { Answer::Applied(()) } else { answer })
    }

    async fn fence_off(&self, dead: &Holder) -> Result<u64, StoreError> {
        let mut inner = self.lock();
        let rows = inner.rows.values_mut().filter(|row| row.holder.as_ref() == Some(dead));
        Ok(rows.map(|row| row.fence.0 += 1).count() as u64)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        if self.is_cut_off() { Err(unavailable("ping")) } else { Ok(()) }
    }
}

#[async_trait]
impl EventStore for FakeStore {
    async fn append(&self, append: &Append) -> Result<Answer<Appended>, StoreError> {
        let append = append.clone();
        if self.lock().faults.too_slow_above.is_some_and(|most| append.events.len() > most) {
            return Err(StoreError::TooSlow { action: "append", source: Box::new(Said) });
        }
        self.statement("append", append.stream.clone(), move |inner| {
            inner.appends.push(append.clone());
            inner.row(&append.stream).append(&append)
        })
        .await
    }

    async fn find_stored(&self, stream: &StreamName, ids: &[&EventId]) -> Result<HashSet<EventId>, StoreError> {
        let mut inner = self.lock();
        inner.verbs.push("find_stored");
        if inner.faults.unavailable {
            return Err(unavailable("look for stored events"));
        }
        if inner.faults.too_slow_above.is_some_and(|most| ids.len() > most) {
            return Err(StoreError::TooSlow { action: "look for stored events", source: Box::new(Said) });
        }
        Ok(inner.rows.get(stream).map(|row| row.find_stored(ids)).unwrap_or_default())
    }

    async fn has_older(&self, stream: &StreamName, id: &EventId) -> Result<bool, StoreError> {
        let mut inner = self.lock();
        inner.verbs.push("has_older");
        if inner.faults.unavailable {
            return Err(unavailable("look for what is older than an event"));
        }
        Ok(inner.rows.get(stream).is_some_and(|row| row.has_older(id)))
    }
}
