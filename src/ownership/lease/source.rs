use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};

use super::{NAME, NAMESPACE, Version, holder, label, label_value, labels, metadata, seconds};
use crate::{event::StreamName, store::Holder};

/// A source's Lease itself never runs out, its holder's member Lease does. Ten years tell tools that look at
/// `renewTime` and this that nothing is wrong.
const DURATION: Duration = Duration::from_hours(10 * 365 * 24);

/// The Lease that names the holder of one source. Written only when the holder changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceLease {
    pub stream: StreamName,
    pub version: Version,
    pub holder: Option<Holder>,
    pub acquired: Option<Timestamp>,
    /// For display; the fence is the counter in the row.
    pub transitions: i32,
}

impl SourceLease {
    /// The name of the Lease: the first dot ends the namespace, which holds none, so no two streams share a name.
    #[must_use]
    pub fn name_of(stream: &StreamName) -> String {
        format!("{}.{}", stream.namespace(), stream.name())
    }

    /// Reads a Lease whose labels and name agree.
    #[must_use]
    pub fn read(lease: &Lease) -> Option<Self> {
        let stream = StreamName::new(label(lease, NAMESPACE)?, label(lease, NAME)?);
        let named = lease.metadata.name.as_deref()? == Self::name_of(&stream);
        let spec = lease.spec.as_ref();
        named.then(|| Self {
            version: Version::of(lease),
            holder: holder(lease),
            acquired: spec.and_then(|spec| spec.acquire_time.as_ref()).map(|time| time.0),
            transitions: spec.and_then(|spec| spec.lease_transitions).unwrap_or_default(),
            stream,
        })
    }

    /// What is known of a Lease whose name is this stream's and whose labels were edited away: enough to write it anew.
    #[must_use]
    pub fn unlabelled(stream: &StreamName, lease: &Lease) -> Self {
        let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or_default();
        Self { stream: stream.clone(), version: Version::of(lease), holder: holder(lease), acquired: None, transitions }
    }

    /// The Lease that gives the stream to `holder`: over `previous` by compare-and-set, or a new one.
    #[must_use]
    pub fn give(stream: &StreamName, previous: Option<&Self>, holder: &Holder, pod: &str, at: Timestamp) -> Lease {
        let mut labels = labels("EventSource", Some(pod));
        labels.insert(NAMESPACE.to_owned(), label_value(stream.namespace()));
        labels.insert(NAME.to_owned(), label_value(stream.name()));
        let mut metadata = metadata(&Self::name_of(stream), labels);
        if let Some(previous) = previous {
            previous.version.guard(&mut metadata);
        }
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_string()),
                lease_duration_seconds: Some(seconds(DURATION)),
                lease_transitions: Some(previous.map_or(0, |lease| lease.transitions.saturating_add(1))),
                acquire_time: Some(MicroTime(at)),
                renew_time: Some(MicroTime(at)),
                ..LeaseSpec::default()
            }),
        }
    }
}
