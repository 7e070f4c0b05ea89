-- EXTEND: the request is still running. It only ever lengthens: an extension that was delayed behind a longer one must not
-- take time back from a request that relies on it.
request AS MATERIALIZED (
    SELECT r.stream, r.attempt, r.by * interval '1 microsecond' AS by, r.ordinal
    FROM unnest($1::text[], $2::bytea[], $3::bigint[]) WITH ORDINALITY AS r (stream, attempt, by, ordinal)
),
extended AS (
    UPDATE headgate.source AS g
    SET
        deadline = greatest(s.ends_at, s.now + r.by),
        longest_flight = greatest(s.ends_at, s.now + r.by) - s.now
    FROM request AS r
    JOIN standing AS s USING (stream)
    WHERE g.stream = s.stream AND s.attempt = r.attempt
    RETURNING g.stream
)
SELECT
    r.ordinal,
    CASE
        WHEN a.stream IS NOT NULL THEN 'applied'
        WHEN s.stream IS NOT NULL THEN 'refused'
        WHEN EXISTS (SELECT FROM headgate.source AS known WHERE known.stream = r.stream) THEN 'locked'
        ELSE 'missing'
    END AS outcome,
    s.holder,
    s.fence,
    s.epoch,
    s.cursor,
    s.attempt,
    s.in_flight_for,
    s.starts_in
FROM request AS r
LEFT JOIN standing AS s USING (stream)
LEFT JOIN extended AS a USING (stream)
ORDER BY r.ordinal
