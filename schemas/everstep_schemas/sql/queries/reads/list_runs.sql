-- One page of runs, newest first. The page goes on below a pair of columns that never change, so that runs written
-- meanwhile neither repeat nor hide a row. Filters that are null fold away, since these statements are planned with
-- their values (plan_cache_mode), which is also what lets the partial indexes serve them.
SELECT run_key, workflow_id, run, workflow, version, status, condition, custom_status, started_at, closed_at
FROM {schema}.runs
WHERE ($1::text IS NULL OR workflow = $1)
  AND ($2::text IS NULL OR status = $2)
  AND ($3::text IS NULL OR condition = $3)
  AND ($4::timestamptz IS NULL OR (started_at, run_key) < ($4, $5::bigint))
ORDER BY started_at DESC, run_key DESC
LIMIT $6;
