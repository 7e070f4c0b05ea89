//! A look at a run that goes on: has it broken a rule already?

use std::time::Duration;

use anyhow::Result;
use sqlx::PgPool;
use tokio::task::JoinHandle;

use crate::checker::{self, Evidence, Rule, StoredStream, Violation};
use crate::clock;
use crate::source::Feed;
use crate::stage::{SOURCES, Stage};
use crate::stored;

/// Longer than any request: those that started before it have ended, and stand in the log.
const SETTLED_US: u64 = 8_000_000;
/// The database may be struck; a look without it sees less.
const PATIENCE: Duration = Duration::from_secs(5);

/// Finds the first rule that the run has broken, as far as it can be known yet, while the run goes on. The rules are those of
/// the checker; I5, I7 and I8 are left to the end of the run.
pub(super) fn first_broken(stage: &Stage) -> JoinHandle<Option<Violation>> {
    let mut accesses = stage.source.log().entries();
    let settled = clock::now_us().saturating_sub(SETTLED_US);
    accesses.retain(|access| access.started < settled);
    let nemeses = stage.fleet.nemeses().to_vec();
    let (url, feeds) = (stage.parts.postgres.url(), stage.source.feeds());
    tokio::spawn(async move {
        let stored = tokio::time::timeout(PATIENCE, read(&url, feeds)).await;
        let stored = stored.ok().and_then(Result::ok).unwrap_or_default();
        let findings = checker::check(&Evidence { accesses, nemeses, stored, ..Evidence::default() });
        let seen = findings.violations.into_iter().filter(|violation| violation.rule < Rule::I5);
        seen.min_by_key(Violation::seen_at)
    })
}

async fn read(url: &str, feeds: Vec<Feed>) -> Result<Vec<StoredStream>> {
    let pool = PgPool::connect(url).await?;
    let mut streams = Vec::new();
    for feed in feeds {
        streams.push(stored::read(&pool, SOURCES, feed).await?);
    }
    Ok(streams)
}
