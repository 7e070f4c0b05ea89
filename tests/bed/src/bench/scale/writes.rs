//! What the API server was asked to write, by its own count.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result};
use kube::Client;

const COUNTER: &str = "apiserver_request_total{";
const WRITING: [&str; 6] = ["POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"];

/// Writes by resource (`eventsources/status`) and verb, since the API server began.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Writes(BTreeMap<(String, String), f64>);

impl Writes {
    /// Asks the API server.
    pub(super) async fn so_far(client: &Client) -> Result<Self> {
        let request = hyper::Request::get("/metrics").body(Vec::new()).context("ask for metrics")?;
        Ok(Self::read(&client.request_text(request).await.context("read the metrics of the API server")?))
    }

    fn read(metrics: &str) -> Self {
        let mut writes = Self::default();
        for line in metrics.lines() {
            if let Some((resource, verb, count)) = write(line) {
                *writes.0.entry((resource, verb)).or_default() += count;
            }
        }
        writes
    }

    /// What came since an earlier count.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let more = |(key, count): (&(String, String), &f64)| {
            let count = count - earlier.0.get(key).copied().unwrap_or_default();
            (count > 0.0).then(|| (key.clone(), count))
        };
        Self(self.0.iter().filter_map(more).collect())
    }

    pub(super) fn total(&self) -> f64 {
        self.0.values().sum()
    }
}

impl fmt::Display for Writes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (place, ((resource, verb), count)) in self.0.iter().enumerate() {
            write!(f, "{}{count} {verb} {resource}", if place == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Resource, verb and count, if the line counts writes of something that somebody other than the API server itself keeps.
fn write(line: &str) -> Option<(String, String, f64)> {
    let (labels, count) = line.strip_prefix(COUNTER)?.rsplit_once("} ")?;
    let label =
        |name: &str| labels.split(',').find_map(|pair| pair.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'));
    let verb = label("verb").filter(|verb| WRITING.contains(verb))?;
    let resource = label("resource").filter(|resource| !resource.is_empty())?;
    let resource = match label("subresource") {
        Some(part) if !part.is_empty() => format!("{resource}/{part}"),
        _ => resource.to_owned(),
    };
    Some((resource, verb.to_owned(), count.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "\
# TYPE apiserver_request_total counter
apiserver_request_total{code=\"200\",group=\"coordination.k8s.io\",resource=\"leases\",subresource=\"\",verb=\"PUT\",version=\"v1\"} 40
apiserver_request_total{code=\"409\",group=\"coordination.k8s.io\",resource=\"leases\",subresource=\"\",verb=\"PUT\",version=\"v1\"} 2
apiserver_request_total{code=\"200\",group=\"headgate.dev\",resource=\"eventsources\",subresource=\"status\",verb=\"APPLY\",version=\"v1alpha1\"} 1e+03
apiserver_request_total{code=\"200\",group=\"headgate.dev\",resource=\"eventsources\",subresource=\"\",verb=\"WATCH\",version=\"v1alpha1\"} 7
";

    #[test]
    fn writes_are_counted_by_resource_and_verb_whatever_was_answered_and_reads_are_not() {
        let writes = Writes::read(METRICS);
        assert_eq!(writes.to_string(), "1000 APPLY eventsources/status, 42 PUT leases");
        assert!((writes.total() - 1042.0).abs() < 1e-9);
        assert_eq!(writes.since(&writes).to_string(), "none");
    }
}
