-- Deletes, of the pages from $2 up to $3, the items that were set aside longer ago than the retention ($1, in microseconds), by the
-- database's clock and the caller's ($4).
-- By pages, because each statement is to end, and an index by age would cost every item that is set aside.
DELETE FROM headgate.set_aside
WHERE
    ctid >= $2::text::tid
    AND ctid < $3::text::tid
    AND stored_at < least(statement_timestamp(), $4::timestamptz) - $1 * interval '1 microsecond'
