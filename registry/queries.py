"""All SQL of the registry's store, by name. Tables and their invariants are in `migrations/`."""

EPOCH = "SELECT epoch FROM control_epoch"

# Promotions queue here: what follows in the transaction sees all that was applied before.
LOCK_EPOCH = "SELECT epoch FROM control_epoch FOR UPDATE"

RAISE_EPOCH = "UPDATE control_epoch SET epoch = epoch + 1"

# One row a model, its versions as parallel arrays in the order of their registration: a tenth of the
# rows, and of the work for each row, of a join.
MODELS = """
    SELECT m.model_name, m.revision, m.previous_production, r.salt, r.ranges, v.specs, v.statuses
    FROM models m
    JOIN routes r USING (model_name, revision)
    JOIN (
        SELECT
            model_name,
            array_agg(spec::text ORDER BY ordinal) AS specs,
            array_agg(status ORDER BY ordinal) AS statuses
        FROM model_versions
        GROUP BY model_name
    ) v USING (model_name)
"""

MODEL = MODELS + " WHERE m.model_name = $1"

EVENT = "SELECT body_digest, result FROM promotion_events WHERE event_id = $1"

ADD_EVENT = """
    INSERT INTO promotion_events (event_id, body_digest, result, decided_at) VALUES ($1, $2, $3, $4)
"""

PUT_MODEL = """
    INSERT INTO models (model_name, revision, previous_production, created_at) VALUES ($1, $2, $3, $4)
    ON CONFLICT (model_name) DO UPDATE
    SET revision = excluded.revision, previous_production = excluded.previous_production
"""

PUT_VERSION = """
    INSERT INTO model_versions (model_name, version, spec, status, created_at) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (model_name, version) DO UPDATE SET status = excluded.status
"""

ADD_ROUTE = """
    INSERT INTO routes (model_name, revision, salt, ranges, event_id, created_at)
    VALUES ($1, $2, $3, $4, $5, $6)
"""

ADD_AUDIT = """
    INSERT INTO promotion_audit
        (event_id, model_name, action, actor, reason, before, after, applied_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
