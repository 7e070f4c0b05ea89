-- How every verb begins ($1 = the streams, each at most once): lock first, then read the clock.
--
-- A plain UPDATE computes its SET list *before* it waits for a row lock, and keeps that stale value when the blocker only
-- locked or rolled back: the gap broke in 42 of 124 grants. Here a row leaves `locked` only once it is ours, in its
-- newest version; SKIP LOCKED never waits, so statements over many rows cannot deadlock, and one slow row delays no other.
-- `timed` reads each row out of that materialised result, so its clock is later than the row's lock; now() would be the
-- time at which the statement began.
WITH locked AS MATERIALIZED (
    SELECT * FROM headgate.source WHERE stream = ANY ($1) FOR NO KEY UPDATE SKIP LOCKED
),
timed AS MATERIALIZED (
    SELECT locked.*, clock_timestamp() AS now FROM locked
),
-- A wait longer than the one that was written means that the clock jumped back: it is cut to what was written.
waits AS MATERIALIZED (
    SELECT
        timed.*,
        least(not_before, now + longest_wait) AS starts_at,
        least(slot, now + longest_wait) AS slot_at,
        CASE WHEN attempt IS NULL THEN now ELSE least(deadline, now + longest_flight) END AS ends_at
    FROM timed
),
-- The rows as they stand, with the waits in microseconds: no timestamp leaves the database.
standing AS MATERIALIZED (
    SELECT
        waits.*,
        (extract(epoch FROM greatest(ends_at - now, interval '0')) * 1000000)::bigint AS in_flight_us,
        (extract(epoch FROM greatest(starts_at - now, interval '0')) * 1000000)::bigint AS starts_us
    FROM waits
),
