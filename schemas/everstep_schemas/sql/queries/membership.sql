-- Who may write which shard. A member's advisory lock shows that its connection lives, its lease that it works.

-- name: lock
SELECT pg_advisory_lock($1);

-- name: register
INSERT INTO {schema}.orchestrators (id, lock_key, lease_until, postmaster_started, leaving, address, host, pid, version,
                                    migration, workflows)
VALUES ($1, $2, clock_timestamp() + $3::float8 * interval '1 second', pg_postmaster_start_time(), $4, $5, $6, $7, $8, $9,
        $10)
ON CONFLICT (id) DO UPDATE
SET lock_key = excluded.lock_key,
    lease_until = excluded.lease_until,
    postmaster_started = excluded.postmaster_started,
    leaving = excluded.leaving;

-- Answers with nothing if others have buried this member: then it registers again.
-- name: renew
UPDATE {schema}.orchestrators
SET lease_until = clock_timestamp() + $2::float8 * interval '1 second', leaving = $3
WHERE id = $1
RETURNING id;

-- The others. Trying a lock shared and for this statement alone disturbs neither its owner nor other observers. Code
-- does not change while a process lives, so it is read once per member.
-- name: members
SELECT id,
       leaving,
       lease_until > clock_timestamp() AS leased,
       pg_try_advisory_xact_lock_shared(lock_key) AS lock_free,
       postmaster_started = pg_postmaster_start_time() AS same_server,
       CASE WHEN id = ANY ($2::text[]) THEN NULL ELSE workflows END AS workflows
FROM {schema}.orchestrators
WHERE id <> $1;

-- With the code that the shard's oldest held run waits for.
-- name: shards
SELECT s.shard, s.owner, s.epoch, held.workflow, held.version
FROM {schema}.shards s
LEFT JOIN LATERAL (
    SELECT workflow, version
    FROM {schema}.runs
    WHERE shard = s.shard AND condition = 'held'
    ORDER BY run_key
    LIMIT 1
) held ON true
ORDER BY s.shard;

-- Takes the shards that still belong to whom they were seen to belong to; a member without a lease takes none. Raising
-- the epoch fences off whoever wrote before. A claim of one's own shard comes from a process that lives, so it is no
-- sign of a crash: nothing is counted, and nothing was being tried.
-- name: claim
WITH locked AS MATERIALIZED (
    SELECT shard FROM {schema}.shards WHERE shard = ANY ($2::int[]) ORDER BY shard FOR NO KEY UPDATE
)
UPDATE {schema}.shards s
SET owner = $1,
    epoch = s.epoch + 1,
    claims_without_progress = s.claims_without_progress + (s.owner IS DISTINCT FROM $1)::int,
    trying = CASE WHEN s.owner IS DISTINCT FROM $1 THEN s.trying END
FROM locked l
JOIN unnest($2::int[], $3::text[]) AS seen (shard, owner) ON seen.shard = l.shard
WHERE s.shard = l.shard
  AND s.owner IS NOT DISTINCT FROM seen.owner
  AND EXISTS (SELECT FROM {schema}.orchestrators WHERE id = $1 AND lease_until > clock_timestamp())
RETURNING s.shard, s.epoch, s.commit_no, s.submissions_position, s.inbox_position, s.last_number, s.published,
          s.claims_without_progress, s.trying;

-- A graceful end is progress, also of a shard that had nothing to commit. Waiting members are woken.
-- name: release
WITH locked AS MATERIALIZED (
    SELECT shard FROM {schema}.shards WHERE shard = ANY ($2::int[]) ORDER BY shard FOR NO KEY UPDATE
), released AS (
    UPDATE {schema}.shards s
    SET owner = NULL, claims_without_progress = 0, trying = NULL
    FROM locked l
    WHERE s.shard = l.shard AND s.owner = $1
    RETURNING s.shard
)
SELECT pg_notify('everstep', $3) FROM released LIMIT 1;

-- name: owned
SELECT shard FROM {schema}.shards WHERE owner = $1 ORDER BY shard;

-- Whoever still owns a shard stays registered.
-- name: forget
DELETE FROM {schema}.orchestrators o
WHERE o.id = $1 AND NOT EXISTS (SELECT FROM {schema}.shards WHERE owner = o.id);

-- name: bury
DELETE FROM {schema}.orchestrators o
WHERE o.lease_until < clock_timestamp() AND NOT EXISTS (SELECT FROM {schema}.shards WHERE owner = o.id);
