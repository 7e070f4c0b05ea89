-- The first installation gets the row; a later one only if it takes over. Two that come at once wait for each other at the
-- key, and the second sees what the first wrote. A row without a name was claimed by a release that gave none, or comes from a
-- backup of that time: it gets the name that the Lease of its installation knows, or a new one.
INSERT INTO headgate.installation (lease_uid, database, claimed_at)
VALUES ($1, gen_random_uuid(), clock_timestamp())
ON CONFLICT (singleton) DO UPDATE
SET
    lease_uid = CASE WHEN $2 THEN excluded.lease_uid ELSE installation.lease_uid END,
    database = CASE
        WHEN $2 THEN coalesce(installation.database, excluded.database)
        WHEN installation.lease_uid = $1 THEN coalesce(installation.database, $3::uuid, excluded.database)
        ELSE installation.database
    END,
    claimed_at = CASE WHEN $2 THEN excluded.claimed_at ELSE installation.claimed_at END
RETURNING lease_uid, database::text AS database
