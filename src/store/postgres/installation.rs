//! One installation of Headgate per schema, and one database per installation.

use std::sync::{Arc, PoisonError, RwLock};

use sqlx::{PgConnection, Row as _, postgres::PgRow};

use super::{PostgresStore, failure, session};
use crate::store::StoreError;

const CLAIM: &str = include_str!("sql/claim_installation.sql");
const FIND: &str = "SELECT lease_uid, database::text AS database FROM headgate.installation";

const ACTION: &str = "claim the installation";

/// What a session lacks that reaches another database than the claimed one.
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
        "the Leases of this namespace belong to another database{}; to move, scale to 0, copy that database and scale up; to go on \
         with this one and what it knows, scale to 0 and start once with --take-over",
        .theirs.as_ref().map_or_else(String::new, |name| format!(" (Lease headgate-installation, headgate.dev/database: {name})"))
    )]
    Elsewhere { theirs: Option<String> },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What the Leases of an installation say of its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound<'a> {
    /// They belong to the one with this name.
    To(&'a str),
    /// Members have one that answers, and nothing says which: their release knew no names. An empty one is not theirs.
    ToOneInUse,
    /// Nothing: there are none yet.
    ToNone,
}

/// Who claimed which database, once it is claimed.
pub(super) type Claimed = Arc<RwLock<Option<Claim>>>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    lease_uid: String,
    database: Option<String>,
}

impl Claim {
    fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self { lease_uid: row.try_get("lease_uid")?, database: row.try_get("database")? })
    }
}

impl Bound<'_> {
    /// Whether this may be their database, of which this was found. A row without a name is judged by its UID alone.
    fn may_be(self, found: Option<&Claim>) -> bool {
        match (self, found) {
            (Self::To(name), Some(claim)) => claim.database.as_deref().is_none_or(|found| found == name),
            (Self::To(_) | Self::ToOneInUse, None) => false,
            (Self::ToOneInUse | Self::ToNone, _) => true,
        }
    }

    fn name(self) -> Option<String> {
        if let Self::To(name) = self { Some(name.to_owned()) } else { None }
    }
}

impl PostgresStore {
    /// Writes that the installation whose Lease `headgate-installation` has this UID owns the schema. Returns the name of the
    /// database, to be written on that Lease.
    ///
    /// # Errors
    /// When another installation owns it, or its Leases belong to another database, unless `take_over`. Then nothing is written.
    pub async fn claim_installation(
        &self,
        lease_uid: &str,
        bound: Bound<'_>,
        take_over: bool,
    ) -> Result<String, InstallationError> {
        let elsewhere = || InstallationError::Elsewhere { theirs: bound.name() };
        if !take_over {
            let rows = session::rows(&self.pool, ACTION, sqlx::query(FIND)).await?;
            let found = rows.first().map(Claim::read).transpose().map_err(failed)?;
            if !bound.may_be(found.as_ref()) {
                return Err(elsewhere());
            }
        }
        let statement = sqlx::query(CLAIM).bind(lease_uid).bind(take_over).bind(bound.name());
        let rows = session::rows(&self.pool, ACTION, statement).await?;
        let row = rows.first().ok_or_else(|| failed(sqlx::Error::RowNotFound))?;
        let claim = Claim::read(row).map_err(failed)?;
        if claim.lease_uid != lease_uid {
            return Err(InstallationError::Taken { owner: claim.lease_uid });
        }
        // Between the two statements its name may have come to lead elsewhere.
        if !take_over && !bound.may_be(Some(&claim)) {
            return Err(elsewhere());
        }
        let name = claim.database.clone().ok_or_else(|| failed(sqlx::Error::RowNotFound))?;
        *self.claimed.write().unwrap_or_else(PoisonError::into_inner) = Some(claim);
        Ok(name)
    }
}

fn failed(error: sqlx::Error) -> StoreError {
    failure::store_error(ACTION, error)
}

/// A name may come to lead to another server, and a database be taken over: what a new session lacks then.
pub(super) async fn lacks(
    claimed: &Claimed,
    connection: &mut PgConnection,
) -> Result<Option<&'static str>, sqlx::Error> {
    let Some(claim) = claimed.read().unwrap_or_else(PoisonError::into_inner).clone() else { return Ok(None) };
    let found = match sqlx::query(FIND).fetch_optional(connection).await {
        Ok(row) => row.as_ref().map(Claim::read).transpose()?,
        // It has no such table, or none that this role may read.
        Err(error) if failure::is_of_another_schema(&error) => None,
        Err(error) => return Err(error),
    };
    Ok((found != Some(claim)).then_some(IS_ANOTHER))
}
