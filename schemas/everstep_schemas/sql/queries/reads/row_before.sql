-- The last row of a history whose number is below $2.
SELECT seq, data
FROM {schema}.history
WHERE run_key = $1 AND seq < $2
ORDER BY seq DESC
LIMIT 1;
