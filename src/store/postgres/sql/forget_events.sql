-- FORGET, second step, repeated: deletes the next $3 events of stream $1, and as many items set aside, while the fence is
-- still the one that the first step wrote ($2); with the last of both the row belongs to nobody. An unchanged fence means
-- that nobody adopted the row, so nobody can have appended: what this statement's snapshot shows is all there is.
WITH locked AS MATERIALIZED (
    SELECT stream FROM headgate.source WHERE stream = $1 AND fence = $2 FOR NO KEY UPDATE SKIP LOCKED
),
doomed AS MATERIALIZED (
    SELECT e.sequence, e.stored_at
    FROM headgate.event AS e
    WHERE e.stream = $1 AND EXISTS (SELECT FROM locked)
    ORDER BY e.sequence
    LIMIT $3
),
deleted AS (
    DELETE FROM headgate.event AS e
    USING doomed AS d
    WHERE
        e.stream = $1
        -- The plan is made for any limit: without a range it may read the whole stream for each part.
        AND e.sequence BETWEEN (SELECT min(sequence) FROM doomed) AND (SELECT max(sequence) FROM doomed)
        AND e.sequence = d.sequence
        AND e.stored_at = d.stored_at
    RETURNING 1
),
doomed_aside AS MATERIALIZED (
    SELECT a.id, a.reason, a.digest
    FROM headgate.set_aside AS a
    WHERE a.stream = $1 AND EXISTS (SELECT FROM locked)
    ORDER BY a.id, a.reason, a.digest
    LIMIT $3
),
deleted_aside AS (
    DELETE FROM headgate.set_aside AS a
    USING doomed_aside AS d
    WHERE a.stream = $1 AND a.id = d.id AND a.reason = d.reason AND a.digest = d.digest
),
forgotten AS (
    UPDATE headgate.source AS g
    SET
        uid = NULL,
        id_kind = NULL,
        sequence_is_id = NULL,
        highest_sequence = NULL,
        reread_to = NULL,
        reread_other = NULL,
        reread_covers = NULL,
        events_stored = 0,
        progressive = true,
        start_ignored = false
    FROM locked AS l
    WHERE g.stream = l.stream AND (SELECT count(*) FROM doomed) < $3 AND (SELECT count(*) FROM doomed_aside) < $3
    RETURNING g.stream
)
SELECT
    CASE
        WHEN EXISTS (SELECT FROM forgotten) THEN 'applied'
        WHEN EXISTS (SELECT FROM locked) THEN 'more'
        WHEN EXISTS (SELECT FROM headgate.source WHERE stream = $1 AND fence = $2) THEN 'locked'
        ELSE 'moved'
    END AS outcome,
    (SELECT count(*) FROM deleted) AS deleted
