-- Raises the fence of every row of a holder that was declared dead ($1). Rows it is writing at this moment are skipped and
-- counted as left: waiting for them would keep the others open. A fenced row has no holder, so a repetition does not
-- raise its fence again.
WITH locked AS MATERIALIZED (
    SELECT stream, fence FROM headgate.source WHERE holder = $1 FOR NO KEY UPDATE SKIP LOCKED
),
fenced AS (
    UPDATE headgate.source AS g
    SET fence = l.fence + 1, holder = NULL
    FROM locked AS l
    WHERE g.stream = l.stream
    RETURNING g.stream
)
SELECT
    (SELECT count(*) FROM fenced) AS fenced,
    (SELECT count(*) FROM headgate.source AS g WHERE g.holder = $1 AND NOT EXISTS (SELECT FROM locked AS l WHERE l.stream = g.stream)) AS left
