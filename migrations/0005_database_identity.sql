-- What the Lease `headgate-installation` names: its Leases and the rows of this database belong together. A copy and a standby
-- have the same.
ALTER TABLE headgate.installation ADD COLUMN database uuid NOT NULL DEFAULT gen_random_uuid();
