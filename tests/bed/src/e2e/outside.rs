//! What stands outside of the cluster, where pods reach it: PostgreSQL, and the sources.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::RngExt;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};
use url::Url;

use crate::access_log::AccessLog;
use crate::checker::{self, Evidence};
use crate::place::Place;
use crate::postgres::Postgres;
use crate::proof::Proof;
use crate::source::{FakeSource, Fault, SourceConfig};
use crate::stored;

/// The namespace of the EventSources.
pub(super) const SOURCES: &str = "shop";
/// Asks for a header that only a Secret holds.
pub(super) const GUARDED: &str = "orders";
/// The header.
pub(super) const HEADER: &str = "X-Api-Key";
/// Answers some requests with 500.
pub(super) const FLAKY: &str = "payments";
/// Sends its bodies slowly.
pub(super) const SLOW: &str = "invoices";
/// Those that do nothing special: with the others, three for each of three replicas.
const PLAIN: [&str; 6] = ["carts", "customers", "parcels", "refunds", "reviews", "stock"];

pub(super) struct Outside {
    pub(super) source: FakeSource,
    /// What the guarded source wants to see in its header.
    pub(super) key: String,
    /// As pods reach the database, as a user who owns it and has no other right.
    pub(super) database_url: String,
    pub(super) pool: PgPool,
    _postgres: Postgres,
}

impl Outside {
    pub(super) async fn up(place: &Arc<Place>, address: Ipv4Addr) -> Result<Self> {
        let listen = format!("127.0.0.1,{address}");
        let rules = client_rules(place)?;
        let settings = [("listen_addresses", listen.as_str()), ("hba_file", rules.to_str().context("plain text")?)];
        let postgres = Postgres::with_settings(place, &settings).await?;
        let database_url =
            make_database(&postgres.url(), address).await.context("make the database of the operator")?;
        let pool = PgPool::connect(&database_url).await.context("reach the database as pods do")?;

        let key = secret();
        let log = AccessLog::to_file(&place.path().join("access.jsonl"))?;
        let source = FakeSource::start(&format!("{address}:0"), sources(&key), 1, log).await?;
        Ok(Self { source, key, database_url, pool, _postgres: postgres })
    }

    /// The names of the sources.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.source.feeds().into_iter().map(|feed| feed.name).collect();
        names.sort();
        names
    }

    /// How many events of a source are stored, as a reader sees it.
    pub(super) async fn stored(&self, name: &str) -> Result<u64> {
        let stream = format!("{SOURCES}/{name}");
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM headgate.events WHERE stream = $1")
            .bind(&stream)
            .fetch_one(&self.pool)
            .await
            .with_context(|| format!("count the stored events of {stream}"))?;
        Ok(count.try_into()?)
    }

    /// What the log and the store say, once nothing loads any more. Of the terminations, those count whose pod held a source.
    pub(super) async fn prove(&self, terminations: &[(String, u64)]) -> Result<Proof> {
        let mut stored = Vec::new();
        for feed in self.source.feeds() {
            stored.push(stored::read(&self.pool, SOURCES, feed).await?);
        }
        // Nothing was killed or frozen here, so nothing explains a repeat.
        let evidence = Evidence { accesses: self.source.log().entries(), stored, ..Evidence::default() };
        let handovers = checker::handovers(&evidence.accesses, terminations);
        Ok(Proof { findings: checker::check(&evidence), takeovers: Vec::new(), handovers, nemeses: Vec::new() })
    }
}

fn sources(key: &str) -> Vec<SourceConfig> {
    let special = [
        SourceConfig::new(GUARDED, 3_000).growing_by(20.0).behind_header(HEADER, key),
        SourceConfig::new(FLAKY, 2_000).growing_by(20.0).sometimes(0.2, Fault::Status(500)),
        SourceConfig::new(SLOW, 2_000)
            .growing_by(20.0)
            .answering_after(Duration::from_millis(20))
            .sometimes(1.0, Fault::SlowBody { ms: 350 }),
    ];
    let plain = PLAIN.map(|name| SourceConfig::new(name, 200).growing_by(2.0));
    special.into_iter().chain(plain).collect()
}

/// Who may come from where. The file of initdb knows loopback only.
fn client_rules(place: &Place) -> Result<PathBuf> {
    let path = place.path().join("pg_hba.conf");
    std::fs::write(&path, "host all all 127.0.0.1/32 password\nhost headgate headgate 0.0.0.0/0 password\n")?;
    // PostgreSQL runs as another user; there is nothing secret in it.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
    Ok(path)
}

async fn make_database(superuser: &str, address: Ipv4Addr) -> Result<String> {
    let password = secret();
    let mut session = PgConnection::connect(superuser).await?;
    session.execute(AssertSqlSafe(format!("CREATE ROLE headgate LOGIN PASSWORD '{password}'"))).await?;
    session.execute("CREATE DATABASE headgate OWNER headgate").await?;
    session.close().await?;
    let port = Url::parse(superuser)?.port().context("read the port of PostgreSQL")?;
    Ok(format!("postgres://headgate:{password}@{address}:{port}/headgate?sslmode=disable"))
}

fn secret() -> String {
    format!("{:032x}", rand::rng().random::<u128>())
}
