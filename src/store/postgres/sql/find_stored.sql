-- Which of the ids ($2) are those of stored events of the stream ($1), while nothing is read again. One index probe for each
-- id and day (measured 3 us where ids ascend and 8 us where they are random: 0.1 to 0.25 s for 1,000 ids over 30 days).
-- Asked by whoever holds the attempt, so nobody appends in between.
SELECT DISTINCT e.id
FROM headgate.event AS e
WHERE
    e.stream = $1
    AND e.id IS NOT NULL
    -- What the index holds: the ids without leading zeros ($3).
    AND ltrim(e.id, '0') = ANY ($3::text[])
    AND e.id = ANY ($2::text[])
    AND EXISTS (SELECT FROM headgate.source AS s WHERE s.stream = $1 AND s.reread_to IS NULL)
