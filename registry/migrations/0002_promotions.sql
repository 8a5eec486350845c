-- What makes a promotion happen once, in one order, and be remembered.

-- One row. Every promotion locks it first and raises it last, so promotions are one after the other
-- and a reader sees by one number whether anything has changed.
CREATE TABLE control_epoch (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch bigint NOT NULL
);

INSERT INTO control_epoch (epoch) VALUES (0);

-- Every event that was decided, applied or refused, with the result to repeat on its replay.
CREATE TABLE promotion_events (
    event_id text PRIMARY KEY,
    body_digest text NOT NULL,
    result jsonb NOT NULL,
    decided_at timestamptz NOT NULL
);

CREATE TABLE promotion_audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id text NOT NULL UNIQUE REFERENCES promotion_events,
    model_name text NOT NULL REFERENCES models,
    action text NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL,
    before jsonb,
    after jsonb NOT NULL,
    applied_at timestamptz NOT NULL
);

CREATE INDEX promotion_audit_of_a_model ON promotion_audit (model_name, id);

CREATE TRIGGER promotion_audit_never_changes
    BEFORE UPDATE OR DELETE OR TRUNCATE ON promotion_audit EXECUTE FUNCTION refuse_change();
