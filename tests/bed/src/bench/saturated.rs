//! A source that always has more: how close its requests come to what the gate allows, and that none comes earlier.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::report::{Figure, Row, Spread, number, seconds};
use super::stream::{Follower, Poll, names};
use super::{REPLICAS, start, until};
use crate::access_log::Access;
use crate::checker::GAP_US;
use crate::place::Place;
use crate::source::SourceConfig;
use crate::stage::Stage;

/// One source makes at most five requests a second; so many at once give 1,000 in 20 s.
const SIDE_BY_SIDE: usize = 10;
const ALONE_REQUESTS: usize = 150;
const ALL_REQUESTS: usize = 1_150;
const ENDLESS: u64 = 1 << 40;

pub(super) async fn measure(place: &Arc<Place>, binary: &Path) -> Result<Figure> {
    let (alone, others) = (names("alone", 1), names("beside", SIDE_BY_SIDE));
    let sources = alone.iter().chain(&others).map(|name| SourceConfig::new(name, ENDLESS)).collect();
    let mut stage = Stage::without_objects(place, binary, sources, 1).await?;
    start(&mut stage, &REPLICAS).await?;

    let mut follower = Follower::default();
    stage.apply(&alone, Poll { batch_size: 1000, idle: "5s" }).await?;
    requests(&stage, &mut follower, ALONE_REQUESTS).await?;
    let first = stage.source.log().entries();
    stage.apply(&others, Poll { batch_size: 100, idle: "5s" }).await?;
    requests(&stage, &mut follower, ALL_REQUESTS).await?;

    let one = Pace::of(&first).context("the source alone was asked less than twice")?;
    let all = Pace::of(&stage.source.log().entries()).context("no source was asked twice")?;
    let proof = stage.prove(None).await?;
    let share = |pace: &Pace| {
        format!("{:.1} % ({:.3} of {:.3} requests/s)", 100.0 * pace.share(), 1.0 / pace.mean_gap, 1.0 / pace.least_gap)
    };
    let rows = vec![
        Row::new("one source alone, pages of 1,000: share of 1/(200 ms + first byte)", share(&one), "97 %"),
        Row::new(format!("{SIDE_BY_SIDE} more beside it, pages of 100: share"), share(&all), "97 %"),
        Row::new("gaps below 200 ms", format!("{} of {}", all.early, all.gaps), "0"),
        Row::new("smallest gap", format!("{:.2} ms", 1e3 * seconds(all.smallest_us)), "200 ms"),
        Row::aside("time to first byte, as the source saw it", all.first_bytes.in_milliseconds()),
        Row::aside("gap beyond 200 ms + first byte", all.beyond.in_milliseconds()),
    ];
    let scene = format!(
        "Three replicas; a source on loopback that always has more events, and then {SIDE_BY_SIDE} more at the same time."
    );
    Ok(Figure { title: "Saturated sources", scene, rows, proof })
}

async fn requests(stage: &Stage, follower: &mut Follower, count: usize) -> Result<()> {
    until("saturated sources are asked", async || {
        follower.read(stage.source.log());
        Ok(follower.requests >= count)
    })
    .await
}

/// How fast sources were asked, and how fast they could have been.
struct Pace {
    /// Mean seconds between two starts, and the least that the gate allows.
    mean_gap: f64,
    least_gap: f64,
    gaps: usize,
    early: usize,
    smallest_us: u64,
    first_bytes: Spread,
    beyond: Spread,
}

impl Pace {
    fn of(accesses: &[Access]) -> Option<Self> {
        let mut by_source: BTreeMap<&str, Vec<&Access>> = BTreeMap::new();
        for access in accesses {
            by_source.entry(&access.source).or_default().push(access);
        }
        let (mut gaps, mut first_bytes) = (Vec::new(), Vec::new());
        for accesses in by_source.values_mut() {
            accesses.sort_by_key(|access| access.started);
            for pair in accesses.windows(2) {
                gaps.push(pair[1].started - pair[0].started);
                first_bytes.push(pair[0].first_byte?.saturating_sub(pair[0].started));
            }
        }
        let beyond = gaps.iter().zip(&first_bytes).map(|(gap, first)| gap.saturating_sub(GAP_US + first)).collect();
        let mean = |times: &[u64]| seconds(times.iter().sum()) / number(times.len());
        Some(Self {
            mean_gap: mean(&gaps),
            least_gap: seconds(GAP_US) + mean(&first_bytes),
            gaps: gaps.len(),
            early: gaps.iter().filter(|gap| **gap < GAP_US).count(),
            smallest_us: gaps.iter().copied().min()?,
            first_bytes: Spread::of(first_bytes)?,
            beyond: Spread::of(beyond)?,
        })
    }

    fn share(&self) -> f64 {
        self.least_gap / self.mean_gap
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::access;

    #[test]
    fn the_share_counts_the_time_to_the_first_byte_as_the_sources_own() {
        let asked = |ms: u64| {
            let mut access = access("orders").at_ms(ms).build();
            access.first_byte = Some(access.started + 50_000);
            access
        };
        let pace = Pace::of(&[asked(0), asked(250), asked(750)]).unwrap();
        assert!((pace.share() - 0.25 / 0.375).abs() < 1e-9);
        assert_eq!((pace.gaps, pace.early, pace.smallest_us), (2, 0, 250_000));
        assert_eq!(pace.beyond.longest_us, 250_000);
    }
}
