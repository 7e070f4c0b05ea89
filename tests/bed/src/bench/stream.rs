//! The sources of a figure: their EventSources, and the following of their requests.

use std::collections::HashMap;

use anyhow::Result;
use serde_json::json;

use crate::access_log::{Access, AccessLog};
use crate::stage::{Stage, apply_spec};

/// How a source of a figure is polled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Poll {
    pub batch_size: u32,
    /// `poll.maxIdleInterval`.
    pub idle: &'static str,
}

impl Stage {
    /// Applies EventSources for these sources, with every column of an event mapped.
    pub(super) async fn apply(&self, names: &[String], poll: Poll) -> Result<()> {
        for name in names {
            let spec = json!({
                "poll": { "batchSize": poll.batch_size, "maxIdleInterval": poll.idle },
                "http": { "url": self.source.url(name) },
                "mapping": {
                    "idPath": "$.id", "typePath": "$.type", "subjectPath": "$.subject", "timePath": "$.occurredAt",
                },
            });
            apply_spec(&self.client, name, &spec).await?;
        }
        Ok(())
    }
}

/// The names of so many sources.
pub(super) fn names(of: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{of}-{number:03}")).collect()
}

/// Follows the access log: how many requests there were, and who sent the last one to each source.
#[derive(Debug, Default)]
pub(super) struct Follower {
    pub requests: usize,
    last: HashMap<String, (u64, String)>,
}

impl Follower {
    /// Reads what is new.
    pub(super) fn read(&mut self, log: &AccessLog) {
        for Access { source, started, replica, .. } in log.entries_from(self.requests) {
            self.requests += 1;
            let last = self.last.entry(source).or_default();
            if last.0 < started {
                *last = (started, replica);
            }
        }
    }

    /// Each source that was asked, and who asked it last.
    pub(super) fn askers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.last.iter().map(|(source, (_, replica))| (source.as_str(), replica.as_str()))
    }

    /// Whether each of these sources was asked after that moment.
    pub(super) fn asked_since(&self, names: &[String], moment: u64) -> bool {
        names.iter().all(|name| self.last.get(name).is_some_and(|(started, _)| *started > moment))
    }
}
