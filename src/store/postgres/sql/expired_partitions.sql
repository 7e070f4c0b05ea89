-- The tables of days that ended longer ago than the retention ($1, in microseconds). By both clocks: the database's may be set ahead
-- after it was compared with the caller's ($2).
-- One whose detach was interrupted first: PostgreSQL detaches no other of its table before. Those that are detached last: they may
-- be there because they cannot be dropped, and are as many as they like.
SELECT parent, name, state
FROM headgate.partition
WHERE ends_on::timestamp AT TIME ZONE 'UTC' <= least(clock_timestamp(), $2::timestamptz) - $1 * interval '1 microsecond'
ORDER BY array_position(ARRAY['pending', 'attached', 'detached'], state), ends_on, parent
