//! A database of its own for each test, on the server that `HEADGATE_TEST_DATABASE_URL` names.

use headgate::store::postgres::{PostgresStore, migrate};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};

const VARIABLE: &str = "HEADGATE_TEST_DATABASE_URL";

pub(crate) struct Database {
    /// Where it is dropped with this value; a server that a test has for itself ends with its databases.
    dropped_on: Option<String>,
    name: String,
    pub(crate) url: String,
    /// For looking at the tables, and for standing in the way.
    pub(crate) sql: PgPool,
}

impl Database {
    /// An empty database.
    pub(crate) async fn empty() -> Self {
        let server = std::env::var(VARIABLE).unwrap_or_else(|_| {
            panic!("{VARIABLE} is not set: run `make test`, or `make parts` and export the variables it prints")
        });
        let mut database = Self::empty_on(&server).await;
        database.dropped_on = Some(server);
        database
    }

    async fn empty_on(server: &str) -> Self {
        let name = format!("store_{:032x}", rand::random::<u128>());
        on_server(server, format!("CREATE DATABASE {name}")).await;
        Self::named(name, server).await
    }

    async fn named(name: String, server: &str) -> Self {
        let mut url = url::Url::parse(server).expect("a URL");
        url.set_path(&name);
        let url = url.to_string();
        let sql = PgPool::connect(&url).await.expect("the database is there");
        Self { dropped_on: None, name, url, sql }
    }

    /// A database with the schema of Headgate.
    pub(crate) async fn migrated() -> Self {
        Self::empty().await.migrate().await
    }

    /// The same, on a server that a test has for itself.
    pub(crate) async fn migrated_on(server: &str) -> Self {
        Self::empty_on(server).await.migrate().await
    }

    async fn migrate(self) -> Self {
        migrate(&self.url, None).await.expect("an empty database migrates");
        self
    }

    /// The same database on another server, which has a copy of it.
    pub(crate) async fn on(&self, server: &str) -> Self {
        Self::named(self.name.clone(), server).await
    }

    pub(crate) fn store(&self) -> PostgresStore {
        PostgresStore::new(&self.url, "headgate-test", 16).expect("a URL")
    }

    /// Runs statements without results.
    pub(crate) async fn run(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&self.sql).await.expect(sql);
    }

    /// The same, made up while the test runs.
    pub(crate) async fn execute(&self, sql: String) {
        sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&self.sql).await.expect(&sql);
    }

    /// A role of its own with so many connections at most, and the URL with which it connects here.
    pub(crate) async fn role_with_connections(&self, limit: u32) -> (String, String) {
        let role = format!("role_{:032x}", rand::random::<u128>());
        self.execute(format!("CREATE ROLE {role} LOGIN PASSWORD 'secret' CONNECTION LIMIT {limit}")).await;
        let mut url = url::Url::parse(&self.url).expect("a URL");
        url.set_username(&role).expect("a URL of a server");
        url.set_password(Some("secret")).expect("a URL of a server");
        (role, url.to_string())
    }

    /// One column of one row.
    pub(crate) async fn one<T>(&self, sql: &'static str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        sqlx::query_scalar(sql).fetch_one(&self.sql).await.expect(sql)
    }

    /// One column of all rows.
    pub(crate) async fn all<T>(&self, sql: &'static str) -> Vec<T>
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        sqlx::query_scalar(sql).fetch_all(&self.sql).await.expect(sql)
    }
}

async fn on_server(server: &str, sql: String) {
    let mut connection = PgConnection::connect(server).await.expect("the server of the test answers");
    sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&mut connection).await.expect(&sql);
}

impl Drop for Database {
    /// Also after a failed test nothing stays behind on the server.
    fn drop(&mut self) {
        let Some(server) = self.dropped_on.take() else { return };
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(on_server(&server, sql));
        });
        let _ = dropping.join();
    }
}
