//! One installation of Headgate per schema, and one database per installation.

use std::sync::{Arc, OnceLock};

use sqlx::{PgConnection, Row as _, postgres::PgRow};

use super::{PostgresStore, failure::store_error, session};
use crate::store::StoreError;

const CLAIM: &str = include_str!("sql/claim_installation.sql");
const FIND: &str = "SELECT lease_uid, database::text AS database FROM headgate.installation";

/// What no session of a claimed store may lack.
const IS_ANOTHER: &str = "this is not the database that this replica claimed: its name leads elsewhere now, or another \
                          installation has taken it over; restart the replica to hear which";

#[derive(Debug, thiserror::Error)]
pub enum InstallationError {
    /// Two installations would know nothing of each other's Leases and take each other's sources for their own.
    #[error(
        "this database belongs to another installation of Headgate (Lease headgate-installation with UID {owner}); \
         use a database of its own, or start once with --take-over if that installation is gone"
    )]
    Taken { owner: String },
    /// The other replicas may still work with that one, and neither the cursors nor the waits of its sources are here.
    #[error(
        "the Leases of this namespace belong to another database (Lease headgate-installation, headgate.dev/database: {theirs}); \
         to move, scale to 0, copy that database and scale up; to begin anew with this one, scale to 0 and start once with \
         --take-over"
    )]
    Elsewhere { theirs: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who claimed which database, once it is claimed.
pub(super) type Claimed = Arc<OnceLock<Claim>>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    lease_uid: String,
    database: String,
}

impl Claim {
    fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self { lease_uid: row.try_get("lease_uid")?, database: row.try_get("database")? })
    }
}

impl PostgresStore {
    /// Writes that the installation whose Lease `headgate-installation` has this UID owns the schema. `bound` is the database that
    /// its Leases belong to, if that was decided before. Returns the name of this one.
    ///
    /// # Errors
    /// When another installation owns it, or its Leases belong to another database; unless `take_over`. Then nothing is written.
    pub async fn claim_installation(
        &self,
        lease_uid: &str,
        bound: Option<&str>,
        take_over: bool,
    ) -> Result<String, InstallationError> {
        let action = "claim the installation";
        if let Some(theirs) = bound.filter(|_| !take_over) {
            let rows = session::rows(&self.pool, action, sqlx::query(FIND)).await?;
            let found = rows.first().map(Claim::read).transpose().map_err(|error| store_error(action, error))?;
            // A database without a name is a new one.
            if found.is_none_or(|claim| claim.database != theirs) {
                return Err(InstallationError::Elsewhere { theirs: theirs.to_owned() });
            }
        }
        let statement = sqlx::query(CLAIM).bind(lease_uid).bind(take_over);
        let rows = session::rows(&self.pool, action, statement).await?;
        let row = rows.first().ok_or_else(|| store_error(action, sqlx::Error::RowNotFound))?;
        let claim = Claim::read(row).map_err(|error| store_error(action, error))?;
        if claim.lease_uid != lease_uid {
            return Err(InstallationError::Taken { owner: claim.lease_uid });
        }
        Ok(self.claimed.get_or_init(|| claim).database.clone())
    }
}

/// A name may come to lead to another server, and a database be taken over: what a new session lacks then.
pub(super) async fn lacks(
    claimed: &Claimed,
    connection: &mut PgConnection,
) -> Result<Option<&'static str>, sqlx::Error> {
    let Some(claim) = claimed.get() else { return Ok(None) };
    let row = sqlx::query(FIND).fetch_optional(connection).await?;
    let found = row.as_ref().map(Claim::read).transpose()?;
    Ok((found.as_ref() != Some(claim)).then_some(IS_ANOTHER))
}
