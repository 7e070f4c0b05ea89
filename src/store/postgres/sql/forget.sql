-- FORGET, first step: the row goes back to its start and loses its readers of old: fence + 1, and a request in flight gets
-- a token that nobody holds. Gate and waits stay. The highest sequence stays too until the events are gone, so that a
-- deletion that is interrupted leaves what a reset leaves: nothing can be stored twice.
request AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS r (stream, uid, ordinal)
),
-- As in reset.sql, but that the cursor always joins the marks that stand.
marks AS MATERIALIZED (
    SELECT
        f.stream,
        headgate.first_of_kind(ARRAY[l.reread_to, l.reread_other, f.numbers_to], true) AS numbers_to,
        headgate.first_of_kind(ARRAY[l.reread_to, l.reread_other, f.opaque_to], false) AS opaque_to
    FROM former AS f
    JOIN locked AS l USING (stream)
),
begun AS (
    UPDATE headgate.source AS g
    SET
        fence = s.fence + 1,
        cursor = NULL,
        attempt = CASE WHEN s.attempt IS NOT NULL THEN uuid_send(gen_random_uuid()) END,
        reread_to = coalesce(m.numbers_to, m.opaque_to),
        reread_other = CASE WHEN m.numbers_to IS NOT NULL THEN m.opaque_to END,
        deadline = s.ends_at,
        not_before = s.starts_at
    FROM request AS r
    JOIN standing AS s USING (stream)
    LEFT JOIN marks AS m USING (stream)
    WHERE g.stream = s.stream AND s.uid = r.uid
    RETURNING g.stream, g.fence
)
SELECT
    r.ordinal,
    CASE
        WHEN b.stream IS NOT NULL THEN 'begun'
        WHEN s.stream IS NOT NULL AND s.uid IS NULL THEN 'applied'
        WHEN s.stream IS NOT NULL THEN 'refused'
        WHEN EXISTS (SELECT FROM headgate.source AS known WHERE known.stream = r.stream) THEN 'locked'
        ELSE 'applied'
    END AS outcome,
    s.holder,
    coalesce(b.fence, s.fence) AS fence,
    s.epoch,
    s.cursor,
    s.attempt,
    s.in_flight_for,
    s.starts_in
FROM request AS r
LEFT JOIN standing AS s USING (stream)
LEFT JOIN begun AS b USING (stream)
ORDER BY r.ordinal
