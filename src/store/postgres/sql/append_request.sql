-- What both kinds of COMMIT are asked, one row for each append. Its events are $18 to $25, its items set aside $26 to $29.
request AS MATERIALIZED (
    SELECT
        r.*,
        r.next_start_us * interval '1 microsecond' AS next_start,
        r.in_flight_us * interval '1 microsecond' AS in_flight
    FROM unnest(
        $1::text[], $2::bytea[], $3::integer[], $4::text[], $5::text[], $6::text[], $7::boolean[], $8::bigint[], $9::bigint[],
        $10::integer[], $11::integer[], $12::integer[], $13::integer[], $14::boolean[], $15::bigint[],
        $16::bigint[], $17::boolean[]
    ) WITH ORDINALITY AS r (
        stream, attempt, part, cursor_before, cursor_after, id_kind, ids_fit, least_id, greatest_id,
        n, aside, repeated, conflicting, not_ascending, next_start_us, in_flight_us, opaque_digits, ordinal
    )
),
