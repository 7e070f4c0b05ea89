//! What should run: the EventSources of the cluster as this replica knows them. The controller writes; ownership and the
//! loader read. Pure memory.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use tokio::sync::watch;

use crate::{api::Source, event::StreamName};

/// The desired set, shared by clones.
#[derive(Clone)]
pub struct Desired {
    sources: Arc<RwLock<HashMap<StreamName, Arc<Source>>>>,
    /// Objects that are there and cannot be read by this release.
    unreadable: Arc<Mutex<HashSet<StreamName>>>,
    /// What was put or removed since the supervisor looked.
    touched: Arc<Mutex<HashSet<StreamName>>>,
    version: Arc<watch::Sender<u64>>,
    complete: Arc<watch::Sender<bool>>,
}

impl Default for Desired {
    fn default() -> Self {
        Self {
            sources: Arc::default(),
            unreadable: Arc::default(),
            touched: Arc::default(),
            version: Arc::new(watch::Sender::new(0)),
            complete: Arc::new(watch::Sender::new(false)),
        }
    }
}

impl Desired {
    /// Notes a new or changed source.
    pub fn put(&self, source: Arc<Source>) {
        let stream = source.stream.clone();
        locked(&self.unreadable).remove(&stream);
        self.write().insert(stream.clone(), source);
        self.touched().insert(stream);
        self.version.send_modify(|version| *version += 1);
    }

    /// Notes that a source is gone for good.
    pub fn remove(&self, stream: &StreamName) {
        locked(&self.unreadable).remove(stream);
        self.drop_source(stream);
    }

    /// Notes that the object of a source is there, and that this release cannot read it.
    pub fn mark_unreadable(&self, stream: &StreamName) {
        locked(&self.unreadable).insert(stream.clone());
        self.drop_source(stream);
    }

    /// Whether nobody need wait here for the object of a source: it is there and cannot be read.
    #[must_use]
    pub fn is_unreadable(&self, stream: &StreamName) -> bool {
        locked(&self.unreadable).contains(stream)
    }

    fn drop_source(&self, stream: &StreamName) {
        if self.write().remove(stream).is_some() {
            self.touched().insert(stream.clone());
            self.version.send_modify(|version| *version += 1);
        }
    }

    /// The first list was complete. Until then, absence says nothing.
    pub fn mark_complete(&self) {
        self.complete.send_replace(true);
    }

    #[must_use]
    pub fn is_complete(&self) -> bool {
        *self.complete.borrow()
    }

    #[must_use]
    pub fn get(&self, stream: &StreamName) -> Option<Arc<Source>> {
        self.read().get(stream).cloned()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.read().len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names of all sources, in no order.
    #[must_use]
    pub fn streams(&self) -> Vec<StreamName> {
        self.read().keys().cloned().collect()
    }

    #[must_use]
    pub fn sources(&self) -> Vec<Arc<Source>> {
        self.read().values().cloned().collect()
    }

    /// The sources that were put or removed since the last call, for the one reader that acts on each: while thousands of
    /// objects are created, it must not go through all of them for every one. Each is to be read again after this call.
    #[must_use]
    pub fn take_touched(&self) -> HashSet<StreamName> {
        std::mem::take(&mut *self.touched())
    }

    /// Changes whenever the set or one of its sources does.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Turns true when the first list was complete.
    #[must_use]
    pub fn completion(&self) -> watch::Receiver<bool> {
        self.complete.subscribe()
    }

    fn touched(&self) -> MutexGuard<'_, HashSet<StreamName>> {
        locked(&self.touched)
    }

    // A writer that panicked inside these one-line sections is not possible; going on is right either way.
    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<StreamName, Arc<Source>>> {
        self.sources.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<StreamName, Arc<Source>>> {
        self.sources.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
