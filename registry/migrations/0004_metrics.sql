-- What the workers counted, in windows of 10 s, 1 min and 1 h.

CREATE TABLE metric_windows (
    resolution_seconds integer NOT NULL,
    window_start timestamptz NOT NULL,
    model_name text NOT NULL,
    -- Empty for requests that reached no version.
    model_version text NOT NULL,
    -- Sums and histograms, of everything that began in the window.
    totals jsonb NOT NULL,
    PRIMARY KEY (model_name, resolution_seconds, window_start, model_version)
);

CREATE INDEX metric_windows_by_age ON metric_windows (resolution_seconds, window_start);

-- How far each worker's deltas were read in each partition. Changes with the windows, in one transaction, so
-- that a delta counts once, whoever reads it how often.
CREATE TABLE metric_marks (
    topic text NOT NULL,
    partition integer NOT NULL,
    worker text NOT NULL,
    boot_id text NOT NULL,
    first_seq bigint NOT NULL,
    last_seq bigint NOT NULL,
    seen bigint NOT NULL,
    marked_at timestamptz NOT NULL,
    PRIMARY KEY (topic, partition, worker, boot_id)
);
