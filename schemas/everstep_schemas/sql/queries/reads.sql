-- What the HTTP API and the command line read. Nothing here writes or locks.

-- One page of runs, newest first. The page goes on below a pair of columns that never change, so that runs written
-- meanwhile neither repeat nor hide a row. Filters that are null fold away, since these statements are planned with
-- their values (plan_cache_mode), which is also what lets the partial indexes serve them.
-- name: list_runs
SELECT run_key, workflow_id, run, workflow, version, status, condition, custom_status, started_at, closed_at
FROM {schema}.runs
WHERE ($1::text IS NULL OR workflow = $1)
  AND ($2::text IS NULL OR status = $2)
  AND ($3::text IS NULL OR condition = $3)
  AND ($4::timestamptz IS NULL OR (started_at, run_key) < ($4, $5::bigint))
ORDER BY started_at DESC, run_key DESC
LIMIT $6;

-- One run of an id, the newest unless a number is given.
-- name: run
SELECT run_key, workflow_id, run, workflow, version, status, condition, custom_status, started_at, closed_at,
       reason, next_wakeup_at
FROM {schema}.runs
WHERE workflow_id = $1 AND ($2::integer IS NULL OR run = $2)
ORDER BY run DESC
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
