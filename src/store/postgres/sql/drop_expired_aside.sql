-- Deletes, of the pages from $2 up to $3, the items that were set aside longer ago than the retention ($1, in microseconds).
-- By pages, because each statement is to end, and an index by age would cost every item that is set aside.
DELETE FROM headgate.set_aside
WHERE
    ctid >= $2::text::tid
    AND ctid < $3::text::tid
    AND stored_at < statement_timestamp() - $1 * interval '1 microsecond'
