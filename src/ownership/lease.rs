//! What stands in a Lease: building one, and reading one back. Pure.
//!
//! Kind, namespace, name and holder are labels, for `kubectl get leases -l headgate.dev/holder=<pod>`. What the code
//! relies on is `holderIdentity`, the labels of the object, and the annotations; names are never parsed.

use std::{collections::BTreeMap, fmt, time::Duration};

use k8s_openapi::{
    api::coordination::v1::Lease,
    apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta},
};

use super::rendezvous::fnv1a;
use crate::store::Holder;

mod member;
mod source;

pub use member::{Death, MemberLease, MemberState, Standing};
pub use source::SourceLease;

/// The Lease whose UID names this installation.
pub const INSTALLATION_LEASE: &str = "headgate-installation";
/// On that Lease: the database that the Leases of its namespace belong to.
const DATABASE: &str = "headgate.dev/database";
/// Selects the Leases of members.
pub const OF_MEMBERS: &str = "headgate.dev/kind=Member";
/// Selects the Leases that every replica watches.
pub const WATCHED: &str = "headgate.dev/kind in (Member,EventSource)";

const KIND: &str = "headgate.dev/kind";
const NAMESPACE: &str = "headgate.dev/namespace";
const NAME: &str = "headgate.dev/name";
const HOLDER: &str = "headgate.dev/holder";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const FIELD_LIMIT: usize = 253;
const LABEL_LIMIT: usize = 63;

/// One version of one Lease: what a compare-and-set has to carry.
///
/// The UID belongs to it. For Leases a PUT creates what is not there, whatever resourceVersion it carries (found on
/// 1.34), so without the UID an incarnation whose Lease was deleted would bring itself back to life.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Version {
    resource_version: Box<str>,
    uid: Box<str>,
}

impl Version {
    #[must_use]
    pub fn of(lease: &Lease) -> Self {
        let text = |field: &Option<String>| field.as_deref().unwrap_or_default().into();
        Self { resource_version: text(&lease.metadata.resource_version), uid: text(&lease.metadata.uid) }
    }

    #[must_use]
    pub fn resource_version(&self) -> &str {
        &self.resource_version
    }

    #[must_use]
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Compares as numbers (KEP-5504; every etcd-backed server hands out numbers), so that a late watch event cannot
    /// undo what an answer to a write has shown. One that is no number is never older.
    #[must_use]
    pub fn is_older_than(&self, other: &Self) -> bool {
        self.number().zip(other.number()).is_some_and(|(mine, other)| mine < other)
    }

    pub(super) fn number(&self) -> Option<u64> {
        self.resource_version.parse().ok()
    }

    /// Makes a write of this version a compare-and-set.
    fn guard(&self, metadata: &mut ObjectMeta) {
        metadata.resource_version = Some(self.resource_version.to_string());
        metadata.uid = Some(self.uid.to_string());
        // One empty entry ends the server's book-keeping of who set which field (Kubernetes, Server-Side Apply, "Clearing
        // managedFields"): a Lease has one writer at a time, and the record is as large as the rest of it. A creation keeps it.
        metadata.managed_fields = Some(vec![ManagedFieldsEntry::default()]);
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.resource_version)
    }
}

/// A Lease of the watch, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Member(MemberLease),
    Source(SourceLease),
    /// Not one of ours, or its labels were changed by hand.
    Other,
}

/// Reads a Lease.
#[must_use]
pub fn read(lease: &Lease) -> Seen {
    match label(lease, KIND) {
        Some("Member") => MemberLease::read(lease).map_or(Seen::Other, Seen::Member),
        Some("EventSource") => SourceLease::read(lease).map_or(Seen::Other, Seen::Source),
        _ => Seen::Other,
    }
}

/// The Lease whose UID names this installation. It has no holder and is never renewed.
#[must_use]
pub fn installation() -> Lease {
    Lease { metadata: metadata(INSTALLATION_LEASE, labels("Installation", None)), spec: None }
}

/// The database that the Leases of an installation belong to.
#[must_use]
pub fn database(installation: &Lease) -> Option<&str> {
    annotation(installation, DATABASE)
}

/// The Lease of an installation as it names this database: to be written over the version that it was read in.
#[must_use]
pub fn bound_to(installation: &Lease, database: &str) -> Lease {
    let mut bound = installation.clone();
    bound.metadata.annotations.get_or_insert_default().insert(DATABASE.to_owned(), database.to_owned());
    bound
}

/// A value that every Kubernetes label takes: what does not fit is cut, and a hash keeps the rest apart.
#[must_use]
pub fn label_value(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fits = text.len() <= LABEL_LIMIT
        && text.chars().all(plain)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric());
    if fits { text.to_owned() } else { shortened(text, LABEL_LIMIT, plain) }
}

/// Keeps the beginning of a text and appends a hash of all of it.
fn shortened(text: &str, limit: usize, plain: impl Fn(char) -> bool) -> String {
    let hash = format!("{:08x}", fnv1a(text) >> 32);
    let kept: String = text.chars().filter(|&c| plain(c)).take(limit - hash.len() - 1).collect();
    let kept = kept.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    if kept.is_empty() { hash } else { format!("{kept}-{hash}") }
}

fn labels(kind: &str, pod: Option<&str>) -> BTreeMap<String, String> {
    let mut labels =
        BTreeMap::from([(MANAGED_BY.to_owned(), "headgate".to_owned()), (KIND.to_owned(), kind.to_owned())]);
    if let Some(pod) = pod {
        labels.insert(HOLDER.to_owned(), label_value(pod));
    }
    labels
}

fn metadata(name: &str, labels: BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..ObjectMeta::default() }
}

fn label<'a>(lease: &'a Lease, key: &str) -> Option<&'a str> {
    lease.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

fn annotation<'a>(lease: &'a Lease, key: &str) -> Option<&'a str> {
    lease.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// An empty holder is no holder: that is how client-go's tools release a Lease.
fn holder(lease: &Lease) -> Option<Holder> {
    let identity = lease.spec.as_ref()?.holder_identity.as_deref()?;
    (!identity.is_empty()).then(|| Holder::new(identity))
}

fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX).max(1)
}

#[cfg(test)]
mod tests;
