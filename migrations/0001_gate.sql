-- The gate: one row per stream says who may send, and when. All safety of Headgate rests on these rows.

-- Nobody but the owner reaches in by default; a role for readers gets USAGE and the view `events`, nothing else.
REVOKE ALL ON SCHEMA headgate FROM PUBLIC;

CREATE TABLE headgate.source (
    -- <namespace>/<name> of the EventSource. The row outlives the object.
    stream text COLLATE "C" PRIMARY KEY,
    -- The object the row belongs to; null once its events were deleted with it.
    uid text COLLATE "C",
    -- One incarnation of one replica; null after it was declared dead.
    holder text COLLATE "C",
    -- Counts the changes of holder, resets and deletions: older ones fail their next RESERVE.
    fence bigint NOT NULL,
    -- spec.epoch; compares within one uid.
    epoch bigint NOT NULL,
    -- The id of the last event that is stored or set aside; null = the start of the stream.
    cursor text COLLATE "C",

    -- The random token of the request in flight; null = closed.
    attempt bytea CHECK (octet_length(attempt) = 16),
    -- The token of the last request that was closed, and how many appends the last request brought:
    -- both recognise a verb that is repeated because its answer was lost.
    closed_attempt bytea CHECK (octet_length(closed_attempt) = 16),
    parts integer NOT NULL DEFAULT 0,
    -- When the last granted request could start at the earliest.
    slot timestamptz NOT NULL,
    -- Until when a request may be in flight, and when the next may start. Beside each stands how far ahead it lay when it
    -- was written: a wait longer than that means that the database's clock jumped back, and is cut to it.
    deadline timestamptz NOT NULL,
    longest_flight interval NOT NULL,
    not_before timestamptz NOT NULL,
    longest_wait interval NOT NULL,

    -- How ids compare, decided by the first one.
    id_kind text COLLATE "C" CHECK (id_kind IN ('number', 'opaque')),
    -- Whether `sequence` is the id. Decided by the first id; false for good once an id did not fit.
    sequence_is_id boolean,
    highest_sequence bigint,
    -- After a reset: the cursor up to which events come again. Until it is passed, ids are looked up.
    reread_to text COLLATE "C",
    events_stored bigint NOT NULL DEFAULT 0,
    -- Off once a page did not ascend.
    progressive boolean NOT NULL DEFAULT true,
    -- A new object found this row and its `start` was not applied.
    start_ignored boolean NOT NULL DEFAULT false
) WITH (
    -- Every poll rewrites its row twice. Half-empty pages keep the new version on the same page (HOT, measured 100 %), so
    -- there must be no index but the key; vacuum by a fixed count, because the table is small and hot.
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 5000
);

COMMENT ON TABLE headgate.source IS 'One row per stream: who may ask the source, when, and from where on.';

-- One installation per schema.
CREATE TABLE headgate.installation (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    -- The UID of the Lease `headgate-installation`.
    lease_uid text COLLATE "C" NOT NULL,
    claimed_at timestamptz NOT NULL
);

COMMENT ON TABLE headgate.installation IS 'The one installation of Headgate that may use this schema.';
