-- RESERVE: the right to send one request. Two replicas that believe to hold the source both come here; the row lock puts
-- one first, and the other finds an attempt in flight, or another fence.
--
-- It also closes the attempt before it, if the caller says that it is over (`ended`): its answer was read to its end, and
-- the caller counts from its first byte. That token is the caller's own; where the row carries another one, nothing is
-- closed, and the row counts as it stands.
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
        r.ended,
        r.next_start * interval '1 microsecond' AS next_start,
        r.ordinal
    FROM unnest(
        $1::text[], $2::text[], $3::bigint[], $4::text[], $5::bytea[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[],
        $10::bytea[], $11::bigint[]
    ) WITH ORDINALITY AS r (
        stream, holder, fence, cursor, attempt, send_within, in_flight, min_interval, ahead, ended, next_start, ordinal
    )
),
judged AS MATERIALIZED (
    SELECT
        s.stream,
        s.holder,
        s.fence,
        s.epoch,
        s.cursor,
        s.attempt AS standing_attempt,
        s.now,
        s.starts_at,
        d.opens_at,
        d.free_at,
        s.starts_at < s.not_before OR (s.attempt IS NOT NULL AND s.ends_at < s.deadline) AS jumped_back,
        greatest(s.now, d.opens_at) AS slot,
        r.attempt,
        r.send_within,
        r.in_flight,
        r.min_interval,
        (
            s.holder = r.holder
            AND s.fence = r.fence
            AND s.cursor IS NOT DISTINCT FROM r.cursor
            -- Nothing in flight: closed, or past its deadline. A slot ahead never waits for a deadline, which may be extended.
            AND d.free_at <= s.now
            AND d.opens_at <= s.now + r.ahead
        ) IS TRUE AS granted
    FROM request AS r
    JOIN standing AS s USING (stream)
    CROSS JOIN LATERAL (SELECT (s.attempt = r.ended) IS TRUE AS closes) AS c
    -- The waits, with that attempt closed. Its slot has come, whatever the clock shows: its request was answered.
    CROSS JOIN LATERAL (
        SELECT
            CASE WHEN c.closes THEN s.now + r.next_start ELSE s.starts_at END AS opens_at,
            CASE WHEN c.closes THEN s.now ELSE s.ends_at END AS free_at
    ) AS d
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
        WHEN j.stream IS NOT NULL THEN 'refused'
        WHEN EXISTS (SELECT FROM headgate.source AS known WHERE known.stream = r.stream) THEN 'locked'
        ELSE 'missing'
    END AS outcome,
    a.wait,
    j.holder,
    j.fence,
    j.epoch,
    j.cursor,
    j.standing_attempt AS attempt,
    greatest(j.free_at - j.now, interval '0') AS in_flight_for,
    greatest(j.opens_at - j.now, interval '0') AS starts_in
FROM request AS r
LEFT JOIN judged AS j USING (stream)
LEFT JOIN granted AS a USING (stream)
ORDER BY r.ordinal
