-- The first installation gets the row; a later one only if it takes over. Two that come at once wait for each other at the
-- key, and the second sees what the first wrote.
INSERT INTO headgate.installation (lease_uid, claimed_at)
VALUES ($1, clock_timestamp())
ON CONFLICT (singleton) DO UPDATE
SET
    lease_uid = CASE WHEN $2 THEN excluded.lease_uid ELSE installation.lease_uid END,
    claimed_at = CASE WHEN $2 THEN excluded.claimed_at ELSE installation.claimed_at END
RETURNING lease_uid, database::text AS database
