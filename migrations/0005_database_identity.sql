-- What the Lease `headgate-installation` names: its Leases and the rows of this database belong together. A copy and a standby
-- have the same. Null where a release before this one has claimed it, until the next claim.
ALTER TABLE headgate.installation ADD COLUMN database uuid;
