//! A database per test on a server that already runs.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::RngExt;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::time::timeout;

/// The superuser's URL of the server for tests.
pub const DATABASE_URL: &str = "HEADGATE_TEST_DATABASE_URL";

/// An empty database with a name of its own, dropped with this value.
#[derive(Debug)]
pub struct TestDatabase {
    name: String,
    url: String,
    server_url: String,
}

impl TestDatabase {
    /// A database on the server that `HEADGATE_TEST_DATABASE_URL` names. Panics when it names none: a test that needs a server
    /// must not pass without one.
    pub async fn create() -> Self {
        let server = crate::required(DATABASE_URL);
        Self::on(&server).await.unwrap_or_else(|error| panic!("create a database for a test: {error:#}"))
    }

    /// A database on the server of the given superuser URL.
    pub async fn on(server_url: &str) -> Result<Self> {
        let name = format!("test_{:016x}", rand::rng().random::<u64>());
        let mut session = PgConnection::connect(server_url).await.context("connect to the server for tests")?;
        // Names cannot be parameters; this one is ours.
        session.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.context("create a database")?;
        session.close().await?;
        Ok(Self { url: with_database(server_url, &name), name, server_url: server_url.to_owned() })
    }

    /// The superuser's URL of this database.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The superuser's URL of the server it lies on.
    #[must_use]
    pub fn server_url(&self) -> &str {
        &self.server_url
    }

    /// Opens a session.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url)
            .await
            .unwrap_or_else(|error| panic!("connect to the database of a test: {error}"))
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (name, server_url) = (self.name.clone(), self.server_url.clone());
        // A runtime of its own: the one of the test cannot be blocked on from here. A server that the test stopped has nothing to drop.
        let _ = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let dropped = async {
                    let mut session = PgConnection::connect(&server_url).await?;
                    session.execute(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))).await?;
                    session.close().await
                };
                timeout(Duration::from_secs(5), dropped).await
            })??;
            anyhow::Ok(())
        })
        .join();
    }
}

/// The URL of another database on the same server.
fn with_database(url: &str, name: &str) -> String {
    let (address, query) = url.split_once('?').map_or((url, None), |(address, query)| (address, Some(query)));
    let authority = address.find("://").map_or(0, |at| at + 3);
    let server = address[authority..].find('/').map_or(address, |slash| &address[..authority + slash]);
    query.map_or_else(|| format!("{server}/{name}"), |query| format!("{server}/{name}?{query}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_of_the_database_changes_in_the_url() {
        let renamed = |url| with_database(url, "test_1");
        assert_eq!(
            renamed("postgres://u:p@127.0.0.1:5/postgres?sslmode=disable"),
            "postgres://u:p@127.0.0.1:5/test_1?sslmode=disable"
        );
        assert_eq!(renamed("postgres://u@h/postgres"), "postgres://u@h/test_1");
        assert_eq!(renamed("postgres://h:5"), "postgres://h:5/test_1");
    }
}
