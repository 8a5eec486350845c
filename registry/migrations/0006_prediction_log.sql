-- What was answered to whom, a row for each request. The role `log` fills it, makes its days and drops them.

CREATE TABLE prediction_log (
    -- Of the response, by Kafka.
    responded_at timestamptz NOT NULL,
    logged_at timestamptz NOT NULL DEFAULT now(),
    -- Where the request is.
    source_offset bigint NOT NULL,
    revision bigint NOT NULL,
    latency_ms double precision NOT NULL,
    source_partition integer NOT NULL,
    -- Of `responded_at`, in UTC.
    day date NOT NULL,
    cached boolean NOT NULL,
    fallback boolean NOT NULL,
    stale boolean NOT NULL,
    source_topic text NOT NULL,
    request_id text NOT NULL,
    model_name text NOT NULL,
    model_version text NOT NULL,
    -- As requested, or its keyed hash.
    user_id text NOT NULL,
    input_digest text,
    -- NULL where there are predictions.
    error_code text,
    -- NULL unless a setting asks for them.
    predictions json,
    -- A partitioned table has no key without its day. That a repeat of another day is none either, the role
    -- sees to.
    PRIMARY KEY (source_topic, source_partition, source_offset, request_id, day)
) PARTITION BY RANGE (day);
