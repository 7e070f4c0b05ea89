-- The first $2 tables of days that ended longer ago than the retention ($1, in microseconds), oldest first. By both clocks: the
-- database's may be set ahead after it was compared with the caller's ($3).
SELECT parent, name, state
FROM headgate.partition
WHERE ends_on::timestamp AT TIME ZONE 'UTC' <= least(clock_timestamp(), $3::timestamptz) - $1 * interval '1 microsecond'
ORDER BY ends_on, parent
LIMIT $2
