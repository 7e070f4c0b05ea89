-- Deletes the next $2 items that were set aside longer ago than the retention ($1, in microseconds). Nobody updates these rows, so
-- a place that was read is the row that is meant.
WITH deleted AS (
    DELETE FROM headgate.set_aside
    WHERE ctid = ANY (ARRAY(
        SELECT ctid
        FROM headgate.set_aside
        WHERE stored_at < clock_timestamp() - $1 * interval '1 microsecond'
        ORDER BY stored_at
        LIMIT $2
    ))
    RETURNING 1
)
SELECT count(*) AS deleted
FROM deleted
