-- The days that no reader sees, and that have not expired ($1 is the retention in microseconds, null where all is kept; by both clocks,
-- the caller's is $2), with what brings each of them back. A day that is being made is not among them: it is attached before others
-- see it. One that another replica is dropping under a shorter retention is.
SELECT
    name,
    CASE state WHEN 'pending' THEN format('ALTER TABLE headgate.%I DETACH PARTITION headgate.%I FINALIZE; ', parent, name) ELSE '' END
    || format(
        'ALTER TABLE headgate.%I ATTACH PARTITION headgate.%I FOR VALUES FROM (%L) TO (%L);',
        parent, name, to_char(ends_on - 1, 'YYYY-MM-DD 00:00:00+00'), to_char(ends_on, 'YYYY-MM-DD 00:00:00+00')
    ) AS bring_back
FROM headgate.partition
WHERE
    state <> 'attached'
    AND coalesce(
        ends_on::timestamp AT TIME ZONE 'UTC' > least(clock_timestamp(), $2::timestamptz) - $1 * interval '1 microsecond',
        true
    )
ORDER BY ends_on, parent
