-- When to alert, what fires, and what fired.

-- The last row of a model is in force, and all of them are the audit trail. The model's name is empty for the
-- rules of the whole installation.
CREATE TABLE alert_rules (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model_name text NOT NULL,
    -- What differs from the defaults.
    rules jsonb NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL,
    set_at timestamptz NOT NULL
);

CREATE INDEX alert_rules_of_a_model ON alert_rules (model_name, id);

CREATE TRIGGER alert_rules_never_change
    BEFORE UPDATE OR DELETE OR TRUNCATE ON alert_rules EXECUTE FUNCTION refuse_change();

-- What fires now, each with the event by which it began.
CREATE TABLE alert_states (
    model_name text NOT NULL,
    model_version text NOT NULL,
    rule text NOT NULL,
    alert jsonb NOT NULL,
    PRIMARY KEY (model_name, model_version, rule)
);

-- Every event, written with the state in one transaction and published afterwards.
CREATE TABLE alert_events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model_name text NOT NULL,
    alert jsonb NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    published boolean NOT NULL DEFAULT false
);

CREATE INDEX alert_events_to_publish ON alert_events (id) WHERE NOT published;
CREATE INDEX alert_events_by_age ON alert_events (recorded_at);
