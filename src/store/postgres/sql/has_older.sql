-- Whether the stream ($1) still has an event that was stored before the one of this id ($2; in the index without leading zeros,
-- $3), or never had one: opaque ids are counted from 1. If not, retention has dropped what came before it. An item that was set
-- aside has no number; where the cursor stands at it, every event came before it. One snapshot, because a day may be dropped
-- beside it: what is gone by then itself has nothing older.
WITH given AS MATERIALIZED (
    SELECT min(e.sequence) AS sequence
    FROM headgate.event AS e
    WHERE e.stream = $1 AND e.id IS NOT NULL AND ltrim(e.id, '0') = $3 AND e.id = $2
)
SELECT
    (
        g.sequence = 1
        OR EXISTS (SELECT FROM headgate.event AS e WHERE e.stream = $1 AND e.sequence < g.sequence)
        OR (
            g.sequence IS NULL
            AND EXISTS (SELECT FROM headgate.set_aside AS a WHERE a.stream = $1 AND a.id = $2)
            AND EXISTS (SELECT FROM headgate.event AS e WHERE e.stream = $1)
        )
    ) IS TRUE AS has_older
FROM given AS g
