-- The days. There is no default partition: it would have to be scanned under an exclusive lock whenever a day is attached,
-- and DETACH CONCURRENTLY refuses to work beside one. An append that finds no partition makes it and goes on.

-- Makes the partitions of today and of `days_ahead` days after it; returns how many it made, null when another
-- session is at it. Any session may call it at any time.
CREATE FUNCTION headgate.make_partitions(days_ahead integer) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog
-- Nothing here waits behind a long transaction while appends queue behind it.
SET lock_timeout = '1s'
AS $$
DECLARE
    today date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    day date;
    parent text;
    partition text;
    made integer := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('headgate.make_partitions', 0)) THEN
        RETURN NULL;
    END IF;
    FOREACH parent IN ARRAY ARRAY['event', 'commits'] LOOP
        FOR offset_days IN 0..days_ahead LOOP
            day := today + offset_days;
            partition := parent || to_char(day, '_YYYYMMDD');
            CONTINUE WHEN to_regclass('headgate.' || partition) IS NOT NULL;
            -- CREATE, then ATTACH: `CREATE TABLE … PARTITION OF` takes an ACCESS EXCLUSIVE lock on the parent and stops every
            -- append behind it; ATTACH takes SHARE UPDATE EXCLUSIVE, which appends do not notice.
            EXECUTE format('CREATE TABLE headgate.%I (LIKE headgate.%I INCLUDING ALL)', partition, parent);
            EXECUTE format(
                'ALTER TABLE headgate.%I ATTACH PARTITION headgate.%I FOR VALUES FROM (%L) TO (%L)',
                parent, partition, day || ' 00:00:00+00', (day + 1) || ' 00:00:00+00'
            );
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;

-- The days of both tables, oldest first, with the day on which each ends. `pending` when its detach was interrupted,
-- `detached` when its drop was.
CREATE VIEW headgate.partition AS
SELECT
    split_part(day.relname, '_', 1) AS parent,
    day.relname::text AS name,
    to_date(split_part(day.relname, '_', 2), 'YYYYMMDD') + 1 AS ends_on,
    CASE WHEN link.inhrelid IS NULL THEN 'detached' WHEN link.inhdetachpending THEN 'pending' ELSE 'attached' END AS state
FROM pg_catalog.pg_class AS day
LEFT JOIN pg_catalog.pg_inherits AS link ON link.inhrelid = day.oid
WHERE day.relnamespace = 'headgate'::regnamespace AND day.relkind = 'r' AND day.relname ~ '^(event|commits)_[0-9]{8}$'
ORDER BY ends_on, parent;

SELECT headgate.make_partitions(7);
