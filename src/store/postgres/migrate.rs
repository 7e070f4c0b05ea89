//! The schema, embedded. Every replica runs it at start; the migrator's advisory lock lets one at a time through.

use std::time::Duration;

use sqlx::{
    Connection, PgConnection,
    migrate::{Migrate, Migrator},
    postgres::PgConnectOptions,
};

use super::{
    failure::{Cause, store_error, waits_for_a_lock},
    session::{self, InvalidUrl},
};
use crate::store::StoreError;

const SCHEMA: &str = "headgate";
const APPLICATION: &str = "headgate-migrate";
const TABLE: &str = "headgate.migration";

/// While a step waits for the lock of a table behind one long reader of it (a backup), every poll of every replica waits
/// behind the step. So it gives up soon, and the start tries again, seldom.
const WAIT_FOR_TABLES: &str = "SET lock_timeout = '1s'";

/// The role may have the limits of the store's own statements (docs/pooler.md): a step that fills an index takes longer, and so
/// does another replica that is at it.
const WITHOUT_LIMITS: &str = "SET statement_timeout = 0; SET lock_timeout = 0";

/// A server at work on a step, or waiting for a lock, does not notice that its client is gone, and the migrator's lock would stay
/// with it: so it looks. One that cannot (on Windows, or before 14) goes without.
const ENDS_WITH_ITS_CLIENT: &str = "DO $$ BEGIN PERFORM set_config('client_connection_check_interval', '1s', false); \
                                    EXCEPTION WHEN invalid_parameter_value OR undefined_object THEN NULL; END $$";

#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    /// The database does not answer, or refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An applied migration is not the one that this version carries.
    #[error("migration {version} of this database differs from the one in this release of Headgate")]
    Changed { version: i64 },
    #[error("migration {version} of this database was interrupted; repair it by hand")]
    Interrupted { version: i64 },
    /// All polls of all replicas wait behind the step while it waits.
    #[error(
        "another session reads or locks a table of Headgate for longer than a migration may hold up polls (1 s): a backup?"
    )]
    TableInUse(#[source] StoreError),
}

/// Brings the schema up to date. It needs a direct connection: the migrator's lock belongs to a session, which a pooler in
/// transaction mode does not keep. Within `limit`, with the wait for another replica that is at it, if there is one. Given up or
/// dropped, the step that is under way is undone by the server.
///
/// # Errors
/// [`MigrateError::Store`] with [`StoreError::Unavailable`] while the database is down, and at the limit: ask again later.
/// [`MigrateError::TableInUse`]: ask again much later.
pub async fn migrate(url: &str, limit: Option<Duration>) -> Result<(), MigrateError> {
    run(&session::options(url, APPLICATION)?, limit.unwrap_or(Duration::MAX)).await
}

/// Whether a URL can be read, so that a wrong one is found before anything is started.
///
/// # Errors
/// When it cannot.
pub fn check_url(url: &str) -> Result<(), InvalidUrl> {
    session::options(url, APPLICATION).map(drop)
}

async fn run(options: &PgConnectOptions, limit: Duration) -> Result<(), MigrateError> {
    let action = "migrate the schema";
    let failed = |error| MigrateError::Store(store_error(action, error));
    let mut connection = session::within_limit(action, PgConnection::connect_with(options)).await?;
    // CREATE SCHEMA IF NOT EXISTS asks for the right to create one even where it exists.
    let exists = sqlx::query_scalar("SELECT to_regnamespace($1) IS NOT NULL").bind(SCHEMA);
    let exists: bool = session::within_limit(action, exists.fetch_one(&mut connection)).await?;
    let mut migrator: Migrator = sqlx::migrate!();
    migrator.dangerous_set_table_name(TABLE);
    if !exists {
        migrator.create_schema(SCHEMA);
    }
    // A replica of the version before restarts while an update rolls out; migrations only add, so it goes on.
    migrator.set_ignore_missing(true);
    // Taken here, because the limit for tables is not one for the migrator's own lock: another replica may need longer.
    migrator.set_locking(false);
    let migrated = tokio::time::timeout(limit, async {
        sqlx::raw_sql(WITHOUT_LIMITS).execute(&mut connection).await?;
        sqlx::raw_sql(ENDS_WITH_ITS_CLIENT).execute(&mut connection).await?;
        connection.lock().await?;
        sqlx::query(WAIT_FOR_TABLES).execute(&mut connection).await?;
        migrator.run_direct(None, &mut connection, false).await
    })
    .await;
    // Closing gives the advisory lock back, whatever happened.
    drop(connection);
    let migrated = migrated.map_err(|_elapsed| session::unavailable(action, Cause::TakesLong(limit)))?;
    migrated.map_err(|error| match error {
        sqlx::migrate::MigrateError::VersionMismatch(version) => MigrateError::Changed { version },
        sqlx::migrate::MigrateError::Dirty(version) => MigrateError::Interrupted { version },
        sqlx::migrate::MigrateError::Execute(error) | sqlx::migrate::MigrateError::ExecuteMigration(error, _) => {
            match store_error(action, error) {
                error if waits_for_a_lock(&error) => MigrateError::TableInUse(error),
                error => error.into(),
            }
        }
        other => failed(sqlx::Error::Migrate(Box::new(other))),
    })
}

#[cfg(test)]
mod tests {
    /// The checksum of each migration, as the databases that have applied it have written it down.
    const APPLIED: [(i64, &str); 8] = [
        (
            1,
            "8536f59fb8818ed1195bbebd268c89fc7c9de004fcbf4dc23abcf358301407c7\
             86ac5a72c5e54b3249f98d212309e485",
        ),
        (
            2,
            "14de2402b913d4c4e11b86b917359e878f0d615ba387ba004ef40d41cf5493c9\
             2b53ee3efeadd3392629721f814301f4",
        ),
        (
            3,
            "50e868c985a1b9ef18668c5e3a8ddab749bb3810ddfeb7bb96285dead770d4ac\
             b3e88179fbdba0514da1d96d423fe946",
        ),
        (
            4,
            "938ceee6b2b42e7708ef2acfc68a5e82607894b29f31614fa4cb68a9e5e2019e\
             c49c5a48b01603e8fa7c07f0b528476f",
        ),
        (
            5,
            "70aef9cda40ac8e87a1bd7bca0604b52324ff1c0683be9a76e181d5db0aa7c30\
             35e2650f1fa82155b4d1c394a1cad4da",
        ),
        (
            6,
            "cccf2941c826950360016ffa00ea18dd233f15f52f3ab9594433f7778f8e38a2\
             cbf9d93af592a62d0ff71bcdb93344fb",
        ),
        (
            7,
            "b3aec495c25bb64ae583b124ba71978f5aa3aaeb17ef49ae4ff9b990003cf875\
             b8ca16153f2177d97ff964a213371656",
        ),
        (
            8,
            "d2bbd55c4173894eca86742787ab9fdccf5eab549f7150c500bb6c094d842480\
             df141c778520ab79e764cc47416b989b",
        ),
    ];

    #[test]
    fn a_migration_that_a_database_has_applied_never_changes() {
        let carried: Vec<(i64, String)> = sqlx::migrate!()
            .iter()
            .map(|migration| {
                (migration.version, format!("{:02x?}", migration.checksum).replace([' ', ',', '[', ']'], ""))
            })
            .collect();
        let applied = APPLIED.map(|(version, checksum)| (version, checksum.to_owned()));
        assert_eq!(
            carried, applied,
            "databases that have applied a migration refuse one that has changed: add a new migration instead, and its line here"
        );
    }
}
