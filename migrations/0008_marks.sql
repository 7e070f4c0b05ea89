-- A stream of opaque ids can have several marks (`reread_to`): such ids do not compare, so after a `start` beyond a mark nobody can
-- tell whether it will still come by. Every mark that has not come by is kept, and events come again until the last of them did.
--
-- Several marks stand in `reread_to` (or `reread_other`) as one text, each behind a line feed, which no id holds. A single one stands
-- alone, as before, unless it reads as a number. So what append.sql and find_stored.sql ask stays true: `reread_to` is null once
-- nothing comes again. Where a release before this one runs beside it, on the same rows:
-- * Its RESET and FORGET call `first_of_kind`, and keep every mark too, because that returns all of them.
-- * Its appends end a single mark, as ever, and never one text of several: the stream is read again until a later epoch passes
--   those marks under this release. That costs look-ups; nothing is stored twice, and the stream does not get stuck.
-- * Its RESET to one of several marks does not end that one, with the same outcome.
-- After a return to that release such a stream is read again for as long as it runs.
--
-- What such a release had dropped before this migration is not known any more. A stream that got stuck by that (CursorRejected,
-- page after page) goes on after a reset with `afterID` = the last event that is stored.

-- How many events were stored when the opaque marks were written, as long as none of them came by: while no more are stored, the
-- marks stand for all that is, and the next reset adds none for the cursor (but where that is an item set aside). So neither a
-- `start` that the source does not know nor a reset that is taken back leaves a mark that never comes by. The count only grows
-- until FORGET is done, which clears this, so where a release before this one does not keep it up, it costs a mark at most. (But
-- where that release does FORGET to its end and RESET after it, and as many events are stored as before, the next reset takes
-- them for the old ones and may miss a mark.)
ALTER TABLE headgate.source ADD COLUMN reread_covers bigint;

-- The opaque ids of these marks, each once.
CREATE FUNCTION headgate.opaque_ids(marks text[]) RETURNS text[]
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog
AS $$
    SELECT coalesce(array_agg(DISTINCT id COLLATE "C"), '{}')
    FROM unnest(marks) AS m (mark)
    CROSS JOIN LATERAL unnest(
        CASE WHEN left(mark, 1) = E'\n' THEN (string_to_array(mark, E'\n'))[2:] ELSE ARRAY[mark] END
    ) AS i (id)
    WHERE mark !~ '^[0-9]+$'
$$;

-- These opaque ids as one mark; null when there are none. More than 16 are given up for one that never comes by, an empty id: the
-- stream is read again for good.
CREATE FUNCTION headgate.opaque_mark(ids text[]) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog
AS $$
    SELECT CASE
        WHEN cardinality(ids) > 16 OR '' = ANY (ids) THEN E'\n'
        WHEN cardinality(ids) = 1 AND ids[1] !~ '^[0-9]+$' THEN ids[1]
        WHEN cardinality(ids) > 0 THEN E'\n' || array_to_string(ids, E'\n')
    END
$$;

-- The first of these marks that is a number, or all that are opaque.
CREATE OR REPLACE FUNCTION headgate.first_of_kind(cursors text[], numbers boolean) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog
AS $$
    SELECT CASE
        WHEN numbers THEN (
            SELECT c.id FROM unnest(cursors) WITH ORDINALITY AS c (id, place) WHERE c.id ~ '^[0-9]+$' ORDER BY c.place LIMIT 1
        )
        ELSE headgate.opaque_mark(headgate.opaque_ids(cursors))
    END
$$;
