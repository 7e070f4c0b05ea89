-- Two clocks say what day it is: this server's, and that of the replica that asks (docs/adr/0006). Events are filed by the later.

-- Makes the partitions of the day of `earliest`, or of today where that is later, and of `days_ahead` days after it; returns how
-- many it made, null when another session is at it. Any session may call it at any time.
CREATE FUNCTION headgate.make_partitions(days_ahead integer, earliest timestamptz) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog
-- Nothing here waits behind a long transaction while appends queue behind it.
SET lock_timeout = '1s'
AS $$
DECLARE
    today date := (greatest(clock_timestamp(), earliest) AT TIME ZONE 'UTC')::date;
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
            -- CREATE, then ATTACH: 0003_partitions.sql says why.
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

-- As releases before this one call it, which file events by this server's clock alone.
CREATE OR REPLACE FUNCTION headgate.make_partitions(days_ahead integer) RETURNS integer
LANGUAGE sql
SET search_path = pg_catalog
AS $$ SELECT headgate.make_partitions(days_ahead, '-infinity') $$;
