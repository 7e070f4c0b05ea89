//! What has to be done before the store may be used: bring the schema to this release, and claim the database for this
//! installation. All else starts beside it, so that a replica whose database is down takes part and says so.

use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::sync::watch;

use super::{
    OperatorError,
    claimed_store::Claim,
    cluster::Cluster,
    startup::{Failed, until_it_works},
};
use crate::{
    cli::{DatabaseArgs, RunArgs},
    store::{
        StoreError,
        postgres::{Bound, InstallationError, MigrateError, PostgresStore, check_url, migrate as migrate_schema},
    },
    telemetry::{
        cause::in_one_line,
        health::{Health, Part},
    },
};

/// How the claim stands before the first try.
pub(super) const AT_FIRST: Claim = Claim::UnderWay("migrate the schema");

/// How long the migrations of one try may take, with the wait for another replica that is at it. A connection that fell silent is
/// given up then.
const MIGRATION_LIMIT: Duration = Duration::from_mins(5);

/// Between two tries of a migration for which polls had to wait: a second of each minute at most, for each replica that starts.
const MIGRATION_REST: Duration = Duration::from_mins(2);

/// One replica on its way to the store.
pub(super) struct Admission<'a> {
    pub(super) args: &'a RunArgs,
    pub(super) store: &'a PostgresStore,
    pub(super) cluster: &'a Cluster,
    pub(super) health: &'a Health,
    pub(super) claim: watch::Sender<Claim>,
}

impl Admission<'_> {
    /// Tries until the claim stands. It may be dropped at any time: a migration is one transaction.
    ///
    /// # Errors
    /// What waiting does not mend: a schema that cannot be brought to this release, a database of another installation,
    /// rights that are missing.
    pub(super) async fn run(&self) -> Result<(), OperatorError> {
        let reached = until_it_works(Part::Kubernetes, self.health, async || self.cluster.installation().await);
        tokio::try_join!(reached, self.migrated())?;
        self.claimed().await?;
        self.claim.send_replace(Claim::Stands);
        Ok(())
    }

    async fn migrated(&self) -> Result<(), OperatorError> {
        until_it_works(Part::Database, self.health, async || {
            match migrated(&self.args.database, Some(MIGRATION_LIMIT)).await {
                Err(OperatorError::Schema(MigrateError::Store(error))) if waiting_mends(&error) => {
                    Err(self.wait_for_database(&error))
                }
                Err(OperatorError::Schema(MigrateError::TableInUse(error))) => {
                    self.tell_of(&error);
                    Err(Failed::Rest(in_one_line(&MigrateError::TableInUse(error)), MIGRATION_REST))
                }
                migrated => migrated.map_err(Failed::GiveUp),
            }
        })
        .await
    }

    /// The database belongs to this installation, and the Leases of this installation to the database. Each try reads the Lease
    /// anew: of two first replicas with different databases one finds it bound.
    async fn claimed(&self) -> Result<(), OperatorError> {
        self.claim.send_replace(Claim::UnderWay("claim the installation"));
        until_it_works(Part::Installation, self.health, async || {
            let installation = self.cluster.installation().await?;
            let bound = match installation.database() {
                Some(database) => Bound::To(database),
                None if self.cluster.has_database_in_use(&installation).await? => Bound::ToOneInUse,
                None => Bound::ToNone,
            };
            let database = match self.store.claim_installation(installation.uid(), bound, self.args.take_over).await {
                Err(InstallationError::Store(error)) if waiting_mends(&error) => Err(self.wait_for_database(&error)),
                claimed => claimed.map_err(|error| Failed::GiveUp(error.into())),
            }?;
            self.cluster.bind(&installation, &database).await
        })
        .await
    }

    /// Whoever asks the store meanwhile hears the same as `/readyz` says.
    fn wait_for_database(&self, error: &StoreError) -> Failed {
        self.tell_of(error);
        Failed::Wait(in_one_line(error))
    }

    fn tell_of(&self, error: &StoreError) {
        if let StoreError::Unavailable { action, source } = error {
            self.claim.send_replace(Claim::Unavailable { action, why: in_one_line(&**source).into() });
        }
    }
}

/// Brings the schema to this release, over the direct connection if one was given, within `limit`.
///
/// # Errors
/// When the database cannot be reached, or the schema not be changed.
pub(super) async fn migrated(args: &DatabaseArgs, limit: Option<Duration>) -> Result<(), OperatorError> {
    let (flag, url) = direct_url(args);
    migrate_schema(url, limit).await.map_err(|error| match error {
        MigrateError::Url(source) => OperatorError::DatabaseUrl { flag, source },
        error => error.into(),
    })
}

/// Finds a URL that cannot be read before anything is started.
///
/// # Errors
/// When it cannot be read.
pub(super) fn check(args: &DatabaseArgs) -> Result<(), OperatorError> {
    let (flag, url) = direct_url(args);
    check_url(url).map_err(|source| OperatorError::DatabaseUrl { flag, source })
}

/// Past any pooler, and the flag that it comes from.
pub(super) fn direct_url(args: &DatabaseArgs) -> (&'static str, &str) {
    match &args.migrate_database_url {
        Some(url) => ("--migrate-database-url", url.expose_secret()),
        None => ("--database-url", args.database_url.expose_secret()),
    }
}

fn waiting_mends(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable { .. })
}
