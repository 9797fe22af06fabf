-- The run that a submission created, looked up over all runs of the id as the orchestrator does.
SELECT run
FROM {schema}.runs
WHERE workflow_id = $1 AND source = $2
ORDER BY run DESC
LIMIT 1;
