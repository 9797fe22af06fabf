ALTER TABLE {schema}.runs
    -- Who waits for the run's end, if another run started it, as JSON.
    ADD COLUMN parent     bytea,
    -- What runs are searched by.
    ADD COLUMN attributes jsonb;

CREATE INDEX runs_attributes ON {schema}.runs USING gin (attributes jsonb_path_ops) WHERE attributes IS NOT NULL;

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
