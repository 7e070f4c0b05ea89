-- Finds what was set aside longest ago: the retention deletes it a part at a time.
CREATE INDEX set_aside_stored_at ON headgate.set_aside (stored_at);
