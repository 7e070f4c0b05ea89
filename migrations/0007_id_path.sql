-- A stream outlives its object, and another object of its name may read the ids from elsewhere in the same items. The cursor says
-- nothing to that one: it would skip what it should load.

-- What the ids up to the cursor were read from (spec.mapping.idPath), and in which epoch that was written down. A release before
-- this one begins a new epoch and writes nothing down: then nobody knows, and the next adopter's own path counts.
ALTER TABLE headgate.source
    ADD COLUMN id_path text COLLATE "C",
    ADD COLUMN id_path_epoch bigint;
