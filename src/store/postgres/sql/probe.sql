-- Whether PostgreSQL takes these items at all. Nothing is stored.
SELECT count(*) FROM unnest($1::text[], $2::text[], $3::text[], $4::json[]) AS e (id, type, subject, payload)
