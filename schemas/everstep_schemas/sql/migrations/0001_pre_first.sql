-- The whole of the first schema. `{schema}` stands for the schema's name.

CREATE TABLE installation (
    -- Facts fixed at the first migration, and identities whose change stops the shards.
    name  text COLLATE "C" PRIMARY KEY,
    value text COLLATE "C" NOT NULL
);

CREATE TABLE orchestrators (
    id                 text COLLATE "C" PRIMARY KEY,
    -- Held as a session-level advisory lock for as long as the process lives.
    lock_key           bigint      NOT NULL UNIQUE,
    -- By the database's clock.
    lease_until        timestamptz NOT NULL,
    -- A free lock only proves a death if the server has not restarted since.
    postmaster_started timestamptz NOT NULL,
    address            text COLLATE "C" NOT NULL,
    host               text COLLATE "C" NOT NULL,
    pid                integer     NOT NULL,
    version            text COLLATE "C" NOT NULL,
    -- {"fulfil_order": [1, 2]}: the types and versions this process has code for.
    workflows          jsonb       NOT NULL,
    started_at         timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE shards (
    shard                   integer PRIMARY KEY,
    -- Who may write; null: nobody. Raised at every claim.
    owner                   text COLLATE "C" REFERENCES orchestrators (id) ON DELETE SET NULL,
    epoch                   bigint  NOT NULL DEFAULT 0,
    -- Together with the epoch the fence of every commit.
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
    trying                  bigint
) WITH (fillfactor = 25);

CREATE TABLE runs (
    run_key        bigint PRIMARY KEY,
    shard          integer     NOT NULL,
    workflow_id    text COLLATE "C" NOT NULL,
    run            integer     NOT NULL,
    workflow       text COLLATE "C" NOT NULL,
    version        integer     NOT NULL,
    nonce          text COLLATE "C" NOT NULL,
    -- The identity of the submission that created the run.
    source         text COLLATE "C" NOT NULL,
    status         text COLLATE "C" NOT NULL DEFAULT 'running'
        CHECK (status IN ('running', 'completed', 'failed', 'cancelled', 'terminated', 'timed_out', 'continued')),
    -- Why a running run does not run now.
    condition      text COLLATE "C"
        CHECK (condition IN ('stalled', 'held', 'suspended')),
    -- For a stalled run: what was expected and what came, as JSON.
    reason         bytea,
    custom_status  text COLLATE "C",
    started_at     timestamptz NOT NULL,
    closed_at      timestamptz,
    -- A lower bound of the next timer or retry; only lowered on the hot path.
    next_wakeup_at timestamptz,
    UNIQUE (workflow_id, run),
    CHECK ((status = 'running') = (closed_at IS NULL)),
    CHECK (condition IS NULL OR status = 'running')
) WITH (fillfactor = 80);

CREATE INDEX runs_wakeup ON runs (shard, next_wakeup_at) WHERE next_wakeup_at IS NOT NULL;
CREATE INDEX runs_condition ON runs (shard, run_key) WHERE condition IS NOT NULL;
CREATE INDEX runs_by_start ON runs (started_at, run_key);
CREATE INDEX runs_open ON runs (workflow, started_at, run_key) WHERE status = 'running';

CREATE TABLE history (
    run_key bigint      NOT NULL,
    -- The number of the row's first event.
    seq     bigint      NOT NULL,
    at      timestamptz NOT NULL,
    -- JSON: [input event, command events…]; a row that begins with a command event continues the one before.
    data    bytea       NOT NULL,
    PRIMARY KEY (run_key, seq)
);

CREATE TABLE outbox (
    shard     integer NOT NULL,
    commit_no bigint  NOT NULL,
    -- JSON: [[run_key, seq], …], the rows of history whose messages this commit owes, in order.
    refs      bytea   NOT NULL,
    -- JSON: whole messages that belong to no run.
    bodies    bytea   NOT NULL,
    PRIMARY KEY (shard, commit_no)
);

CREATE TABLE parked (
    shard       integer NOT NULL,
    number      bigint  NOT NULL,
    workflow_id text COLLATE "C" NOT NULL,
    -- Null: a signal for an id that no run has yet.
    run_key     bigint,
    expires_at  timestamptz,
    data        bytea   NOT NULL,
    PRIMARY KEY (shard, number)
);

CREATE INDEX parked_by_run ON parked (run_key, number) WHERE run_key IS NOT NULL;
CREATE INDEX parked_by_id ON parked (workflow_id, number) WHERE run_key IS NULL;

CREATE VIEW events AS
SELECT r.workflow_id, r.run, h.seq + e.position - 1 AS seq, h.at, e.event
FROM history h
JOIN runs r USING (run_key)
CROSS JOIN LATERAL json_array_elements(convert_from(h.data, 'UTF8')::json) WITH ORDINALITY AS e (event, position);
