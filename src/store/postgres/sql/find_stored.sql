-- Whether one of the ids ($2) is that of a stored event of the stream ($1), while nothing is read again. One index probe for
-- each id and day. Asked by whoever holds the attempt, so nobody appends in between.
SELECT
    EXISTS (SELECT FROM headgate.source AS s WHERE s.stream = $1 AND s.reread_to IS NULL)
    AND EXISTS (
        SELECT FROM headgate.event AS e
        WHERE
            e.stream = $1
            AND e.id IS NOT NULL
            -- What the index holds: the ids without leading zeros ($3).
            AND ltrim(e.id, '0') = ANY ($3::text[])
            AND e.id = ANY ($2::text[])
    ) AS stored
