-- Those for whom the session waits that runs the statement $1. By its text, because a pooler may have given it any session. They may
-- be gone at any moment; 0 is a prepared transaction.
SELECT DISTINCT blocker AS pid
FROM pg_stat_activity AS waiting, unnest(pg_blocking_pids(waiting.pid)) AS blocker
WHERE waiting.datname = current_database() AND waiting.state = 'active' AND waiting.query = $1
ORDER BY blocker
