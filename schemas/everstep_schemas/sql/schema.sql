CREATE TABLE {schema}.migrations (
    number     integer PRIMARY KEY,
    -- Older code runs on a newer schema as long as everything it does not know is 'pre'.
    phase      text COLLATE "C" NOT NULL CHECK (phase IN ('pre', 'post')),
    name       text COLLATE "C" NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE {schema}.installation (
    -- Facts fixed once, such as the number of shards and the identities of cluster and topics.
    name  text COLLATE "C" PRIMARY KEY,
    value text COLLATE "C" NOT NULL
);

CREATE TABLE {schema}.orchestrators (
    id                 text COLLATE "C" PRIMARY KEY,
    -- Held as a session-level advisory lock while this member is connected; new for every connection.
    lock_key           bigint      NOT NULL UNIQUE,
    -- By the database's clock.
    lease_until        timestamptz NOT NULL,
    -- A free lock only proves a death if the server has not restarted since.
    postmaster_started timestamptz NOT NULL,
    -- It is shutting down: it keeps its shards until they are drained and takes no more.
    leaving            boolean     NOT NULL DEFAULT false,
    address            text COLLATE "C" NOT NULL,
    host               text COLLATE "C" NOT NULL,
    pid                integer     NOT NULL,
    version            text COLLATE "C" NOT NULL,
    -- The newest migration its code knows: a post-migration waits until nobody needs what it removes.
    migration          integer     NOT NULL,
    -- {"fulfil_order": [1, 2]}: the types and versions it has code for. As text, since jsonb refuses some strings.
    workflows          bytea       NOT NULL,
    started_at         timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

CREATE TABLE {schema}.shards (
    shard                   integer PRIMARY KEY,
    -- Who may write; null: nobody. A member's row stays for as long as it owns a shard.
    owner                   text COLLATE "C" REFERENCES {schema}.orchestrators (id),
    -- Raised at every claim; with commit_no the fence of every commit.
    epoch                   bigint  NOT NULL DEFAULT 0,
    commit_no               bigint  NOT NULL DEFAULT 0,
    -- The next offsets to apply; null: from the start of the topic.
    submissions_position    bigint,
    inbox_position          bigint,
    -- The last number that a run of this shard, or a parked input, was given.
    last_number             bigint  NOT NULL DEFAULT 0,
    -- Everything of commits up to here is acknowledged by Kafka.
    published               bigint  NOT NULL DEFAULT 0,
    claims_without_progress integer NOT NULL DEFAULT 0,
    -- After repeated claims without progress: the run whose input is being applied right now.
    trying                  bigint,
    CHECK (published <= commit_no)
-- Rewritten by every commit: room on the page keeps that to heap-only updates, and vacuum comes early.
) WITH (fillfactor = 25, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);

CREATE TABLE {schema}.runs (
    run_key        bigint PRIMARY KEY,
    shard          integer     NOT NULL CHECK (shard = run_key >> 48),
    workflow_id    text COLLATE "C" NOT NULL,
    run            integer     NOT NULL,
    workflow       text COLLATE "C" NOT NULL,
    version        integer     NOT NULL,
    nonce          text COLLATE "C" NOT NULL,
    -- The identity of the submission that created the run.
    source         text COLLATE "C" NOT NULL,
    status         text COLLATE "C" NOT NULL
        CHECK (status IN ('running', 'completed', 'failed', 'cancelled', 'terminated', 'timed_out', 'continued')),
    -- Why a running run does not run now.
    condition      text COLLATE "C" CHECK (condition IN ('stalled', 'held', 'suspended')),
    -- For a stalled run: what was expected and what came, as JSON.
    reason         bytea,
    custom_status  text COLLATE "C",
    started_at     timestamptz NOT NULL,
    closed_at      timestamptz,
    -- A lower bound of the next timer or retry; only lowered on the hot path.
    next_wakeup_at timestamptz,
    -- Who waits for the run's end, if another run started it, as JSON.
    parent         bytea,
    -- What runs are searched by.
    attributes     jsonb,
    UNIQUE (workflow_id, run),
    CHECK ((status = 'running') = (closed_at IS NULL)),
    CHECK (status = 'running' OR (condition IS NULL AND next_wakeup_at IS NULL))
) WITH (fillfactor = 80);

-- A run that does not run now is not woken; its bound waits with it.
CREATE INDEX runs_wakeup ON {schema}.runs (shard, next_wakeup_at)
    WHERE next_wakeup_at IS NOT NULL AND condition IS NULL;
CREATE INDEX runs_condition ON {schema}.runs (shard, condition, run_key) WHERE condition IS NOT NULL;
CREATE INDEX runs_by_start ON {schema}.runs (started_at, run_key);
CREATE INDEX runs_open ON {schema}.runs (workflow, started_at, run_key) WHERE status = 'running';

CREATE INDEX runs_attributes ON {schema}.runs USING gin (attributes jsonb_path_ops) WHERE attributes IS NOT NULL;

CREATE TABLE {schema}.history (
    run_key bigint      NOT NULL,
    -- The number of the row's first event.
    seq     bigint      NOT NULL,
    at      timestamptz NOT NULL,
    -- JSON: [input event, command events…]; a row that begins with a command event continues the one before.
    data    bytea       NOT NULL,
    PRIMARY KEY (run_key, seq)
);

CREATE TABLE {schema}.heartbeats (
    run_key bigint      NOT NULL,
    -- The event that scheduled the activity or created the callback.
    seq     bigint      NOT NULL,
    -- 0 for a callback.
    attempt integer     NOT NULL,
    at      timestamptz NOT NULL,
    -- What it said of its progress, as JSON.
    details bytea       NOT NULL,
    PRIMARY KEY (run_key, seq)
-- Rewritten at every heartbeat that says something.
) WITH (fillfactor = 50);

CREATE TABLE {schema}.outbox (
    shard     integer NOT NULL,
    commit_no bigint  NOT NULL,
    -- JSON: [[run_key, seq], …], the rows of history whose messages this commit owes, in order.
    refs      bytea   NOT NULL,
    -- JSON: whole messages that belong to no run.
    bodies    bytea   NOT NULL,
    PRIMARY KEY (shard, commit_no)
-- Rows live for milliseconds: compressing them costs more than it saves, and their place is soon wanted again.
) WITH (toast_tuple_target = 8160, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0);

CREATE TABLE {schema}.parked (
    shard       integer NOT NULL,
    number      bigint  NOT NULL,
    workflow_id text COLLATE "C" NOT NULL,
    -- Null: a signal for an id that no run has yet.
    run_key     bigint,
    expires_at  timestamptz,
    data        bytea   NOT NULL,
    PRIMARY KEY (shard, number)
);

CREATE INDEX parked_by_run ON {schema}.parked (run_key, number) WHERE run_key IS NOT NULL;
CREATE INDEX parked_by_id ON {schema}.parked (workflow_id, number) WHERE run_key IS NULL;
CREATE INDEX parked_expiry ON {schema}.parked (shard, expires_at) WHERE expires_at IS NOT NULL;

-- One row per event, for people with psql. It extracts nothing: `->>` fails on "\u0000".
CREATE VIEW {schema}.events AS
SELECT r.workflow_id, r.run, h.seq + e.position - 1 AS seq, h.at, e.event
FROM {schema}.history h
JOIN {schema}.runs r USING (run_key)
CROSS JOIN LATERAL json_array_elements(convert_from(h.data, 'UTF8')::json) WITH ORDINALITY AS e (event, position);
