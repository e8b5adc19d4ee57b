CREATE TABLE alerts (
    sequence {key},
    dataset VARCHAR(64) NOT NULL,
    kind VARCHAR(16) NOT NULL,
    subject VARCHAR(160) NOT NULL,
    raised_at {time} NOT NULL,
    resolved_at {time},
    told TEXT NOT NULL,
    value FLOAT,
    "limit" FLOAT,
    raise_sent_at {time},
    resolve_sent_at {time},
    PRIMARY KEY (sequence)
);
CREATE UNIQUE INDEX alerts_one_open ON alerts (dataset, kind, subject) WHERE resolved_at IS NULL;
CREATE INDEX ix_alerts_dataset ON alerts (dataset);
CREATE TABLE attempts (
    run_id BIGINT NOT NULL,
    number INTEGER NOT NULL,
    host VARCHAR(128) NOT NULL,
    pid INTEGER,
    started_at {time} NOT NULL,
    ended_at {time},
    outcome VARCHAR(16),
    reason TEXT,
    peak_memory_mb FLOAT,
    PRIMARY KEY (run_id, number)
);
CREATE TABLE champions (
    sequence {key},
    dataset VARCHAR(64) NOT NULL,
    model_name VARCHAR(64) NOT NULL,
    model_version VARCHAR(64) NOT NULL,
    folder VARCHAR(256) NOT NULL,
    digest VARCHAR(64) NOT NULL,
    promoted_at {time} NOT NULL,
    verdict TEXT NOT NULL,
    PRIMARY KEY (sequence)
);
CREATE INDEX ix_champions_dataset ON champions (dataset);
CREATE TABLE clocks (
    dataset VARCHAR(64) NOT NULL,
    position {time} NOT NULL,
    stopped BOOLEAN NOT NULL,
    PRIMARY KEY (dataset)
);
CREATE TABLE corrections (
    sequence {key},
    dataset VARCHAR(64) NOT NULL,
    model_version VARCHAR(64) NOT NULL,
    made_at {time} NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (sequence)
);
CREATE INDEX corrections_model ON corrections (dataset, model_version);
CREATE TABLE events (
    sequence {key},
    at {time} NOT NULL,
    kind VARCHAR(16) NOT NULL,
    dataset VARCHAR(64) NOT NULL,
    run_id BIGINT,
    document TEXT NOT NULL,
    PRIMARY KEY (sequence)
);
CREATE INDEX ix_events_run_id ON events (run_id);
CREATE TABLE forecast_scores (
    forecast_id VARCHAR(40) NOT NULL,
    channel VARCHAR(64) NOT NULL,
    last INTEGER NOT NULL,
    first INTEGER NOT NULL,
    dataset VARCHAR(64) NOT NULL,
    day VARCHAR(10) NOT NULL,
    model_version VARCHAR(64) NOT NULL,
    origin {time} NOT NULL,
    count INTEGER NOT NULL,
    absolute FLOAT NOT NULL,
    squared FLOAT NOT NULL,
    pinball FLOAT NOT NULL,
    inside FLOAT NOT NULL,
    width FLOAT NOT NULL,
    compared FLOAT NOT NULL,
    naive FLOAT NOT NULL,
    PRIMARY KEY (forecast_id, channel, last)
);
CREATE INDEX forecast_scores_day ON forecast_scores (dataset, day, model_version);
CREATE INDEX forecast_scores_origin ON forecast_scores (dataset, model_version, origin);
CREATE TABLE hosts (
    name VARCHAR(160) NOT NULL,
    machine VARCHAR(128) NOT NULL,
    pid INTEGER NOT NULL,
    started_at {time} NOT NULL,
    heartbeat_at {time} NOT NULL,
    trainings INTEGER NOT NULL,
    others INTEGER NOT NULL,
    PRIMARY KEY (name)
);
CREATE TABLE issuances (
    sequence {key},
    forecast_id VARCHAR(40) NOT NULL,
    dataset VARCHAR(64) NOT NULL,
    issued_at {time} NOT NULL,
    origin {time} NOT NULL,
    horizon INTEGER NOT NULL,
    quantiles TEXT NOT NULL,
    data_version INTEGER NOT NULL,
    model_name VARCHAR(64) NOT NULL,
    model_version VARCHAR(64) NOT NULL,
    model_folder VARCHAR(256) NOT NULL,
    imputed_fraction FLOAT NOT NULL,
    recorded_at {time} NOT NULL,
    newest_observed {time},
    provenance TEXT,
    backfilled BOOLEAN DEFAULT {false} NOT NULL,
    correction BIGINT,
    PRIMARY KEY (sequence),
    UNIQUE (forecast_id)
);
CREATE INDEX ix_issuances_dataset ON issuances (dataset);
CREATE TABLE jobs (
    name VARCHAR(160) NOT NULL,
    document TEXT,
    paused BOOLEAN NOT NULL,
    since {time} NOT NULL,
    timing TEXT NOT NULL,
    PRIMARY KEY (name)
);
CREATE TABLE keys (
    key_id VARCHAR(12) NOT NULL,
    name VARCHAR(80) NOT NULL,
    digest VARCHAR(64) NOT NULL,
    scope VARCHAR(16) NOT NULL,
    datasets TEXT NOT NULL,
    created_at {time} NOT NULL,
    expires_at {time},
    revoked_at {time},
    PRIMARY KEY (key_id)
);
CREATE TABLE lead_scores (
    dataset VARCHAR(64) NOT NULL,
    day VARCHAR(10) NOT NULL,
    model_version VARCHAR(64) NOT NULL,
    channel VARCHAR(64) NOT NULL,
    sums {blob} NOT NULL,
    PRIMARY KEY (dataset, day, model_version, channel)
);
CREATE TABLE leases (
    name VARCHAR(64) NOT NULL,
    holder VARCHAR(160) NOT NULL,
    beat BIGINT NOT NULL,
    PRIMARY KEY (name)
);
CREATE TABLE ledger_schema (
    version INTEGER NOT NULL,
    PRIMARY KEY (version)
);
CREATE TABLE nights (
    sequence {key},
    dataset VARCHAR(64) NOT NULL,
    recorded_at {time} NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (sequence)
);
CREATE INDEX ix_nights_dataset ON nights (dataset);
CREATE TABLE receipts (
    sequence {key},
    dataset VARCHAR(64) NOT NULL,
    recorded_at {time} NOT NULL,
    data_version INTEGER,
    document TEXT NOT NULL,
    PRIMARY KEY (sequence)
);
CREATE INDEX ix_receipts_dataset ON receipts (dataset);
CREATE TABLE revisions (
    forecast_id VARCHAR(40) NOT NULL,
    dataset VARCHAR(64) NOT NULL,
    recorded_at {time} NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (forecast_id)
);
CREATE INDEX ix_revisions_dataset ON revisions (dataset);
CREATE TABLE runs (
    run_id {key},
    job VARCHAR(160) NOT NULL,
    dataset VARCHAR(64) NOT NULL,
    kind VARCHAR(16) NOT NULL,
    logical_date VARCHAR(40) NOT NULL,
    state VARCHAR(16) NOT NULL,
    claimed_at {time} NOT NULL,
    ended_at {time},
    pid INTEGER,
    reason TEXT,
    cause VARCHAR(16),
    due_at {time},
    document TEXT,
    host VARCHAR(128),
    attempt INTEGER DEFAULT '0' NOT NULL,
    failures INTEGER DEFAULT '0' NOT NULL,
    not_before {time},
    started_at {time},
    heartbeat_at {time},
    cancel_asked_at {time},
    coalesced_into INTEGER,
    progress FLOAT,
    doing TEXT,
    peak_memory_mb FLOAT,
    tracking_run VARCHAR(64),
    forecast_id VARCHAR(40),
    log TEXT,
    PRIMARY KEY (run_id),
    UNIQUE (job, logical_date)
);
CREATE INDEX runs_due ON runs (job, due_at);
CREATE UNIQUE INDEX runs_one_running ON runs (job) WHERE state = 'running';
CREATE INDEX runs_state ON runs (state);
CREATE TABLE scored_days (
    dataset VARCHAR(64) NOT NULL,
    day VARCHAR(10) NOT NULL,
    model_version VARCHAR(64) NOT NULL,
    digest VARCHAR(64) NOT NULL,
    levels TEXT NOT NULL,
    ends TEXT NOT NULL,
    PRIMARY KEY (dataset, day, model_version)
);
CREATE TABLE series_scores (
    dataset VARCHAR(64) NOT NULL,
    day VARCHAR(10) NOT NULL,
    model_version VARCHAR(64) NOT NULL,
    series VARCHAR(255) NOT NULL,
    channel VARCHAR(64) NOT NULL,
    sums {blob} NOT NULL,
    PRIMARY KEY (dataset, day, model_version, series, channel)
);
CREATE TABLE yardsticks (
    dataset VARCHAR(64) NOT NULL,
    model_version VARCHAR(64) NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (dataset, model_version)
);
INSERT INTO ledger_schema VALUES (4);
