-- What the HTTP API and the command line read. Nothing here writes or locks.

-- One page of runs, newest first. The page goes on below a pair of columns that never change, so that runs written
-- meanwhile neither repeat nor hide a row. Filters that are null fold away, since these statements are planned with
-- their values (plan_cache_mode), which is also what lets the partial indexes serve them.
-- name: list_runs
SELECT run_key, workflow_id, run, workflow, version, status, condition, custom_status, started_at, closed_at, parent,
       attributes::text
FROM {schema}.runs
WHERE ($1::text IS NULL OR workflow = $1)
  AND ($2::text IS NULL OR status = $2)
  AND ($3::text IS NULL OR condition = $3)
  AND ($4::timestamptz IS NULL OR (started_at, run_key) < ($4, $5::bigint))
  AND ($7::jsonb IS NULL OR attributes @> $7)
ORDER BY started_at DESC, run_key DESC
LIMIT $6;

-- One run of an id, the newest unless a number is given.
-- name: run
SELECT run_key, workflow_id, run, workflow, version, status, condition, custom_status, started_at, closed_at,
       parent, attributes::text, reason, next_wakeup_at
FROM {schema}.runs
WHERE workflow_id = $1 AND ($2::integer IS NULL OR run = $2)
ORDER BY run DESC
LIMIT 1;

-- The run that has the last of the work of a continued one: those that only pass it on follow each other.
-- name: last_of_chain
SELECT run
FROM {schema}.runs
WHERE workflow_id = $1 AND run > $2 AND status <> 'continued'
ORDER BY run
LIMIT 1;

-- The first row of a history; of a run that waits for its code and has none yet, what it will begin with.
-- name: beginning
(SELECT data, 1 AS place FROM {schema}.history WHERE run_key = $1 AND seq = 1)
UNION ALL
(SELECT data, 2 AS place FROM {schema}.parked WHERE run_key = $1 ORDER BY number LIMIT 1)
ORDER BY place
LIMIT 1;

-- The run that a submission created, looked up over all runs of the id as the orchestrator does.
-- name: run_of_source
SELECT run
FROM {schema}.runs
WHERE workflow_id = $1 AND source = $2
ORDER BY run
LIMIT 1;

-- Rows of a history from the one that holds event $2 on, at most $3 of them and not many more than $4 bytes, but always
-- one. `last` is the number of the history's last row and tells whether there is more.
-- name: history
SELECT seq, at, data, last
FROM (
    SELECT seq, at, data,
           sum(octet_length(data)) OVER (ORDER BY seq) - octet_length(data) AS bytes_before,
           (SELECT max(seq) FROM {schema}.history WHERE run_key = $1) AS last
    FROM {schema}.history
    WHERE run_key = $1
      AND seq >= (SELECT coalesce(max(seq), 0) FROM {schema}.history WHERE run_key = $1 AND seq <= $2)
    ORDER BY seq
    LIMIT $3
) AS page
WHERE bytes_before < $4
ORDER BY seq;

-- The last row of a history whose number is below $2.
-- name: row_before
SELECT seq, data
FROM {schema}.history
WHERE run_key = $1 AND seq < $2
ORDER BY seq DESC
LIMIT 1;

-- ---- histories, as they are stored

-- What a run is, for those who replay it.
-- name: stored_run
SELECT run_key, workflow_id, run, workflow, version, nonce, parent, status, condition, reason
FROM {schema}.runs
WHERE workflow_id = $1 AND ($2::integer IS NULL OR run = $2)
ORDER BY run DESC
LIMIT 1;

-- name: stored_run_by_key
SELECT run_key, workflow_id, run, workflow, version, nonce, parent, status, condition, reason
FROM {schema}.runs
WHERE run_key = $1;

-- A page of the open runs, of one workflow or of all, above a place in the index that holds them.
-- name: open_runs
SELECT run_key, workflow_id, run, workflow, version, nonce, parent, status, condition, reason, started_at
FROM {schema}.runs
WHERE status = 'running'
  AND ($1::text IS NULL OR workflow = $1)
  AND ($2::text IS NULL OR (workflow, started_at, run_key) > ($2, $3::timestamptz, $4::bigint))
ORDER BY workflow, started_at, run_key
LIMIT $5;

-- Rows above number $2, at most $3 of them and not many more than $4 bytes, but always one.
-- name: history_rows
SELECT seq, at, data
FROM (
    SELECT seq, at, data, sum(octet_length(data)) OVER (ORDER BY seq) - octet_length(data) AS bytes_before
    FROM (
        SELECT seq, at, data FROM {schema}.history WHERE run_key = $1 AND seq > $2 ORDER BY seq LIMIT $3
    ) first
) page
WHERE bytes_before < $4
ORDER BY seq;

-- Rows of a run, from the one that begins with event $2 on, in which the bytes $3 stand. Nothing is indexed by what
-- events hold; the server looks through the run's rows, and only those that are asked for travel.
-- name: rows_with
SELECT seq, at, data
FROM {schema}.history
WHERE run_key = $1 AND seq >= $2 AND position($3::bytea IN data) > 0
ORDER BY seq
LIMIT $4;

-- The same over all runs of an id, the newest first, or over the one of that number.
-- name: rows_of_id_with
SELECT r.run, h.seq, h.at, h.data
FROM {schema}.runs r
CROSS JOIN LATERAL (
    SELECT seq, at, data
    FROM {schema}.history
    WHERE run_key = r.run_key AND position($2::bytea IN data) > 0
    ORDER BY seq
) h
WHERE r.workflow_id = $1 AND ($3::integer IS NULL OR r.run = $3)
ORDER BY r.run DESC, h.seq
LIMIT $4;

-- Orchestrators that live, and the code that each has.
-- name: orchestrators
SELECT address, workflows
FROM {schema}.orchestrators
WHERE lease_until > clock_timestamp()
ORDER BY leaving, started_at DESC;
