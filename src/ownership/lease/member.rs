use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};

use super::{FIELD_LIMIT, Version, annotation, holder, labels, metadata, seconds, shortened};
use crate::store::Holder;

const POD: &str = "headgate.dev/pod";
const POD_TEMPLATE: &str = "headgate.dev/pod-template";
const DRAINING: &str = "headgate.dev/draining";
const DATABASE_LOST: &str = "headgate.dev/database-lost";
const DATABASE_SILENT: &str = "headgate.dev/database-silent-ms";
const DEAD_HOLDER: &str = "headgate.dev/dead-holder";
const DECLARED_DEAD_BY: &str = "headgate.dev/declared-dead-by";

/// The Lease by which one incarnation of a replica says that it lives. Each incarnation has its own; it ends when this
/// Lease is deleted, or names nobody any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberLease {
    pub name: Arc<str>,
    pub version: Version,
    pub standing: Standing,
    /// The pod's name, by which the member ranks.
    pub pod: Arc<str>,
    /// The pod-template-hash; empty when unknown.
    pub template: Arc<str>,
    pub state: MemberState,
    pub duration: Duration,
    /// When this incarnation began, by the API server's clock.
    pub created: Option<Timestamp>,
}

/// Whether the incarnation of a member Lease lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// The Lease names it.
    Alive(Holder),
    /// The Lease names nobody, and is the certificate of its death.
    Dead(Death),
    /// The Lease names nobody, and nobody says why: somebody edited it.
    Released,
}

/// What a member says of itself with each renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemberState {
    /// It is shutting down: it takes nothing and hands all off.
    pub draining: bool,
    /// Its database failed for so long while another's worked: it takes nothing and hands off what it can.
    pub database_lost: bool,
    /// How long before this renewal its database last answered. A duration, so that no two clocks are compared. None: it
    /// has not answered this incarnation yet.
    pub database_silent: Option<Duration>,
}

impl MemberState {
    /// Whether its database can be relied on: it has answered, and is not lost.
    #[must_use]
    pub fn has_database(&self) -> bool {
        self.database_silent.is_some() && !self.database_lost
    }
}

/// The death certificate of an incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    pub of: Holder,
    /// Who wrote it, and so has to fence off the rows of the dead before the certificate is removed.
    pub declared_by: Holder,
}

impl MemberLease {
    /// A new incarnation. The name of its Lease holds no dot, so it is never that of a source's Lease.
    #[must_use]
    pub fn begin(pod: &str, nonce: u32, template: &str, duration: Duration) -> Self {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let suffix = format!("-{nonce:08x}");
        let limit = FIELD_LIMIT - "headgate-member-".len() - suffix.len();
        let kept = if pod.len() <= limit && !pod.is_empty() && pod.chars().all(plain) {
            pod.to_owned()
        } else {
            shortened(pod, limit, plain)
        };
        Self {
            name: format!("headgate-member-{kept}{suffix}").into(),
            version: Version::default(),
            standing: Standing::Alive(Holder::new(&format!("{pod}_{nonce:08x}"))),
            pod: pod.into(),
            template: template.into(),
            state: MemberState::default(),
            duration,
            created: None,
        }
    }

    /// The incarnation that lives by it.
    #[must_use]
    pub fn holder(&self) -> Option<&Holder> {
        match &self.standing {
            Standing::Alive(holder) => Some(holder),
            Standing::Dead(_) | Standing::Released => None,
        }
    }

    /// The death that it certifies.
    #[must_use]
    pub fn death(&self) -> Option<&Death> {
        match &self.standing {
            Standing::Dead(death) => Some(death),
            Standing::Alive(_) | Standing::Released => None,
        }
    }

    /// The death certificate of this very version of the Lease: written with its resourceVersion, so it fails if the
    /// holder has given a sign of life since.
    #[must_use]
    pub fn declared_dead(&self, by: &Holder) -> Option<Self> {
        let death = Death { of: self.holder()?.clone(), declared_by: by.clone() };
        Some(Self { standing: Standing::Dead(death), ..self.clone() })
    }

    #[must_use]
    pub fn read(lease: &Lease) -> Option<Self> {
        let flag = |key| annotation(lease, key) == Some("true");
        let silent = annotation(lease, DATABASE_SILENT).and_then(|text| text.parse().ok());
        let duration = lease.spec.as_ref()?.lease_duration_seconds?;
        let death = annotation(lease, DEAD_HOLDER).zip(annotation(lease, DECLARED_DEAD_BY));
        let death = death.map(|(of, by)| Death { of: Holder::new(of), declared_by: Holder::new(by) });
        Some(Self {
            name: lease.metadata.name.as_deref()?.into(),
            version: Version::of(lease),
            standing: match (holder(lease), death) {
                (Some(holder), _) => Standing::Alive(holder),
                (None, Some(death)) => Standing::Dead(death),
                (None, None) => Standing::Released,
            },
            pod: annotation(lease, POD)?.into(),
            template: annotation(lease, POD_TEMPLATE).unwrap_or_default().into(),
            state: MemberState {
                draining: flag(DRAINING),
                database_lost: flag(DATABASE_LOST),
                database_silent: silent.map(Duration::from_millis),
            },
            duration: Duration::from_secs(u64::try_from(duration).ok()?),
            created: lease.metadata.creation_timestamp.as_ref().map(|time| time.0),
        })
    }

    /// The Lease to write. `renewed` is for people; no replica judges by it.
    #[must_use]
    pub fn write(&self, renewed: Timestamp) -> Lease {
        let mut annotations = BTreeMap::from([(POD.to_owned(), self.pod.to_string())]);
        if let Some(silent) = self.state.database_silent {
            annotations.insert(DATABASE_SILENT.to_owned(), silent.as_millis().to_string());
        }
        if !self.template.is_empty() {
            annotations.insert(POD_TEMPLATE.to_owned(), self.template.to_string());
        }
        for (key, set) in [(DRAINING, self.state.draining), (DATABASE_LOST, self.state.database_lost)] {
            if set {
                annotations.insert(key.to_owned(), "true".to_owned());
            }
        }
        if let Some(death) = self.death() {
            annotations.insert(DEAD_HOLDER.to_owned(), death.of.to_string());
            annotations.insert(DECLARED_DEAD_BY.to_owned(), death.declared_by.to_string());
        }
        let mut metadata = metadata(&self.name, labels("Member", Some(&self.pod)));
        metadata.annotations = Some(annotations);
        if self.version != Version::default() {
            self.version.guard(&mut metadata);
        }
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(self.holder().map(ToString::to_string).unwrap_or_default()),
                lease_duration_seconds: Some(seconds(self.duration)),
                acquire_time: self.created.map(MicroTime),
                renew_time: Some(MicroTime(renewed)),
                ..LeaseSpec::default()
            }),
        }
    }
}
