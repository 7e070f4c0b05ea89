//! A standby that streams from a server and can be promoted.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use sqlx::{Connection, PgConnection};
use tokio::process::Command;
use tokio::time::sleep;

use super::{FACTS, Facts, NAME, POLL, Postgres, READY_WITHIN};
use crate::account::Account;
use crate::narrate::say;
use crate::place::Place;
use crate::ports::free_port;

impl Postgres {
    /// A server of this process that follows this one asynchronously, over the given port of loopback: this server's own, or
    /// a line to it that a test can cut. This one is stopped for the copy of its data, and runs again when this returns.
    pub async fn standby(&mut self, upstream: u16) -> Result<Self> {
        let place = Arc::new(Place::temporary("standby")?);
        let account = Account::for_servers()?;
        let directory = place.directory_of(NAME, account.as_ref())?;
        let data = directory.join("data");
        // A stopped server's files are a whole copy; pg_basebackup is not in every build that the test bed fetches.
        self.stop().await?;
        let mut copy = Command::new("cp");
        place.mark(copy.as_std_mut());
        let copied = copy.arg("-a").arg(&self.data).arg(&data).status().await;
        ensure!(copied.context("start cp")?.success(), "copy {} to {}", self.data.display(), data.display());
        self.start().await?;

        let upstream = format!(
            "primary_conninfo = 'host=127.0.0.1 port={upstream} user=postgres password={} sslmode=disable'\n",
            self.facts.password
        );
        let settings = data.join("postgresql.auto.conf");
        OpenOptions::new().append(true).open(&settings)?.write_all(upstream.as_bytes())?;
        let signal = data.join("standby.signal");
        fs::write(&signal, "")?;
        if let Some(account) = &account {
            account.own(&signal)?;
        }
        place.remember(FACTS, &Facts { port: free_port()?, password: self.facts.password.clone() })?;
        Self::up(&place).await
    }

    /// Waits until this standby has replayed all that the primary has written.
    pub async fn caught_up_with(&self, primary: &Self) -> Result<()> {
        let mut there = PgConnection::connect(&primary.url()).await.context("connect to the primary")?;
        let written: String = sqlx::query_scalar("SELECT pg_current_wal_lsn()::text").fetch_one(&mut there).await?;
        there.close().await?;
        let mut here = PgConnection::connect(&self.url()).await.context("connect to the standby")?;
        let asked = Instant::now();
        loop {
            let replayed = sqlx::query_scalar("SELECT coalesce(pg_last_wal_replay_lsn() >= $1::pg_lsn, false)");
            if replayed.bind(&written).fetch_one(&mut here).await? {
                return here.close().await.context("close a session");
            }
            ensure!(asked.elapsed() < READY_WITHIN, "wait for a standby: it does not reach {written}");
            sleep(POLL).await;
        }
    }

    /// Makes this standby a primary, with what it has received.
    pub async fn promote(&self) -> Result<()> {
        let mut session = PgConnection::connect(&self.url()).await.context("connect to the standby")?;
        let seconds = i32::try_from(READY_WITHIN.as_secs())?;
        let promoted: bool =
            sqlx::query_scalar("SELECT pg_promote(true, $1)").bind(seconds).fetch_one(&mut session).await?;
        ensure!(promoted, "promote a standby: it is not promoted after {READY_WITHIN:?}");
        say(format_args!("PostgreSQL: the standby on 127.0.0.1:{} is promoted", self.port()));
        session.close().await.context("close a session")
    }
}
