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
    PRIMARY KEY (sequence),
    UNIQUE (forecast_id)
);
CREATE INDEX ix_issuances_dataset ON issuances (dataset);
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
    PRIMARY KEY (run_id),
    UNIQUE (job, logical_date)
);
INSERT INTO ledger_schema VALUES (3);
