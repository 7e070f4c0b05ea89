-- RESET: the epoch grew. Begins again at `start`; a request in flight loses its token, so that its answer cannot move the
-- new cursor, but the gate still waits it out: the source may be serving it.
request AS MATERIALIZED (
    SELECT *
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::text[])
        WITH ORDINALITY AS r (stream, uid, holder, fence, epoch, start, id_path, ordinal)
),
judged AS MATERIALIZED (
    SELECT
        s.*,
        r.epoch AS epoch_after,
        r.start,
        r.id_path,
        s.uid = r.uid AND s.holder = r.holder AND s.fence = r.fence AND s.epoch < r.epoch AS grows,
        -- Its answer was lost: nobody else can have written this epoch over this fence.
        s.uid = r.uid AND s.holder = r.holder AND s.fence = r.fence + 1 AND s.epoch = r.epoch AS repeated
    FROM request AS r
    JOIN standing AS s USING (stream)
),
-- What was stored lies up to these marks. Of numbers one is enough: a mark of an epoch before stands for the cursor, that has not
-- passed it yet. An opaque id may lie before another or behind it, so each that has not come by stays, and the cursor joins them
-- unless they stand for all that is stored (migration 8).
marks AS MATERIALIZED (
    SELECT
        j.stream,
        j.start,
        j.events_stored,
        headgate.first_of_kind(ARRAY[j.reread_to, l.reread_other, f.numbers_to], true) AS numbers_to,
        headgate.opaque_ids(ARRAY[j.reread_to, l.reread_other, CASE WHEN c.covered THEN NULL ELSE f.opaque_to END]) AS opaque
    FROM judged AS j
    JOIN locked AS l USING (stream)
    JOIN former AS f USING (stream)
    CROSS JOIN LATERAL (
        SELECT
            l.reread_covers = j.events_stored
            AND headgate.opaque_ids(ARRAY[j.reread_to, l.reread_other]) <> '{}'
            -- An item that was set aside may lie beyond them.
            AND NOT EXISTS (SELECT FROM headgate.set_aside AS a WHERE a.stream = j.stream AND a.id = j.cursor) AS covered
    ) AS c
),
-- Nothing comes again where the new start lies at the mark, or, for numbers, beyond it. An opaque id elsewhere proves nothing:
-- it may lie before the mark or behind it. Its mark ends only when the event at the mark comes by.
ahead AS MATERIALIZED (
    SELECT
        stream,
        CASE WHEN (start ~ '^[0-9]+$' AND start::numeric >= numbers_to::numeric) IS NOT TRUE THEN numbers_to END AS numbers_to,
        headgate.opaque_mark(array_remove(opaque, start)) AS opaque_to,
        CASE WHEN (start = ANY (opaque)) IS NOT TRUE THEN events_stored END AS covers
    FROM marks
),
reset AS (
    UPDATE headgate.source AS g
    SET
        fence = j.fence + 1,
        epoch = j.epoch_after,
        cursor = j.start,
        attempt = CASE WHEN j.attempt IS NOT NULL THEN uuid_send(gen_random_uuid()) END,
        -- Another epoch may read its ids from another path; the first one decides again, and so does their order.
        id_kind = NULL,
        progressive = true,
        id_path = j.id_path,
        id_path_epoch = j.epoch_after,
        -- The first append that looks ids up puts the mark of its kind first.
        reread_to = coalesce(m.numbers_to, m.opaque_to),
        reread_other = CASE WHEN m.numbers_to IS NOT NULL THEN m.opaque_to END,
        reread_covers = CASE WHEN m.opaque_to IS NOT NULL THEN m.covers END,
        start_ignored = false,
        deadline = j.ends_at,
        not_before = j.starts_at
    FROM judged AS j
    LEFT JOIN ahead AS m USING (stream)
    WHERE g.stream = j.stream AND j.grows
    RETURNING g.stream, g.fence, g.epoch, g.cursor, g.id_kind, g.progressive
)
SELECT
    r.ordinal,
    CASE
        WHEN a.stream IS NOT NULL OR j.repeated THEN 'applied'
        WHEN j.stream IS NOT NULL THEN 'refused'
        WHEN EXISTS (SELECT FROM headgate.source AS known WHERE known.stream = r.stream) THEN 'locked'
        ELSE 'missing'
    END AS outcome,
    j.holder,
    CASE WHEN a.stream IS NULL THEN j.fence ELSE a.fence END AS fence,
    CASE WHEN a.stream IS NULL THEN j.epoch ELSE a.epoch END AS epoch,
    CASE WHEN a.stream IS NULL THEN j.cursor ELSE a.cursor END AS cursor,
    CASE WHEN a.stream IS NULL THEN j.id_kind ELSE a.id_kind END AS id_kind,
    j.attempt,
    CASE WHEN a.stream IS NULL THEN j.progressive ELSE a.progressive END AS progressive,
    j.events_stored,
    false AS start_ignored,
    r.id_path,
    j.in_flight_for,
    j.starts_in
FROM request AS r
LEFT JOIN judged AS j USING (stream)
LEFT JOIN reset AS a USING (stream)
ORDER BY r.ordinal
