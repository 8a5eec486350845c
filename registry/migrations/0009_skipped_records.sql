-- The audit trail of `headrace skip`: records that a person made the workers step over.

CREATE TABLE skipped_records (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    group_id text NOT NULL,
    topic text NOT NULL,
    topic_partition integer NOT NULL,
    record_offset bigint NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL,
    skipped_at timestamptz NOT NULL
);

CREATE TRIGGER skipped_records_never_change
    BEFORE UPDATE OR DELETE OR TRUNCATE ON skipped_records EXECUTE FUNCTION refuse_change();
