-- Was this append applied? Asked only after a compare-and-set that failed, because its answer may have been lost. The row
-- has moved on by then, and nothing but this record knows.
SELECT
    n::bigint AS stored,
    repeated::bigint AS repeated,
    conflicting::bigint AS conflicting,
    (SELECT events_stored FROM headgate.source WHERE stream = $1) AS events_stored
FROM headgate.commits
WHERE stream = $1 AND attempt = $2 AND part = $3
LIMIT 1
