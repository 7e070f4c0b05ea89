-- Whether the stream ($1) still has an event that was stored before the one of this id ($2; in the index without leading zeros,
-- $3), or never had one: opaque ids are counted from 1. If not, retention has dropped what came before it. An item that was set
-- aside has no number; where the cursor stands at it, every event came before it. One snapshot, because a day may be dropped
-- beside it: what is gone by then itself has nothing older. (After a reset that skipped events and another that read them, what was
-- stored first is not what is first in the feed: retention may then drop what lies behind, and this does not see it.)
WITH given AS MATERIALIZED (
    SELECT min(k.sequence) AS sequence
    FROM (
        SELECT e.sequence
        FROM headgate.event AS e
        WHERE e.stream = $1 AND e.id IS NOT NULL AND ltrim(e.id, '0') = $3 AND e.id = $2
        UNION ALL
        -- Or as a number ($4, if it could be), in an epoch before in which all ids were digits.
        SELECT e.sequence
        FROM headgate.event AS e
        WHERE e.stream = $1 AND e.id IS NULL AND e.sequence = $4::bigint
    ) AS k
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
