//! The reports of the sources that this replica holds. The loader writes; the status writer, `/v1/sources` and the metrics read.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use tokio::sync::watch;

use super::report::{LastCaughtUp, Report, Verdict};
use crate::{api::AssignedReason, clock::Moment, event::StreamName, ownership::Holding};

/// The reports of all sources this replica holds, shared by clones.
#[derive(Clone)]
pub struct Reports {
    slots: Arc<RwLock<HashMap<StreamName, Slot>>>,
    /// What was removed after its Lease was lost, or found no successor, and was not taken yet.
    parted: Arc<Mutex<HashMap<StreamName, Arc<Report>>>>,
    /// What was yielded to a successor.
    yielded: Arc<Mutex<HashMap<StreamName, Arc<Report>>>>,
    /// What was put, written or removed since the status writer looked.
    touched: Arc<Mutex<Vec<StreamName>>>,
    version: Arc<watch::Sender<u64>>,
}

/// One report, changed in place by its task: polls share no lock but for the first one after each look.
type Slot = Arc<Mutex<Leaf>>;

struct Leaf {
    report: Arc<Report>,
    /// It stands among the touched ones.
    touched: bool,
}

impl Default for Reports {
    fn default() -> Self {
        Self {
            slots: Arc::default(),
            parted: Arc::default(),
            yielded: Arc::default(),
            touched: Arc::default(),
            version: Arc::new(watch::Sender::new(0)),
        }
    }
}

impl Reports {
    pub fn put(&self, stream: &StreamName, report: Report) {
        self.open(stream, report);
    }

    /// Puts a report and returns what goes on writing it.
    pub(super) fn open(&self, stream: &StreamName, report: Report) -> ReportWriter {
        let slot: Slot = Arc::new(Mutex::new(Leaf { report: Arc::new(report), touched: true }));
        locked(&self.parted).remove(stream);
        locked(&self.yielded).remove(stream);
        self.slots.write().unwrap_or_else(PoisonError::into_inner).insert(stream.clone(), Arc::clone(&slot));
        self.touch(stream);
        self.bump();
        ReportWriter { stream: stream.clone(), slot, reports: self.clone() }
    }

    pub fn remove(&self, stream: &StreamName) {
        let lost = self.take(stream).filter(|report| report.assigned.reason == AssignedReason::LeaseLost);
        if let Some(report) = lost {
            locked(&self.parted).insert(stream.clone(), report);
        }
        self.bump();
    }

    /// Removes the report of a source that is to be handed to another replica.
    pub(super) fn yielded(&self, stream: &StreamName) {
        if let Some(report) = self.take(stream) {
            locked(&self.yielded).insert(stream.clone(), report);
        }
        self.bump();
    }

    /// Whether a source was yielded under this very Lease, and nobody has taken it.
    pub(super) fn has_yielded(&self, holding: &Holding) -> bool {
        locked(&self.yielded).get(&holding.stream).is_some_and(|report| report.holding == *holding)
    }

    /// The object of a source is gone, so nobody will ask who has it.
    pub(super) fn forget_yielded(&self, stream: &StreamName) {
        locked(&self.yielded).remove(stream);
    }

    /// Nobody took over these sources that were yielded: their status still calls this replica their holder.
    pub fn left_to_nobody(&self, streams: &[StreamName]) {
        for stream in streams {
            let Some(mut report) = locked(&self.yielded).remove(stream) else { continue };
            let message = "its replica ended, and no other took it over".to_owned();
            Arc::make_mut(&mut report).assigned = Verdict { reason: AssignedReason::AwaitingReplica, message };
            locked(&self.parted).insert(stream.clone(), report);
        }
        self.bump();
    }

    /// How long ago a holder before this one last knew that everything was stored, as the status of the object with this UID has
    /// it. What this replica has seen itself stands.
    pub fn was_caught_up(&self, stream: &StreamName, uid: &str, ago: Duration) {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let Some(mut leaf) = slots.get(stream).map(|slot| locked(slot)) else { return };
        if leaf.report.uid == uid && leaf.report.last_caught_up.is_none() {
            let last_caught_up = LastCaughtUp::before(Moment::now(), ago);
            Arc::make_mut(&mut leaf.report).last_caught_up = Some(last_caught_up);
        }
    }

    fn take(&self, stream: &StreamName) -> Option<Arc<Report>> {
        let removed = self.slots.write().unwrap_or_else(PoisonError::into_inner).remove(stream)?;
        self.touch(stream);
        Some(read(&removed))
    }

    #[must_use]
    pub fn get(&self, stream: &StreamName) -> Option<Arc<Report>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).get(stream).map(read)
    }

    #[must_use]
    pub fn all(&self) -> Vec<Arc<Report>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).values().map(read).collect()
    }

    /// The last reports of sources whose Lease was lost, or that were left to nobody: their task may have ended before
    /// anybody looked, and their status still calls this replica their holder. Each is given out once, to whoever writes
    /// the status.
    #[must_use]
    pub fn take_parted(&self) -> Vec<Arc<Report>> {
        std::mem::take(&mut *locked(&self.parted)).into_values().collect()
    }

    /// The streams whose report was put, written or removed since the last call, for the one reader that follows them all:
    /// of thousands of sources few are asked between two looks. Each is to be read again after this call.
    #[must_use]
    pub fn take_touched(&self) -> Vec<StreamName> {
        let touched = std::mem::take(&mut *locked(&self.touched));
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        for slot in touched.iter().filter_map(|stream| slots.get(stream)) {
            locked(slot).touched = false;
        }
        touched
    }

    /// Changes when the set of reports changes, or one of them in what a condition shows (verdicts, caught up, suspended,
    /// blocked by, generation, forgotten, the served poll request). Counters and times do not count: sample them.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn touch(&self, stream: &StreamName) {
        locked(&self.touched).push(stream.clone());
    }

    fn bump(&self) {
        self.version.send_modify(|version| *version += 1);
    }
}

