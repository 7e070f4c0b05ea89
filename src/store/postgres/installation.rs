//! One installation of Headgate per schema.

use super::{PostgresStore, failure::store_error, session};
use crate::store::StoreError;
use sqlx::Row as _;

const CLAIM: &str = include_str!("sql/claim_installation.sql");

#[derive(Debug, thiserror::Error)]
pub enum InstallationError {
    /// Two installations would know nothing of each other's Leases and take each other's sources for their own.
    #[error(
        "this database belongs to another installation of Headgate (Lease headgate-installation with UID {owner}); \
         use a database of its own, or start once with --take-over if that installation is gone"
    )]
    Taken { owner: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PostgresStore {
    /// Writes that the installation whose Lease `headgate-installation` has this UID owns the schema.
    ///
    /// # Errors
    /// When another one owns it, unless `take_over`.
    pub async fn claim_installation(&self, lease_uid: &str, take_over: bool) -> Result<(), InstallationError> {
        let action = "claim the installation";
        let statement = sqlx::query(CLAIM).bind(lease_uid).bind(take_over);
        let rows = session::rows(&self.pool, action, statement).await?;
        let row = rows.first().ok_or_else(|| store_error(action, sqlx::Error::RowNotFound))?;
        let owner: String = row.try_get("lease_uid").map_err(|error| store_error(action, error))?;
        if owner == lease_uid { Ok(()) } else { Err(InstallationError::Taken { owner }) }
    }
}
