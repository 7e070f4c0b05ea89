-- ABORT: closes an attempt whose request never left, or was answered to its end. Repeated after a lost answer it finds its
-- own token as the one closed last, and changes nothing.
request AS MATERIALIZED (
    SELECT r.stream, r.attempt, r.next_start * interval '1 microsecond' AS next_start, r.ordinal
    FROM unnest($1::text[], $2::bytea[], $3::bigint[]) WITH ORDINALITY AS r (stream, attempt, next_start, ordinal)
),
closed AS (
    UPDATE headgate.source AS g
    SET
        attempt = NULL,
        closed_attempt = s.attempt,
        -- The caller knows better than RESERVE when the request left. But a slot that has not come yet stands for the
        -- request before this one, and no abort may bring it forward.
        not_before = greatest(s.now + r.next_start, s.slot_at),
        longest_wait = greatest(s.now + r.next_start, s.slot_at) - s.now
    FROM request AS r
    JOIN standing AS s USING (stream)
    WHERE g.stream = s.stream AND s.attempt = r.attempt
    RETURNING g.stream
)
SELECT
    r.ordinal,
    CASE
        WHEN a.stream IS NOT NULL OR s.closed_attempt = r.attempt THEN 'applied'
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
LEFT JOIN closed AS a USING (stream)
ORDER BY r.ordinal
