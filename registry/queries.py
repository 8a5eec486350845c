"""All SQL of the registry's store, by name. Tables and their invariants are in `migrations/`."""

EPOCH = "SELECT epoch FROM control_epoch"

# Promotions queue here: what follows in the transaction sees all that was applied before.
LOCK_EPOCH = "SELECT epoch FROM control_epoch FOR UPDATE"

SET_EPOCH = "UPDATE control_epoch SET epoch = $1"

# One row a model, its versions as parallel arrays in the order of their registration: a tenth of the
# rows, and of the work for each row, of a join.
_MODELS = """
    SELECT m.model_name, m.revision, m.previous_production, r.salt, r.ranges, v.specs, v.statuses
    FROM models m
    JOIN routes r USING (model_name, revision)
    CROSS JOIN LATERAL (
        SELECT
            coalesce(array_agg(spec::text ORDER BY ordinal), '{}') AS specs,
            coalesce(array_agg(status ORDER BY ordinal), '{}') AS statuses
        FROM model_versions mv
        WHERE mv.model_name = m.model_name
"""

MODEL = _MODELS + ") v WHERE m.model_name = $1"

MODEL_NAMES = "SELECT model_name FROM models ORDER BY model_name"

CHANGED_MODELS = (
    _MODELS
    + """
        AND (mv.status IN ('canary', 'production') OR mv.version = m.previous_production)
    ) v
    WHERE m.changed_epoch > $1
"""
)

EVENT = "SELECT body_digest, result FROM promotion_events WHERE event_id = $1"

ADD_EVENT = """
    INSERT INTO promotion_events (event_id, body_digest, result, decided_at) VALUES ($1, $2, $3, $4)
"""

PUT_MODEL = """
    INSERT INTO models (model_name, revision, previous_production, changed_epoch, created_at)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (model_name) DO UPDATE SET
        revision = excluded.revision,
        previous_production = excluded.previous_production,
        changed_epoch = excluded.changed_epoch
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

PUT_HEARTBEAT = """
    INSERT INTO worker_heartbeats (worker, boot_id, epoch, behind, sent_at) VALUES ($1, $2, $3, $4, now())
    ON CONFLICT (worker, boot_id) DO UPDATE
    SET epoch = excluded.epoch, behind = excluded.behind, sent_at = excluded.sent_at
"""

REMOVE_HEARTBEAT = "DELETE FROM worker_heartbeats WHERE worker = $1 AND boot_id = $2"

# By the database's clock at both ends, so that no worker's clock matters.
LIVE_HEARTBEATS = """
    SELECT worker, boot_id, epoch, behind FROM worker_heartbeats
    WHERE sent_at > now() - make_interval(secs => $1)
    ORDER BY worker, boot_id
"""

ALL_HEARTBEATS = """
    SELECT worker, boot_id, epoch, behind, extract(epoch FROM now() - sent_at)::float8 AS age_seconds
    FROM worker_heartbeats
    ORDER BY worker, boot_id
"""

FORGET_HEARTBEATS = "DELETE FROM worker_heartbeats WHERE sent_at < now() - make_interval(secs => $1)"

_CHANGES = """
    SELECT a.event_id, a.action, a.actor, a.reason, a.before, a.after, a.applied_at, r.revision, r.salt, r.ranges
    FROM promotion_audit a JOIN routes r USING (model_name, event_id)
    WHERE a.model_name = $1
"""

HISTORY = _CHANGES + "ORDER BY a.id"

RECENT_HISTORY = _CHANGES + "ORDER BY a.id DESC LIMIT $2"
