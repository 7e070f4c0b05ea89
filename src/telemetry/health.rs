//! What this replica still waits for. The parts write, `/readyz` and `/metrics` read.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
};

use super::cause::in_one_line;

/// A part whose absence keeps a replica from doing its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// PostgreSQL answers, and the schema is the one this release needs.
    Database,
    /// The API server answers.
    Kubernetes,
    /// The database belongs to this installation.
    Installation,
    /// The first list of EventSources is complete.
    Sources,
    /// The member Lease of this replica stands.
    Membership,
}

impl Part {
    pub const ALL: [Self; 5] = [Self::Database, Self::Kubernetes, Self::Installation, Self::Sources, Self::Membership];

    /// The name in `/readyz` and in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Kubernetes => "kubernetes",
            Self::Installation => "installation",
            Self::Sources => "sources",
            Self::Membership => "membership",
        }
    }
}

/// What is pending, shared by clones.
///
/// A replica is ready when nothing is pending. The database, the sources and the membership may become pending again: what is
/// gone later is said as loudly as what was never there, and a rollout stops there. The other parts are asked at the start alone.
#[derive(Debug, Clone, Default)]
pub struct Health {
    pending: Arc<Mutex<BTreeMap<Part, String>>>,
}

impl Health {
    /// Everything is pending until it was seen to work.
    #[must_use]
    pub fn starting() -> Self {
        let pending = Part::ALL.map(|part| (part, "not seen yet".to_owned())).into();
        Self { pending: Arc::new(Mutex::new(pending)) }
    }

    /// This part takes its time and nothing is wrong with it, as at every start; says so in the log when that is news.
    pub fn is_under_way(&self, part: Part, what: &str) {
        if self.note(part, what) {
            tracing::info!(part = part.as_str(), what, "under way");
        }
    }

    /// This part is waited for, because something is wrong; says so in the log when that is news.
    pub fn waits(&self, part: Part, why: impl Into<String>) {
        let why = why.into();
        if self.note(part, &why) {
            tracing::warn!(part = part.as_str(), why, "waiting");
        }
    }

    /// Keeps why the part is pending, and tells whether that is news.
    fn note(&self, part: Part, why: &str) -> bool {
        self.lock().insert(part, why.to_owned()).as_deref() != Some(why)
    }

    /// This part failed and is waited for; says so with all causes, as [`Health::waits`].
    pub fn fails(&self, part: Part, error: &dyn Error) {
        self.waits(part, in_one_line(error));
    }

    /// This part works; says so in the log when that is news.
    pub fn works(&self, part: Part) {
        if self.lock().remove(&part).is_some() {
            tracing::info!(part = part.as_str(), "ready");
        }
    }

    /// What is pending, by name, with the reason.
    #[must_use]
    pub fn pending(&self) -> BTreeMap<&'static str, String> {
        self.lock().iter().map(|(part, why)| (part.as_str(), why.clone())).collect()
    }

    // The sections above cannot panic; whatever a poisoned lock holds is still whole.
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Part, String>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::logs::tests::Lines;

    #[test]
    fn what_every_start_takes_is_no_warning_and_what_is_wrong_is_one_each_of_them_once() {
        let (health, lines) = (Health::starting(), Lines::default());
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(log, || {
            for _ in 0..2 {
                health.is_under_way(Part::Sources, "the first list");
                health.waits(Part::Database, "connection refused");
            }
        });
        let text = lines.text();
        let of = |level| text.lines().filter(|line| line.contains(level)).collect::<Vec<_>>();
        assert!(matches!(&of("INFO")[..], [line] if line.contains("the first list")), "{text}");
        assert!(matches!(&of("WARN")[..], [line] if line.contains("connection refused")), "{text}");
        assert_eq!(health.pending()["sources"], "the first list");
    }

    #[test]
    fn a_replica_is_ready_when_nothing_is_pending() {
        let health = Health::starting();
        for part in [Part::Database, Part::Kubernetes, Part::Installation, Part::Sources] {
            health.works(part);
        }
        assert_eq!(health.pending().into_keys().collect::<Vec<_>>(), ["membership"]);
        health.works(Part::Membership);
        assert!(health.pending().is_empty());
    }

    #[test]
    fn a_part_that_is_gone_later_is_pending_again() {
        let health = Health::default();
        health.waits(Part::Database, "connection refused");
        assert_eq!(health.pending()["database"], "connection refused");
    }
}
