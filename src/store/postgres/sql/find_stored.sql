-- Which of the ids ($2) are those of stored events of the stream ($1), or of its items that were set aside, while nothing is read
-- again. One index probe for each id and day (measured 3 us where ids ascend and 8 us where they are random: 0.1 to 0.25 s for
-- 1,000 ids over 30 days), and one for each id. Asked by whoever holds the attempt, so nobody appends in between.
SELECT e.id
FROM headgate.event AS e
WHERE
    e.stream = $1
    AND e.id IS NOT NULL
    -- What the index holds: the ids without leading zeros ($3).
    AND ltrim(e.id, '0') = ANY ($3::text[])
    AND e.id = ANY ($2::text[])
    AND EXISTS (SELECT FROM headgate.source AS s WHERE s.stream = $1 AND s.reread_to IS NULL)
UNION
-- An epoch before, in which all ids were digits, may have stored them as numbers ($4: those that could be).
SELECT e.sequence::text
FROM headgate.event AS e
WHERE
    e.stream = $1
    AND e.id IS NULL
    AND e.sequence = ANY ($4::bigint[])
    AND EXISTS (SELECT FROM headgate.source AS s WHERE s.stream = $1 AND s.reread_to IS NULL)
UNION
-- A stream without an event is read again without a mark that would say so.
SELECT a.id
FROM headgate.set_aside AS a
WHERE
    a.stream = $1
    AND a.id = ANY ($2::text[])
    AND EXISTS (
        SELECT FROM headgate.source AS s WHERE s.stream = $1 AND s.reread_to IS NULL AND s.highest_sequence IS NOT NULL
    )
