-- Every commit of a batch is one statement: one round trip, one transaction, all of its shards. It consists of `base`,
-- then `runs` if the batch starts runs or changes their rows, then `rest` as well if it parks or settles inputs or keeps
-- heartbeats, and `answer`. Most batches of a quiet system are `base` alone, which costs two thirds of the whole (see
-- docs/commit.md).

-- name: base
WITH wanted AS MATERIALIZED (
    SELECT *
    FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
                $8::bytea[], $9::bytea[])
        AS w (shard, epoch, commit_no, submissions_position, inbox_position, last_number, published, refs, bodies)
),
-- Rows are locked in one order by everyone, so two batches that share shards cannot deadlock. FOR NO KEY UPDATE is what
-- the UPDATE itself takes. This is no fence: it only waits.
locked AS MATERIALIZED (
    SELECT s.shard, s.published
    FROM {schema}.shards s
    WHERE s.shard = ANY ($1::int[])
    ORDER BY s.shard
    FOR NO KEY UPDATE
),
-- The fence. The UPDATE judges the newest version of the row, not the one its snapshot saw, so a commit that waited
-- behind a claim (epoch) or behind itself, sent twice (commit_no), finds nothing here, and writes nothing below.
fenced AS (
    UPDATE {schema}.shards s
    SET commit_no = w.commit_no,
        submissions_position = w.submissions_position,
        inbox_position = w.inbox_position,
        last_number = w.last_number,
        published = w.published,
        claims_without_progress = 0,
        trying = NULL
    FROM locked l
    JOIN wanted w ON w.shard = l.shard
    WHERE s.shard = l.shard AND s.epoch = w.epoch AND s.commit_no = w.commit_no - 1
    RETURNING s.shard, s.commit_no, l.published AS published_before, s.published
),
happened AS (
    INSERT INTO {schema}.history (run_key, seq, at, data)
    SELECT h.run_key, h.seq, h.at, h.data
    FROM unnest($10::bigint[], $11::bigint[], $12::timestamptz[], $13::bytea[]) AS h (run_key, seq, at, data)
    JOIN fenced f ON f.shard = h.run_key >> 48
),
owed AS (
    INSERT INTO {schema}.outbox (shard, commit_no, refs, bodies)
    SELECT w.shard, w.commit_no, w.refs, w.bodies
    FROM wanted w
    JOIN fenced f ON f.shard = w.shard
    WHERE w.refs IS NOT NULL
),
-- The lower bound keeps the search away from index entries of rows long deleted, which stay until vacuum comes, and for
-- as long as any transaction in the cluster is older. Finding the rows apart from deleting them keeps the planner, which
-- mostly sees this table empty, from reading it whole to join it.
acknowledged AS (
    DELETE FROM {schema}.outbox
    WHERE ctid = ANY (ARRAY(
        SELECT o.ctid
        FROM fenced f
        CROSS JOIN LATERAL (
            SELECT ctid
            FROM {schema}.outbox
            WHERE shard = f.shard AND commit_no > f.published_before AND commit_no <= f.published
            OFFSET 0
        ) o
    ))
)

-- name: runs
, started AS (
    INSERT INTO {schema}.runs (run_key, shard, workflow_id, run, workflow, version, nonce, source, status, condition,
                               reason, custom_status, started_at, closed_at, next_wakeup_at, parent, attributes)
    SELECT n.run_key, f.shard, n.workflow_id, n.run, n.workflow, n.version, n.nonce, n.source, n.status, n.condition,
           n.reason, n.custom_status, n.started_at, n.closed_at, n.next_wakeup_at, n.parent, n.attributes::jsonb
    FROM unnest($14::bigint[], $15::text[], $16::int[], $17::text[], $18::int[], $19::text[], $20::text[], $21::text[],
                $22::text[], $23::bytea[], $24::text[], $25::timestamptz[], $26::timestamptz[], $27::timestamptz[],
                $28::bytea[], $29::text[])
        AS n (run_key, workflow_id, run, workflow, version, nonce, source, status, condition, reason, custom_status,
              started_at, closed_at, next_wakeup_at, parent, attributes)
    JOIN fenced f ON f.shard = n.run_key >> 48
),
changed AS (
    UPDATE {schema}.runs r
    SET version = u.version,
        status = u.status,
        condition = u.condition,
        reason = u.reason,
        custom_status = u.custom_status,
        closed_at = u.closed_at,
        next_wakeup_at = u.next_wakeup_at,
        attributes = u.attributes::jsonb
    FROM unnest($30::bigint[], $31::int[], $32::text[], $33::text[], $34::bytea[], $35::text[], $36::timestamptz[],
                $37::timestamptz[], $38::text[])
        AS u (run_key, version, status, condition, reason, custom_status, closed_at, next_wakeup_at, attributes)
    JOIN fenced f ON f.shard = u.run_key >> 48
    WHERE r.run_key = u.run_key
)

-- name: rest
, kept AS (
    INSERT INTO {schema}.parked (shard, number, workflow_id, run_key, expires_at, data)
    SELECT p.shard, p.number, p.workflow_id, p.run_key, p.expires_at, p.data
    FROM unnest($39::int[], $40::bigint[], $41::text[], $42::bigint[], $43::timestamptz[], $44::bytea[])
        AS p (shard, number, workflow_id, run_key, expires_at, data)
    JOIN fenced f ON f.shard = p.shard
),
settled AS (
    DELETE FROM {schema}.parked p
    USING unnest($45::int[], $46::bigint[]) AS g (shard, number)
    JOIN fenced f ON f.shard = g.shard
    WHERE p.shard = g.shard AND p.number = g.number
),
-- What an earlier attempt says late does not replace what a later one has said.
said AS (
    INSERT INTO {schema}.heartbeats AS h (run_key, seq, attempt, at, details)
    SELECT b.run_key, b.seq, b.attempt, b.at, b.details
    FROM unnest($47::bigint[], $48::bigint[], $49::int[], $50::timestamptz[], $51::bytea[])
        AS b (run_key, seq, attempt, at, details)
    JOIN fenced f ON f.shard = b.run_key >> 48
    ON CONFLICT (run_key, seq) DO UPDATE
    SET attempt = excluded.attempt, at = excluded.at, details = excluded.details
    WHERE h.attempt <= excluded.attempt
),
silenced AS (
    DELETE FROM {schema}.heartbeats h
    USING unnest($52::bigint[]) AS g (run_key)
    JOIN fenced f ON f.shard = g.run_key >> 48
    WHERE h.run_key = g.run_key
)

-- name: answer
SELECT shard FROM fenced;
