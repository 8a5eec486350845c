-- Models, their immutable versions, and every route they ever had.

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of % is refused: its rows are history and never change', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END
$$;

-- `revision` counts the applied events of a model; its current route is the one of that revision.
CREATE TABLE models (
    model_name text PRIMARY KEY,
    revision bigint NOT NULL CHECK (revision > 0),
    previous_production text,
    created_at timestamptz NOT NULL
);

CREATE TABLE model_versions (
    model_name text NOT NULL REFERENCES models,
    version text NOT NULL,
    -- Registered order, which is the order in which versions are shown.
    ordinal bigint GENERATED ALWAYS AS IDENTITY,
    spec jsonb NOT NULL,
    status text NOT NULL CHECK (status IN ('staging', 'canary', 'production', 'archived')),
    created_at timestamptz NOT NULL,
    PRIMARY KEY (model_name, version)
);

CREATE UNIQUE INDEX one_production_a_model ON model_versions (model_name) WHERE status = 'production';

CREATE TRIGGER model_versions_never_change
    BEFORE UPDATE ON model_versions FOR EACH ROW
    WHEN ((OLD.model_name, OLD.version, OLD.spec) IS DISTINCT FROM (NEW.model_name, NEW.version, NEW.spec))
    EXECUTE FUNCTION refuse_change();

ALTER TABLE models ADD FOREIGN KEY (model_name, previous_production) REFERENCES model_versions;

CREATE TABLE routes (
    model_name text NOT NULL REFERENCES models,
    revision bigint NOT NULL,
    salt text NOT NULL,
    ranges jsonb NOT NULL,
    event_id text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (model_name, revision)
);

CREATE TRIGGER routes_never_change
    BEFORE UPDATE OR DELETE OR TRUNCATE ON routes EXECUTE FUNCTION refuse_change();

-- A model is written before its route, in one transaction.
ALTER TABLE models ADD FOREIGN KEY (model_name, revision) REFERENCES routes
    DEFERRABLE INITIALLY DEFERRED;
