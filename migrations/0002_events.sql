-- Events and the record of the commits that stored them, both partitioned by the day they were stored (UTC).

CREATE TABLE headgate.event (
    stream text COLLATE "C" NOT NULL,
    -- The id when it is a number that fits, else a count; ascends in the order of storing.
    sequence bigint NOT NULL,
    -- The id as the source sent it; null when that is the text of `sequence`, which spares most rows a copy and an index entry.
    id text COLLATE "C",
    type text COLLATE "C",
    subject text COLLATE "C",
    occurred_at timestamptz,
    -- Exactly the `stored_at` of its commit.
    stored_at timestamptz NOT NULL,
    -- json and not jsonb: byte-exact, and nothing that is valid JSON is refused.
    payload json NOT NULL,
    -- PostgreSQL wants the partition key in every unique key. That an event is stored once over all days is therefore the
    -- work of the cursor, and of a look-up for what comes at or below the highest sequence.
    PRIMARY KEY (stream, sequence, stored_at)
) PARTITION BY RANGE (stored_at);

COMMENT ON TABLE headgate.event IS 'The stored events. Readers use the view headgate.events.';

-- Finds the event of an id that is not its sequence. Leading zeros do not count, because ids of digits compare as numbers.
CREATE INDEX event_id ON headgate.event (stream, ltrim(id, '0')) WHERE id IS NOT NULL;

CREATE TABLE headgate.commits (
    stream text COLLATE "C" NOT NULL,
    attempt bytea NOT NULL,
    -- Numbers the appends of one attempt.
    part integer NOT NULL,
    -- The events of this commit: stream and `stored_at` are equal, and the sequence is within. Null when n = 0.
    first_sequence bigint,
    last_sequence bigint,
    -- How many events were stored, dropped because they were stored before, and set aside because the stored one differs.
    n integer NOT NULL,
    repeated integer NOT NULL,
    conflicting integer NOT NULL,
    stored_at timestamptz NOT NULL,
    -- The place of this commit in the order of all commits; null until the sequencer numbers it.
    number bigint,
    PRIMARY KEY (stream, attempt, part, stored_at)
) PARTITION BY RANGE (stored_at);

COMMENT ON TABLE headgate.commits IS 'One row per append that carried events: recognises a repeated append, and is what the sequencer numbers.';

CREATE TABLE headgate.set_aside (
    stream text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    reason text COLLATE "C" NOT NULL,
    -- The item byte for byte.
    item bytea NOT NULL,
    digest bytea NOT NULL GENERATED ALWAYS AS (sha256(item)) STORED,
    stored_at timestamptz NOT NULL,
    -- The same item comes again after a reset, and is kept once.
    PRIMARY KEY (stream, id, reason, digest)
);

COMMENT ON TABLE headgate.set_aside IS 'Items that could not be stored as events, with the reason.';

CREATE VIEW headgate.events AS
SELECT stream, sequence, coalesce(id, sequence::text) AS id, type, subject, occurred_at, stored_at, payload
FROM headgate.event;

COMMENT ON VIEW headgate.events IS 'The stored events. Order within a stream: sequence.';
