-- RESERVE: the right to send one request. Two replicas that believe to hold the source both come here; the row lock puts
-- one first, and the other finds an attempt in flight, or another fence.
request AS MATERIALIZED (
    SELECT
        r.stream,
        r.holder,
        r.fence,
        r.cursor,
        r.attempt,
        r.send_within * interval '1 microsecond' AS send_within,
        r.in_flight * interval '1 microsecond' AS in_flight,
        r.min_interval * interval '1 microsecond' AS min_interval,
        r.ahead * interval '1 microsecond' AS ahead,
        r.ordinal
    FROM unnest(
        $1::text[], $2::text[], $3::bigint[], $4::text[], $5::bytea[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[]
    ) WITH ORDINALITY AS r (stream, holder, fence, cursor, attempt, send_within, in_flight, min_interval, ahead, ordinal)
),
judged AS MATERIALIZED (
    SELECT
        s.stream,
        s.now,
        s.starts_at,
        s.ends_at,
        s.starts_at < s.not_before OR (s.attempt IS NOT NULL AND s.ends_at < s.deadline) AS jumped_back,
        greatest(s.now, s.starts_at) AS slot,
        r.attempt,
        r.send_within,
        r.in_flight,
        r.min_interval,
        (
            s.holder = r.holder
            AND s.fence = r.fence
            AND s.cursor IS NOT DISTINCT FROM r.cursor
            -- Nothing in flight: closed, or past its deadline. A slot ahead never waits for a deadline, which may be extended.
            AND s.ends_at <= s.now
            AND s.starts_at <= s.now + r.ahead
        ) IS TRUE AS granted
    FROM request AS r
    JOIN standing AS s USING (stream)
),
granted AS (
    UPDATE headgate.source AS g
    SET
        attempt = j.attempt,
        closed_attempt = NULL,
        parts = 0,
        slot = j.slot,
        -- The request may leave as late as slot + send_within. Nobody is heard of for in_flight at most: the request may be on
        -- its way for that long, and the gap counts from its arrival. An attempt that is closed knows better.
        deadline = j.slot + j.send_within + j.in_flight,
        longest_flight = j.slot - j.now + j.send_within + j.in_flight,
        not_before = j.slot + j.send_within + j.in_flight + j.min_interval,
        longest_wait = j.slot - j.now + j.send_within + j.in_flight + j.min_interval
    FROM judged AS j
    WHERE g.stream = j.stream AND j.granted
    RETURNING g.stream, j.slot - j.now AS wait
),
-- A cut wait is written down: else it would be cut to the same length at every look, and never pass.
cut AS (
    UPDATE headgate.source AS g
    SET deadline = least(g.deadline, j.now + g.longest_flight), not_before = j.starts_at
    FROM judged AS j
    WHERE g.stream = j.stream AND j.jumped_back AND NOT j.granted
)
SELECT
    r.ordinal,
    CASE
        WHEN a.stream IS NOT NULL THEN 'applied'
        WHEN s.stream IS NOT NULL THEN 'refused'
        WHEN EXISTS (SELECT FROM headgate.source AS known WHERE known.stream = r.stream) THEN 'locked'
        ELSE 'missing'
    END AS outcome,
    (extract(epoch FROM a.wait) * 1000000)::bigint AS wait_us,
    s.holder,
    s.fence,
    s.epoch,
    s.cursor,
    s.attempt,
    s.in_flight_us,
    s.starts_us
FROM request AS r
LEFT JOIN standing AS s USING (stream)
LEFT JOIN granted AS a USING (stream)
ORDER BY r.ordinal
