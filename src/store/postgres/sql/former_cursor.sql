-- The cursor that RESET and FORGET leave behind, as the mark up to which events were stored. Its kind is the stream's: digits only
-- are a mark of numbers, or stand behind a line feed where they are opaque (migration 8).
former AS MATERIALIZED (
    SELECT
        stream,
        CASE WHEN id_kind = 'number' OR (id_kind IS NULL AND cursor ~ '^[0-9]+$') THEN cursor END AS numbers_to,
        CASE
            WHEN cursor !~ '^[0-9]+$' THEN cursor
            -- Where nothing came after digits, they may be either, unless the stream never held an opaque id.
            WHEN id_kind = 'opaque' OR (id_kind IS NULL AND sequence_is_id IS FALSE) THEN E'\n' || cursor
        END AS opaque_to
    FROM standing
    WHERE highest_sequence IS NOT NULL
),
