-- After resets a stream can hold ids of both kinds: numbers of one epoch, opaque ids of another. Each kind has its own
-- furthest cursor, up to which its events would come again.

-- `reread_to` of the kind of id that is not being read.
ALTER TABLE headgate.source ADD COLUMN reread_other text COLLATE "C";

-- The first of these cursors that is a number, or that is not.
CREATE FUNCTION headgate.first_of_kind(cursors text[], numbers boolean) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog
AS $$
    SELECT c.id
    FROM unnest(cursors) WITH ORDINALITY AS c (id, place)
    WHERE (c.id ~ '^[0-9]+$') = numbers
    ORDER BY c.place
    LIMIT 1
$$;
