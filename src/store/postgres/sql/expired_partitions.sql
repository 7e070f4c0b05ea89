-- The first $2 tables of days that ended longer ago than the retention ($1, in microseconds), oldest first.
SELECT parent, name, state
FROM headgate.partition
WHERE ends_on::timestamp AT TIME ZONE 'UTC' <= clock_timestamp() - $1 * interval '1 microsecond'
ORDER BY ends_on, parent
LIMIT $2
