-- ADOPT: fence + 1, holder = me; the row is made when there is none. The waits and an open attempt stay: whatever the last
-- holder sent may still be on its way, and its late answer is still welcome.
request AS MATERIALIZED (
    SELECT *
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::boolean[], $7::text[])
        WITH ORDINALITY AS r (stream, uid, holder, epoch, start, in_doubt, id_path, ordinal)
),
-- What the ids up to the cursor were read from. Null where there is no cursor, or nobody knows (migration 7). Where there is none,
-- but an answer is under way that would bring one of the other path, nobody waits for that answer any more.
read_before AS MATERIALIZED (
    SELECT
        s.stream,
        CASE WHEN s.uid IS NOT NULL AND s.cursor IS NOT NULL AND l.id_path_epoch = s.epoch THEN l.id_path END AS id_path,
        (s.attempt IS NOT NULL AND s.cursor IS NULL AND l.id_path <> r.id_path) IS TRUE AS is_under_way
    FROM standing AS s
    JOIN locked AS l USING (stream)
    JOIN request AS r USING (stream)
),
-- Two replicas that make the same rows wait here for each other; the order keeps them from waiting crosswise. The one
-- that comes second makes nothing, does not see the row yet, and is told `locked`.
made AS (
    INSERT INTO headgate.source (
        stream, uid, holder, fence, epoch, cursor, slot, deadline, longest_flight, not_before, longest_wait, id_path, id_path_epoch
    )
    SELECT stream, uid, holder, 1, epoch, start, t, t, interval '0', t, interval '0', id_path, epoch
    FROM request
    CROSS JOIN LATERAL (SELECT clock_timestamp() AS t) AS clock
    WHERE
        NOT in_doubt
        AND NOT EXISTS (SELECT FROM headgate.source AS known WHERE known.stream = request.stream)
    ORDER BY stream
    ON CONFLICT (stream) DO NOTHING
    RETURNING stream, fence, epoch, cursor, id_kind, progressive, events_stored, start_ignored, id_path
),
adopted AS (
    UPDATE headgate.source AS g
    SET
        uid = r.uid,
        holder = r.holder,
        fence = s.fence + 1,
        epoch = e.epoch,
        cursor = CASE WHEN s.uid IS NULL THEN r.start ELSE s.cursor END,
        start_ignored = CASE
            WHEN s.uid IS NULL THEN false
            WHEN s.uid = r.uid THEN s.start_ignored
            ELSE s.cursor IS DISTINCT FROM r.start
        END,
        attempt = CASE WHEN b.is_under_way THEN uuid_send(gen_random_uuid()) ELSE s.attempt END,
        id_path = coalesce(b.id_path, r.id_path),
        id_path_epoch = e.epoch,
        deadline = s.ends_at,
        not_before = s.starts_at
    FROM request AS r
    JOIN standing AS s USING (stream)
    JOIN read_before AS b USING (stream)
    CROSS JOIN LATERAL (
        SELECT
            -- Epochs compare within one uid: another object brings its own, but goes on from the row's cursor. Only where the
            -- last object took its events with it is there nothing to go on from. An object that can do nothing with the cursor
            -- begins again if its epoch is larger: RESET comes next.
            CASE
                WHEN s.uid = r.uid THEN s.epoch
                WHEN b.id_path <> r.id_path THEN least(s.epoch, r.epoch)
                ELSE r.epoch
            END AS epoch
    ) AS e
    WHERE
        g.stream = s.stream
        -- Who does not know whether the Lease is still its own goes on as long as nobody else has adopted.
        AND (NOT r.in_doubt OR s.holder = r.holder)
    RETURNING g.stream, g.fence, g.epoch, g.cursor, g.id_kind, g.progressive, g.events_stored, g.start_ignored, g.id_path
),
result AS (
    SELECT * FROM made
    UNION ALL
    SELECT * FROM adopted
)
SELECT
    r.ordinal,
    CASE
        WHEN a.stream IS NOT NULL THEN 'applied'
        WHEN r.in_doubt AND s.stream IS NOT NULL THEN 'refused'
        WHEN r.in_doubt AND NOT EXISTS (SELECT FROM headgate.source AS known WHERE known.stream = r.stream) THEN 'missing'
        ELSE 'locked'
    END AS outcome,
    s.holder,
    s.attempt,
    coalesce(a.fence, s.fence) AS fence,
    coalesce(a.epoch, s.epoch) AS epoch,
    CASE WHEN a.stream IS NULL THEN s.cursor ELSE a.cursor END AS cursor,
    a.id_kind,
    a.progressive,
    a.events_stored,
    a.start_ignored,
    a.id_path,
    coalesce(s.in_flight_for, interval '0') AS in_flight_for,
    coalesce(s.starts_in, interval '0') AS starts_in
FROM request AS r
LEFT JOIN result AS a USING (stream)
LEFT JOIN standing AS s USING (stream)
ORDER BY r.ordinal
