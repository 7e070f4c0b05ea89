//! How long sources wait when their replica dies, and when it is asked to go.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::report::{Figure, Row, Spread};
use super::stream::{Follower, Poll, names};
use super::{PATIENCE, REPLICAS, start, until};
use crate::narrate::say;
use crate::place::Place;
use crate::source::SourceConfig;
use crate::stage::Stage;
use crate::{checker, clock};

const KILLS: usize = 20;
const TERMINATIONS: usize = 6;
const SOURCES: usize = 30;

pub(super) async fn measure(place: &Arc<Place>, binary: &Path) -> Result<Figure> {
    let names = names("busy", SOURCES);
    let sources = names.iter().map(|name| SourceConfig::new(name, 100).growing_by(20.0)).collect();
    let mut stage = Stage::without_objects(place, binary, sources, 1).await?;
    start(&mut stage, &REPLICAS).await?;
    let applied = clock::now_us();
    stage.apply(&names, Poll { batch_size: 1000, idle: "200ms" }).await?;
    let mut follower = Follower::default();
    asked(&stage, &mut follower, &names, applied).await?;

    for number in 1..=KILLS {
        let victim = holder_of_most(&stage).await?;
        stage.fleet.kill(&victim).await?;
        let killed = clock::now_us();
        asked(&stage, &mut follower, &names, killed).await?;
        say(format_args!(
            "kill {number} of {KILLS}: all sources run again after {} ms",
            (clock::now_us() - killed) / 1000
        ));
        start(&mut stage, &[victim.as_str()]).await?;
    }
    for number in 1..=TERMINATIONS {
        let victim = holder_of_most(&stage).await?;
        stage.fleet.ask_to_end(&victim)?;
        stage.fleet.ended(&victim, PATIENCE).await?;
        say(format_args!("termination {number} of {TERMINATIONS}: {victim} has ended"));
        asked(&stage, &mut follower, &names, clock::now_us()).await?;
        start(&mut stage, &[victim.as_str()]).await?;
    }

    // Before the end of the run, which terminates all replicas at once: nobody is left then to take anything over.
    let handovers = checker::handovers(&stage.source.log().entries(), stage.fleet.terminations());
    let handovers = Spread::of(handovers).context("no termination struck the holder of a source")?;
    let proof = stage.prove(None).await?;
    let takeovers: Option<Vec<u64>> = proof.takeovers.iter().map(|takeover| takeover.after_us).collect();
    let takeovers = takeovers.context("a source was never asked again after a kill")?;
    let takeovers = Spread::of(takeovers).context("no kill struck the holder of a source")?;
    let rows = vec![
        Row::new(format!("after {KILLS} × kill -9, from the kill to the next request"), takeovers.in_seconds(), "8 s"),
        Row::new(
            format!(
                "after {TERMINATIONS} × SIGTERM, from there or the end of the old holder's last request to the next one's first"
            ),
            handovers.in_seconds(),
            "0.5 s",
        ),
    ];
    let scene = format!(
        "Three replicas, {SOURCES} sources that are asked five times a second. Each time the replica that holds most sources is \
         struck, and comes back when all run again. Times are per source, and the 200 ms between requests are part of them."
    );
    Ok(Figure { title: "Takeover", scene, rows, proof })
}

async fn asked(stage: &Stage, follower: &mut Follower, names: &[String], since: u64) -> Result<()> {
    until("every source is asked again", async || {
        follower.read(stage.source.log());
        Ok(follower.asked_since(names, since))
    })
    .await
}

async fn holder_of_most(stage: &Stage) -> Result<String> {
    let held = stage.fleet.held().await;
    let count = |name: &str| held.iter().filter(|(replica, _)| replica == name).count();
    let most = REPLICAS.into_iter().max_by_key(|name| count(name)).context("there are no replicas")?;
    Ok(most.to_owned())
}
