//! Thousands of EventSources, made as fast as the API server takes them.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{DynamicObject, PostParams};
use serde_json::json;

use crate::stage::{Stage, event_sources};

/// Below the API server's own limit of 200 mutating requests in flight.
const AT_ONCE: usize = 32;

/// How a source of the scale run is polled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Poll {
    pub(super) least: Duration,
    pub(super) idle: Duration,
}

impl Stage {
    /// Creates an EventSource for each of these sources.
    pub(super) async fn create(&self, names: &[String], poll: Poll) -> Result<()> {
        let api = event_sources(&self.client);
        let milliseconds = |duration: Duration| format!("{}ms", duration.as_millis());
        let poll = json!({
            "minInterval": milliseconds(poll.least), "maxIdleInterval": milliseconds(poll.idle),
        });
        stream::iter(names)
            .map(|name| {
                let object = json!({
                    "apiVersion": "headgate.dev/v1alpha1",
                    "kind": "EventSource",
                    "metadata": { "name": name },
                    "spec": { "poll": poll, "http": { "url": self.source.url(name) } },
                });
                let api = api.clone();
                async move {
                    let object: DynamicObject = serde_json::from_value(object)?;
                    let made = api.create(&PostParams::default(), &object).await;
                    made.with_context(|| format!("cannot create EventSource {name}")).map(drop)
                }
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }
}