fn read(slot: &Slot) -> Arc<Report> {
    Arc::clone(&locked(slot).report)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes one report.
#[derive(Clone)]
pub(super) struct ReportWriter {
    stream: StreamName,
    slot: Slot,
    reports: Reports,
}

impl ReportWriter {
    pub(super) fn read(&self) -> Arc<Report> {
        read(&self.slot)
    }

    /// Changes the report. Readers are told when `change` returns true.
    pub(super) fn write(&self, change: impl FnOnce(&mut Report) -> bool) {
        let mut leaf = locked(&self.slot);
        // Copies only when a reader still holds the last version.
        let tell = change(Arc::make_mut(&mut leaf.report));
        let first = !std::mem::replace(&mut leaf.touched, true);
        drop(leaf);
        if first {
            self.reports.touch(&self.stream);
        }
        if tell {
            self.reports.bump();
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::store::Holder;

    fn orders() -> StreamName {
        StreamName::new("shop", "orders")
    }

    fn report(reason: AssignedReason) -> Report {
        let holding = Holding {
            stream: orders(),
            holder: Holder::new("headgate-0#1"),
            lease_name: "shop.orders".to_owned(),
            acquired_at: Timestamp::UNIX_EPOCH,
        };
        let mut report = Report::of(holding, 1, "uid".to_owned());
        report.assigned.reason = reason;
        report
    }

    #[test]
    fn what_was_put_written_or_removed_is_touched_once_until_it_is_taken() {
        let reports = Reports::default();
        let writer = reports.open(&orders(), report(AssignedReason::LeaseHeld));
        assert_eq!(reports.take_touched(), [orders()]);
        assert!(reports.take_touched().is_empty());
        for polls in 1..=3 {
            writer.write(|report| {
                report.consecutive_failures = polls;
                false
            });
        }
        assert_eq!(reports.take_touched(), [orders()]);
        reports.remove(&orders());
        assert_eq!(reports.take_touched(), [orders()]);
    }

    #[test]
    fn what_the_status_of_an_object_says_falls_with_it_and_says_nothing_of_the_next() {
        let reports = Reports::default();
        let writer = reports.open(&orders(), Report { uid: "uid-1".to_owned(), ..report(AssignedReason::LeaseHeld) });
        let is_known = || writer.read().last_caught_up.is_some();
        let ago = Duration::from_secs(10);
        reports.was_caught_up(&orders(), "uid-1", ago);
        assert!(is_known());
        writer.write(|report| {
            report.turns_to("uid-2", 1);
            false
        });
        assert!(!is_known());
        // A write for the object before may come to its end now.
        reports.was_caught_up(&orders(), "uid-1", ago);
        assert!(!is_known());
        reports.was_caught_up(&orders(), "uid-2", ago);
        assert!(is_known());
    }

    #[test]
    fn a_lost_lease_is_told_once_even_when_nobody_looked_in_time() {
        let reports = Reports::default();
        reports.put(&orders(), report(AssignedReason::LeaseLost));
        reports.remove(&orders());
        assert_eq!(reports.take_parted().len(), 1);
        assert!(reports.take_parted().is_empty());
    }

    #[test]
    fn of_what_was_given_up_only_what_nobody_took_awaits_a_replica() {
        let reports = Reports::default();
        let stock = StreamName::new("shop", "stock");
        reports.put(&orders(), report(AssignedReason::LeaseHeld));
        reports.put(&stock, report(AssignedReason::LeaseHeld));
        reports.yielded(&orders());
        reports.yielded(&stock);
        assert!(reports.all().is_empty() && reports.take_parted().is_empty());
        reports.left_to_nobody(&[orders()]);
        let parted: Vec<_> = reports.take_parted().iter().map(|report| report.assigned.reason).collect();
        assert_eq!(parted, [AssignedReason::AwaitingReplica]);
    }

    #[test]
    fn nothing_is_kept_of_what_was_given_up_and_is_gone() {
        let reports = Reports::default();
        reports.put(&orders(), report(AssignedReason::LeaseHeld));
        reports.yielded(&orders());
        reports.forget_yielded(&orders());
        assert!(locked(&reports.yielded).is_empty());
    }

    #[test]
    fn a_source_that_was_handed_off_or_came_back_is_not_lost() {
        let reports = Reports::default();
        reports.put(&orders(), report(AssignedReason::LeaseHeld));
        reports.remove(&orders());
        assert!(reports.take_parted().is_empty());
        reports.put(&orders(), report(AssignedReason::LeaseLost));
        reports.remove(&orders());
        reports.put(&orders(), report(AssignedReason::LeaseHeld));
        assert!(reports.take_parted().is_empty());
    }
}
