//! A real pgbouncer in transaction mode before a real PostgreSQL.

mod program;

use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use url::Url;

pub use self::program::Program;
use crate::account::Account;
use crate::place::{Place, write_secret};
use crate::ports::free_port;
use crate::process::Signal;
use crate::server::{Recipe, Server};

/// It starts at once; the machine may be busy.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// The database that is its own console.
const CONSOLE: &str = "pgbouncer";

/// A pooler that ends with this value.
#[derive(Debug)]
pub struct PgBouncer {
    server: Server,
    server_url: Url,
    port: u16,
}

impl PgBouncer {
    /// One before the server of this URL, in transaction mode, with at most so many connections to each of its databases,
    /// and further settings of the file.
    ///
    /// # Errors
    /// When there is no pgbouncer, or it does not start.
    pub async fn before(url: &str, connections: u32, settings: &[(&str, &str)]) -> Result<Self> {
        let server_url = Url::parse(url)?;
        let (program, port) = (Program::locate()?, free_port()?);
        let account = Account::for_servers()?;
        let place = Arc::new(Place::temporary("pgbouncer")?);
        let directory = place.directory_of("pgbouncer", account.as_ref())?;
        let (users, file) = (directory.join("users"), directory.join("pgbouncer.ini"));
        let user = server_url.username();
        write_secret(&users, &format!("\"{user}\" \"{}\"\n", server_url.password().unwrap_or_default()))?;
        let mut text = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\nadmin_users = {user}\npool_mode = transaction\n\
             default_pool_size = {connections}\nmax_client_conn = 500\n",
            server_url.host_str().context("a URL with a host")?,
            server_url.port().unwrap_or(5432),
            users.display(),
        );
        for (name, value) in settings {
            writeln!(text, "{name} = {value}")?;
        }
        fs::write(&file, text)?;
        if let Some(account) = &account {
            account.own(&users)?;
            account.own(&file)?;
        }
        let arguments = program.arguments.into_iter().chain([file.display().to_string()]).collect();
        let recipe = Recipe {
            name: "pgbouncer",
            program: program.file,
            arguments,
            directory,
            account,
            // The other signals let it wait for its clients.
            stop: Signal::QUIT,
            end: Signal::QUIT,
        };
        let mut server = Server::in_place(&place, recipe);
        server.start()?;
        let bouncer = Self { server, server_url, port };
        bouncer.server.process()?.ready(READY_WITHIN, async || bouncer.console().await.is_ok()).await?;
        Ok(bouncer)
    }

    /// The way to a URL of the server through this pooler.
    ///
    /// # Errors
    /// When the URL cannot be read.
    pub fn url(&self, url: &str) -> Result<String> {
        let mut url = Url::parse(url)?;
        url.set_host(Some("127.0.0.1"))?;
        url.set_port(Some(self.port)).map_err(|()| anyhow::anyhow!("a URL without a port"))?;
        Ok(url.to_string())
    }

    /// Tells it something on its console (`RECONNECT`).
    ///
    /// # Errors
    /// When it does not take the command.
    pub async fn tell(&self, command: &'static str) -> Result<()> {
        let mut console = self.console().await?;
        sqlx::raw_sql(command).execute(&mut console).await.with_context(|| format!("tell pgbouncer to {command}"))?;
        Ok(())
    }

    async fn console(&self) -> Result<PgConnection> {
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username(self.server_url.username())
            .database(CONSOLE)
            .extra_float_digits(None);
        Ok(PgConnection::connect_with(&options).await?)
    }
}
