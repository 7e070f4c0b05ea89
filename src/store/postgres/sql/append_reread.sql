-- COMMIT of events that may be stored already: after a reset, or below an id of the same answer that went ahead. The same
-- as append.sql, but each id is looked up over all days first. What is stored with the same content is dropped; what
-- differs is set aside, and the stored event stays. This is the slow path, for one stream at a time.
judged AS MATERIALIZED (
    SELECT
        s.stream,
        s.now,
        greatest(s.now, $30::timestamptz) AS stored_at,
        s.slot_at,
        s.ends_at,
        s.highest_sequence,
        -- Of the two marks, the one for the kind of these ids. An opaque stream can hold ids that an epoch took for numbers:
        -- append.sql sends those of digits here as long as there is a mark of numbers.
        CASE WHEN k.other_kind THEN l.reread_other ELSE s.reread_to END AS reread_to,
        CASE
            WHEN k.other_kind THEN nullif(s.reread_to, ltrim(l.reread_other, E'\n'))
            ELSE l.reread_other
        END AS reread_other,
        CASE WHEN r.n = 0 THEN s.sequence_is_id ELSE coalesce(s.sequence_is_id, true) AND r.ids_fit END AS sequence_is_id,
        s.sequence_is_id IS FALSE AS was_counted,
        coalesce(s.highest_sequence, 0) AS counted,
        r.ordinal,
        r.attempt,
        r.part,
        r.cursor_after,
        k.id_kind,
        r.repeated,
        r.conflicting,
        r.not_ascending,
        r.next_start,
        r.in_flight,
        (s.attempt = r.attempt AND s.cursor IS NOT DISTINCT FROM r.cursor_before AND s.parts <= r.part) IS TRUE AS mine,
        ((s.attempt = r.attempt OR s.closed_attempt = r.attempt) AND s.parts > r.part) IS TRUE AS done_before
    FROM request AS r
    JOIN standing AS s USING (stream)
    JOIN locked AS l USING (stream)
    CROSS JOIN LATERAL (
        SELECT
            coalesce(s.id_kind, r.id_kind) AS id_kind,
            ((s.reread_to ~ '^[0-9]+$') <> (coalesce(s.id_kind, r.id_kind) = 'number')) IS TRUE AS other_kind
    ) AS k
),
accepted AS MATERIALIZED (
    SELECT * FROM judged WHERE mine
),
incoming AS MATERIALIZED (
    SELECT
        a.stream,
        a.stored_at,
        a.sequence_is_id,
        -- What may be stored under a count.
        a.was_counted OR a.id_kind = 'opaque' AS is_counted,
        a.id_kind = 'opaque' AS is_opaque,
        a.counted,
        coalesce(e.id, e.number::text) AS whole_id,
        e.*
    FROM unnest(
        $18::bigint[], $19::integer[], $20::bigint[], $21::text[], $22::text[], $23::text[], $24::timestamptz[], $25::json[]
    ) AS e (request, position, number, id, type, subject, occurred_at, payload)
    JOIN accepted AS a ON a.ordinal = e.request
),
-- Each day is entered once for all ids, and not once for each id: of 1,000 days, 1,000 ids took 78 s.
known AS MATERIALIZED (
    -- Stored under its number: one walk along the numbers of the page in each day (30 ms). IS TRUE keeps the exact numbers a
    -- filter, because as keys of the index they would be a probe each (2 s).
    SELECT e.sequence, e.id, e.type, e.subject, e.occurred_at, e.payload
    FROM headgate.event AS e
    WHERE
        e.stream = (SELECT stream FROM accepted)
        AND e.sequence BETWEEN (SELECT min(number) FROM incoming) AND (SELECT max(number) FROM incoming)
        AND (e.sequence IN (SELECT number FROM incoming)) IS TRUE
    UNION ALL
    -- An opaque id that was taken for a number: a probe for each and day. They are few.
    SELECT e.sequence, e.id, e.type, e.subject, e.occurred_at, e.payload
    FROM headgate.event AS e
    WHERE
        e.stream = (SELECT stream FROM accepted)
        AND e.id IS NULL
        AND e.sequence = ANY (ARRAY(
            SELECT i.whole_id::bigint
            FROM incoming AS i
            -- The texts of numbers, as far as an id can be a sequence.
            WHERE i.is_opaque AND CASE WHEN i.whole_id ~ '^(0|[1-9][0-9]{0,18})$' THEN i.whole_id::numeric <= 8e18 END
        ))
    UNION ALL
    -- Or under a count, which only a stream that was ever counted has: a probe for each id and day (8 s, so that the caller
    -- has to send such a page in parts).
    SELECT e.sequence, e.id, e.type, e.subject, e.occurred_at, e.payload
    FROM headgate.event AS e
    WHERE
        e.stream = (SELECT stream FROM accepted)
        AND e.id IS NOT NULL
        AND ltrim(e.id, '0') = ANY (ARRAY(SELECT ltrim(whole_id, '0') FROM incoming WHERE is_counted))
),
found AS MATERIALIZED (
    SELECT DISTINCT ON (i.position)
        i.position,
        (
            k.type IS NOT DISTINCT FROM i.type
            AND k.subject IS NOT DISTINCT FROM i.subject
            AND k.occurred_at IS NOT DISTINCT FROM i.occurred_at
            AND k.payload::text = i.payload::text
        ) AS same
    FROM incoming AS i
    JOIN known AS k ON ltrim(coalesce(k.id, k.sequence::text), '0') = ltrim(i.whole_id, '0')
    -- Numbers are equal by value, opaque ids as texts.
    WHERE coalesce(k.id, k.sequence::text) = i.whole_id OR (NOT i.is_opaque AND coalesce(k.id, '0') ~ '^[0-9]+$')
    ORDER BY i.position
),
fresh AS MATERIALIZED (
    SELECT
        i.stream,
        i.whole_id,
        i.is_opaque,
        i.type,
        i.subject,
        i.occurred_at,
        i.stored_at,
        i.payload,
        CASE WHEN i.sequence_is_id THEN i.number ELSE i.counted + row_number() OVER (ORDER BY i.position) END AS sequence
    FROM incoming AS i
    WHERE NOT EXISTS (SELECT FROM found AS f WHERE f.position = i.position)
),
tally AS MATERIALIZED (
    SELECT
        (SELECT count(*) FROM incoming) AS incoming,
        (SELECT count(*) FROM fresh) AS stored,
        (SELECT count(*) FROM found WHERE same) AS repeated,
        (SELECT count(*) FROM found WHERE NOT same) AS conflicting,
        (SELECT min(sequence) FROM fresh) AS first_sequence,
        (SELECT max(sequence) FROM fresh) AS last_sequence
),
-- The re-read is over once the last of its marks came by, stored or set aside, or, a number, was passed.
pending AS MATERIALIZED (
    SELECT
        a.stream,
        n.is_number,
        CASE
            WHEN n.is_number AND a.reread_to = ANY (c.ids) THEN NULL
            WHEN n.is_number AND a.cursor_after ~ '^[0-9]+$' AND a.cursor_after::numeric >= a.reread_to::numeric THEN NULL
            WHEN n.is_number THEN a.reread_to
            ELSE headgate.opaque_mark(ARRAY(
                SELECT i.id
                FROM unnest(headgate.opaque_ids(ARRAY[a.reread_to])) WITH ORDINALITY AS i (id, place)
                WHERE i.id <> ALL (c.ids)
                ORDER BY i.place
            ))
        END AS reread_to
    FROM accepted AS a
    CROSS JOIN LATERAL (
        SELECT ARRAY(SELECT whole_id FROM incoming) || $27::text[] AS ids
    ) AS c
    CROSS JOIN LATERAL (SELECT (a.reread_to ~ '^[0-9]+$') IS TRUE AS is_number) AS n
),
stored AS (
    INSERT INTO headgate.event (stream, sequence, id, type, subject, occurred_at, stored_at, payload)
    SELECT
        stream, sequence, CASE WHEN is_opaque THEN whole_id ELSE nullif(whole_id, sequence::text) END,
        type, subject, occurred_at, stored_at, payload
    FROM fresh
),
kept_aside AS (
    INSERT INTO headgate.set_aside (stream, id, reason, item, stored_at)
    SELECT a.stream, i.id, i.reason, i.item, a.stored_at
    FROM unnest($26::bigint[], $27::text[], $28::text[], $29::bytea[]) AS i (request, id, reason, item)
    JOIN accepted AS a ON a.ordinal = i.request
    UNION ALL
    SELECT i.stream, i.whole_id, 'ConflictingEvent', convert_to(i.payload::text, 'UTF8'), i.stored_at
    FROM incoming AS i
    JOIN found AS f USING (position)
    WHERE NOT f.same
    ON CONFLICT DO NOTHING
),
recorded AS (
    INSERT INTO headgate.commits (stream, attempt, part, first_sequence, last_sequence, n, repeated, conflicting, stored_at)
    SELECT
        a.stream, a.attempt, a.part, t.first_sequence, t.last_sequence,
        t.stored, a.repeated + t.repeated, a.conflicting + t.conflicting, a.stored_at
    FROM accepted AS a
    CROSS JOIN tally AS t
    WHERE t.incoming > 0
),
moved AS (
    UPDATE headgate.source AS g
    SET
        cursor = a.cursor_after,
        id_kind = coalesce(g.id_kind, a.id_kind),
        sequence_is_id = a.sequence_is_id,
        highest_sequence = greatest(a.highest_sequence, t.last_sequence),
        reread_to = p.reread_to,
        reread_other = a.reread_other,
        -- A mark that came by stands for nothing any more.
        reread_covers = CASE WHEN p.reread_to IS NOT DISTINCT FROM a.reread_to OR p.is_number THEN g.reread_covers END,
        events_stored = g.events_stored + t.stored,
        progressive = g.progressive AND NOT a.not_ascending,
        parts = a.part + 1,
        attempt = CASE WHEN a.next_start IS NULL THEN a.attempt END,
        closed_attempt = CASE WHEN a.next_start IS NULL THEN g.closed_attempt ELSE a.attempt END,
        deadline = CASE WHEN a.next_start IS NULL THEN greatest(a.ends_at, a.now + a.in_flight) ELSE g.deadline END,
        longest_flight = CASE
            WHEN a.next_start IS NULL THEN greatest(a.ends_at, a.now + a.in_flight) - a.now
            ELSE g.longest_flight
        END,
        not_before = CASE
            WHEN a.next_start IS NULL THEN g.not_before
            ELSE greatest(a.now + a.next_start, a.slot_at)
        END,
        longest_wait = CASE
            WHEN a.next_start IS NULL THEN g.longest_wait
            ELSE greatest(a.now + a.next_start, a.slot_at) - a.now
        END
    FROM accepted AS a
    JOIN pending AS p USING (stream)
    CROSS JOIN tally AS t
    WHERE g.stream = a.stream
    RETURNING g.stream, g.events_stored
)
SELECT
    r.ordinal,
    CASE
        WHEN m.stream IS NOT NULL THEN 'applied'
        WHEN j.done_before THEN 'done_before'
        WHEN j.stream IS NOT NULL THEN 'refused'
        WHEN EXISTS (SELECT FROM headgate.source AS known WHERE known.stream = r.stream) THEN 'locked'
        ELSE 'missing'
    END AS outcome,
    t.stored,
    r.repeated + t.repeated AS repeated,
    r.conflicting + t.conflicting AS conflicting,
    coalesce(m.events_stored, s.events_stored) AS events_stored,
    s.holder,
    s.fence,
    s.epoch,
    s.cursor,
    s.attempt,
    s.in_flight_for,
    s.starts_in
FROM request AS r
CROSS JOIN tally AS t
LEFT JOIN standing AS s USING (stream)
LEFT JOIN judged AS j USING (stream)
LEFT JOIN moved AS m USING (stream)
ORDER BY r.ordinal
