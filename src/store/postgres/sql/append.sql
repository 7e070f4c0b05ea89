-- COMMIT: events, cursor, counters and the record of the commit, in one statement. The compare-and-set is on attempt and
-- cursor alone: no fence and no deadline, so that a late answer is kept as long as nobody has reserved since. Of the
-- appends of one attempt, `parts` lets each happen once, also one that leaves the cursor where it was.
--
-- The event table is written and never read here: a statement that reads it plans and locks every day there is. An
-- append that needs to look ids up changes nothing and is told `reread`.
--
-- What is stored is filed by the database's clock, but not before $30: a clock that is far behind would file it under days that
-- expire as soon as that clock is right again. All else goes by the database's clock alone.
judged AS MATERIALIZED (
    SELECT
        s.stream,
        s.now,
        greatest(s.now, $30::timestamptz) AS stored_at,
        s.slot_at,
        s.ends_at,
        s.highest_sequence,
        s.sequence_is_id AS sequence_was_id,
        s.reread_to,
        CASE WHEN r.n = 0 THEN s.sequence_is_id ELSE coalesce(s.sequence_is_id, true) AND r.ids_fit END AS sequence_is_id,
        r.ordinal,
        r.attempt,
        r.part,
        r.cursor_after,
        coalesce(s.id_kind, r.id_kind) AS id_kind,
        r.opaque_digits,
        r.least_id,
        r.greatest_id,
        r.n,
        r.aside,
        r.repeated,
        r.conflicting,
        r.not_ascending,
        r.next_start,
        r.in_flight,
        (s.attempt = r.attempt AND s.cursor IS NOT DISTINCT FROM r.cursor_before AND s.parts <= r.part) IS TRUE AS mine,
        ((s.attempt = r.attempt OR s.closed_attempt = r.attempt) AND s.parts > r.part) IS TRUE AS done_before
    FROM request AS r
    JOIN standing AS s USING (stream)
),
decided AS MATERIALIZED (
    SELECT
        judged.*,
        (
            (sequence_is_id IS FALSE AND reread_to IS NOT NULL AND n + aside > 0)
            -- In an epoch before, in which all ids were digits, these may have been stored as numbers. The column is not named:
            -- on the schema of an older release, which may lack it, polls go on.
            OR (
                opaque_digits
                AND EXISTS (
                    SELECT FROM locked AS l WHERE l.stream = judged.stream AND to_jsonb(l) ->> 'reread_other' IS NOT NULL
                )
            )
            OR (sequence_was_id IS TRUE AND least_id <= highest_sequence)
        ) IS TRUE AS reread
    FROM judged
),
accepted AS MATERIALIZED (
    SELECT
        decided.*,
        coalesce(highest_sequence, 0) AS counted,
        CASE WHEN sequence_is_id THEN least_id ELSE coalesce(highest_sequence, 0) + 1 END AS first_sequence,
        CASE WHEN sequence_is_id THEN greatest_id ELSE coalesce(highest_sequence, 0) + n END AS last_sequence
    FROM decided
    WHERE mine AND NOT reread
),
stored AS (
    INSERT INTO headgate.event (stream, sequence, id, type, subject, occurred_at, stored_at, payload)
    SELECT
        a.stream,
        CASE WHEN a.sequence_is_id THEN e.number ELSE a.counted + e.position END,
        CASE
            -- An opaque id is found by its text, also where that reads as its count.
            WHEN a.sequence_is_id OR a.id_kind = 'opaque' THEN e.id
            ELSE nullif(coalesce(e.id, e.number::text), (a.counted + e.position)::text)
        END,
        e.type,
        e.subject,
        e.occurred_at,
        a.stored_at,
        e.payload
    FROM (
        -- In the select list the arrays are walked in step; as a table, each would be copied first (1.3 times the time).
        SELECT
            unnest($18::bigint[]) AS request,
            unnest($19::integer[]) AS position,
            unnest($20::bigint[]) AS number,
            unnest($21::text[]) AS id,
            unnest($22::text[]) AS type,
            unnest($23::text[]) AS subject,
            unnest($24::timestamptz[]) AS occurred_at,
            unnest($25::json[]) AS payload
    ) AS e
    JOIN accepted AS a ON a.ordinal = e.request
),
kept_aside AS (
    INSERT INTO headgate.set_aside (stream, id, reason, item, stored_at)
    SELECT a.stream, i.id, i.reason, i.item, a.stored_at
    FROM unnest($26::bigint[], $27::text[], $28::text[], $29::bytea[]) AS i (request, id, reason, item)
    JOIN accepted AS a ON a.ordinal = i.request
    ON CONFLICT DO NOTHING
),
recorded AS (
    INSERT INTO headgate.commits (stream, attempt, part, first_sequence, last_sequence, n, repeated, conflicting, stored_at)
    SELECT stream, attempt, part, first_sequence, last_sequence, n, repeated, conflicting, stored_at
    FROM accepted
    WHERE n > 0
),
moved AS (
    UPDATE headgate.source AS g
    SET
        cursor = a.cursor_after,
        id_kind = coalesce(g.id_kind, a.id_kind),
        sequence_is_id = a.sequence_is_id,
        highest_sequence = CASE WHEN a.n > 0 THEN greatest(a.highest_sequence, a.last_sequence) ELSE a.highest_sequence END,
        events_stored = g.events_stored + a.n,
        progressive = g.progressive AND NOT a.not_ascending,
        parts = a.part + 1,
        attempt = CASE WHEN a.next_start IS NULL THEN a.attempt END,
        closed_attempt = CASE WHEN a.next_start IS NULL THEN g.closed_attempt ELSE a.attempt END,
        -- While this ran it held the row's lock, and no EXTEND came through.
        deadline = CASE WHEN a.next_start IS NULL THEN greatest(a.ends_at, a.now + a.in_flight) ELSE g.deadline END,
        longest_flight = CASE
            WHEN a.next_start IS NULL THEN greatest(a.ends_at, a.now + a.in_flight) - a.now
            ELSE g.longest_flight
        END,
        -- This may bring forward what RESERVE wrote, and must: RESERVE had to assume the last moment at which the request
        -- could leave, and the caller counts from the first byte of the answer, which is later than the request.
        not_before = CASE
            WHEN a.next_start IS NULL THEN g.not_before
            ELSE greatest(a.now + a.next_start, a.slot_at)
        END,
        longest_wait = CASE
            WHEN a.next_start IS NULL THEN g.longest_wait
            ELSE greatest(a.now + a.next_start, a.slot_at) - a.now
        END
    FROM accepted AS a
    WHERE g.stream = a.stream
    RETURNING g.stream, g.events_stored
)
SELECT
    r.ordinal,
    CASE
        WHEN m.stream IS NOT NULL THEN 'applied'
        WHEN d.mine AND d.reread THEN 'reread'
        WHEN d.done_before THEN 'done_before'
        WHEN d.stream IS NOT NULL THEN 'refused'
        WHEN EXISTS (SELECT FROM headgate.source AS known WHERE known.stream = r.stream) THEN 'locked'
        ELSE 'missing'
    END AS outcome,
    r.n::bigint AS stored,
    r.repeated::bigint AS repeated,
    r.conflicting::bigint AS conflicting,
    coalesce(m.events_stored, s.events_stored) AS events_stored,
    s.holder,
    s.fence,
    s.epoch,
    s.cursor,
    s.attempt,
    s.in_flight_for,
    s.starts_in
FROM request AS r
LEFT JOIN standing AS s USING (stream)
LEFT JOIN decided AS d USING (stream)
LEFT JOIN moved AS m USING (stream)
ORDER BY r.ordinal
