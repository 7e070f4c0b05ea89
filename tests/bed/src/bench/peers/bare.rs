//! The limit: the same rows by COPY, a page at a time, without any source and into a table without an index.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use super::run::{Ground, PAGE, Run};
use crate::bench::copy::BareCopy;
use crate::bench::{cpu, migrate};
use crate::place::Place;
use crate::postgres::Postgres;

pub(super) async fn run(ground: &Ground) -> Result<Run> {
    let place = Arc::new(Place::temporary("peers")?);
    let postgres = Postgres::up(&place).await?;
    migrate(&ground.binary, &postgres.url())?;
    let mut bare = BareCopy::prepare(&postgres.url()).await?;
    let server = postgres.id().context("find the process of PostgreSQL")?;
    let before = cpu::of_server(server)?;
    for source in ground.sources() {
        bare.copy(&source.feed, ground.each(), PAGE.into()).await?;
    }
    let (taken, cpu) = bare.cost();
    Ok(Run {
        wall: taken,
        loading: taken,
        cpu,
        postgres: cpu::of_server(server)?.saturating_sub(before),
        source: Duration::ZERO,
        control_plane: Duration::ZERO,
        peak_mib: 0.0,
        requests: None,
        stored: ground.events,
        distinct: ground.events,
    })
}
