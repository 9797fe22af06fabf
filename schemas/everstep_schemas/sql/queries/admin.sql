-- name: lock
SELECT pg_advisory_lock(hashtextextended('everstep migrate ' || $1, 0));

-- name: migrated
SELECT to_regclass($1) IS NOT NULL;

-- name: applied
SELECT number, phase, name FROM {schema}.migrations ORDER BY number;

-- name: record
INSERT INTO {schema}.migrations (number, phase, name) VALUES ($1, $2, $3);

-- Only the first migration writes the number of shards; later ones find it.
-- name: fix_shards
INSERT INTO {schema}.installation (name, value) VALUES ('shards', $1) ON CONFLICT (name) DO NOTHING;

-- name: create_shards
INSERT INTO {schema}.shards (shard)
SELECT generate_series(0, value::int - 1) FROM {schema}.installation WHERE name = 'shards'
ON CONFLICT (shard) DO NOTHING;

-- name: shards
SELECT value::int FROM {schema}.installation WHERE name = 'shards';

-- Members that may still run code which needs what migration $1 removes.
-- name: older_members
SELECT id, host, pid, version
FROM {schema}.orchestrators
WHERE migration < $1 AND lease_until > clock_timestamp()
ORDER BY id;

-- name: server
SELECT current_setting('server_version_num')::int AS version,
       pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on' AS read_only,
       current_setting('fsync') = 'on' AS fsync;
