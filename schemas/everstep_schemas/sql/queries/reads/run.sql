-- One run of an id, the newest unless a number is given.
SELECT run_key, workflow_id, run, workflow, version, status, condition, custom_status, started_at, closed_at,
       reason, next_wakeup_at
FROM {schema}.runs
WHERE workflow_id = $1 AND ($2::integer IS NULL OR run = $2)
ORDER BY run DESC
LIMIT 1;
