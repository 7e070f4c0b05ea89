-- How every verb begins ($1 = the streams, each at most once): lock first, then read the clock.
--
-- A plain UPDATE computes its SET list *before* it waits for a row lock, and keeps that stale value when the blocker only
-- locked or rolled back: the gap broke in 42 of 124 grants. Here a row leaves `locked` only once it is ours, in its
-- newest version; SKIP LOCKED never waits, so statements over many rows cannot deadlock, and one slow row delays no other.
-- `timed` reads each row out of that materialised result, so its clock is later than the row's lock; now() would be the
-- time at which the statement began.
--
-- From `timed` on columns are named: a newer release may add some while this one runs, and call them as a verb calls what it
-- computes. `locked` has them all, for the verbs that need one which not every schema of an older release has.
WITH locked AS MATERIALIZED (
    SELECT * FROM headgate.source WHERE stream = ANY ($1) FOR NO KEY UPDATE SKIP LOCKED
),
timed AS MATERIALIZED (
    SELECT
        stream, uid, holder, fence, epoch, cursor, attempt, closed_attempt, parts, slot, deadline, longest_flight, not_before,
        longest_wait, id_kind, sequence_is_id, highest_sequence, reread_to, events_stored, progressive, start_ignored,
        clock_timestamp() AS now
    FROM locked
),
-- The rows as they stand, with what is left of their waits: no timestamp leaves the database. A wait longer than the one
-- that was written means that the clock jumped back: it is cut to what was written.
standing AS MATERIALIZED (
    SELECT
        t.*,
        w.*,
        greatest(w.ends_at - t.now, interval '0') AS in_flight_for,
        greatest(w.starts_at - t.now, interval '0') AS starts_in
    FROM timed AS t
    CROSS JOIN LATERAL (
        SELECT
            least(t.not_before, t.now + t.longest_wait) AS starts_at,
            least(t.slot, t.now + t.longest_wait) AS slot_at,
            CASE WHEN t.attempt IS NULL THEN t.now ELSE least(t.deadline, t.now + t.longest_flight) END AS ends_at
    ) AS w
),
