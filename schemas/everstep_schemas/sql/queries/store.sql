-- What the owner of a shard reads. None of this is a fence: the commit is.

-- name: runs_by_key
SELECT run_key, workflow_id, run, workflow, version, nonce, source, status, condition, reason, custom_status, started_at,
       closed_at, next_wakeup_at, parent, attributes::text
FROM {schema}.runs
WHERE run_key = ANY ($1::bigint[]);

-- One probe of the unique index per id, from its end.
-- name: latest_runs
SELECT r.*
FROM unnest($1::text[]) AS w (workflow_id)
CROSS JOIN LATERAL (
    SELECT run_key, workflow_id, run, workflow, version, nonce, source, status, condition, reason, custom_status,
           started_at, closed_at, next_wakeup_at, parent, attributes::text
    FROM {schema}.runs
    WHERE workflow_id = w.workflow_id
    ORDER BY run DESC
    LIMIT 1
) r;

-- All runs of the id count, also those closed long ago.
-- name: run_of_source
SELECT run_key, workflow_id, run, workflow, version, nonce, source, status, condition, reason, custom_status, started_at,
       closed_at, next_wakeup_at, parent, attributes::text
FROM {schema}.runs
WHERE workflow_id = $1 AND source = $2
ORDER BY run
LIMIT 1;

-- name: stalled
SELECT run_key, workflow_id, run, workflow, version, nonce, source, status, condition, reason, custom_status, started_at,
       closed_at, next_wakeup_at, parent, attributes::text
FROM {schema}.runs
WHERE shard = $1 AND condition = $2 AND run_key > $3
ORDER BY run_key
LIMIT $4;

-- name: due
SELECT run_key, next_wakeup_at
FROM {schema}.runs
WHERE shard = $1 AND next_wakeup_at <= $2 AND condition IS NULL
ORDER BY next_wakeup_at
LIMIT $3;

-- A page ends at its limit of rows or of bytes, whichever comes first, but holds one row at least. octet_length() of a
-- large value reads its header alone.
-- name: history_page
SELECT seq, at, data
FROM (
    SELECT seq, at, data, sum(octet_length(data)) OVER (ORDER BY seq) - octet_length(data) AS bytes_before
    FROM (
        SELECT seq, at, data FROM {schema}.history WHERE run_key = $1 AND seq > $2 ORDER BY seq LIMIT $3
    ) first
) page
WHERE bytes_before < $4
ORDER BY seq;

-- Whole histories only: a run with more rows or bytes than the limits is left out.
-- name: histories
SELECT k.run_key, h.seq, h.at, h.data
FROM unnest($1::bigint[]) AS k (run_key)
CROSS JOIN LATERAL (
    SELECT seq, at, data, count(*) OVER () AS rows, sum(octet_length(data)) OVER () AS bytes
    FROM (
        SELECT seq, at, data FROM {schema}.history WHERE run_key = k.run_key ORDER BY seq LIMIT $2::int + 1
    ) first
) h
WHERE h.rows <= $2::int AND h.bytes <= $3::bigint
ORDER BY k.run_key, h.seq;

-- The row that holds an event is the last one that begins at or before it.
-- name: rows_holding
SELECT e.run_key, e.seq AS event, h.seq, h.at, h.data
FROM unnest($1::bigint[], $2::bigint[]) AS e (run_key, seq)
CROSS JOIN LATERAL (
    SELECT seq, at, data
    FROM {schema}.history
    WHERE run_key = e.run_key AND seq <= e.seq
    ORDER BY seq DESC
    LIMIT 1
) h;

-- name: heartbeats
SELECT run_key, seq, attempt, at, details
FROM {schema}.heartbeats
WHERE run_key = ANY ($1::bigint[]);

-- name: outbox
SELECT commit_no, refs, bodies
FROM {schema}.outbox
WHERE shard = $1 AND commit_no > $2
ORDER BY commit_no;

-- name: parked_of_runs
SELECT shard, number, workflow_id, run_key, expires_at, data
FROM {schema}.parked
WHERE run_key = ANY ($1::bigint[])
ORDER BY run_key, number;

-- name: parked_for_ids
SELECT shard, number, workflow_id, run_key, expires_at, data
FROM {schema}.parked
WHERE run_key IS NULL AND workflow_id = ANY ($1::text[])
ORDER BY workflow_id, number;

-- name: parked_expired
SELECT shard, number, workflow_id, run_key, expires_at, data
FROM {schema}.parked
WHERE shard = $1 AND expires_at <= $2
ORDER BY expires_at
LIMIT $3;

-- The epoch keeps a former owner from naming a run; a note is no input and needs no commit number.
-- name: mark_trying
UPDATE {schema}.shards SET trying = $3 WHERE shard = $1 AND epoch = $2 RETURNING shard;

-- Returns what is stored, whether it was there or is new. The update changes nothing; DO NOTHING would answer nothing
-- when another session has just stored a value that this statement's snapshot does not hold.
-- name: remember
INSERT INTO {schema}.installation AS i (name, value) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET value = i.value
RETURNING value;

-- name: census
SELECT workflow, condition, count(*)
FROM {schema}.runs
WHERE shard = $1 AND status = 'running'
GROUP BY workflow, condition;

-- name: parked_count
SELECT count(*) FROM {schema}.parked WHERE shard = $1;
