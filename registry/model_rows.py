"""Models as rows of PostgreSQL: the queries that read them and the objects that they become."""

import asyncpg
import orjson
from pydantic import TypeAdapter

from registry.snapshot import RegisteredModel, RegisteredVersion
from schemas.models import BucketRange, ModelSpec, Route, Status

RANGES = TypeAdapter(tuple[BucketRange, ...])

# One row for each model, with its versions as parallel arrays in the order of their registration: a join would
# have ten times as many rows, and the work for each of them.
_MODELS = """
    SELECT m.model_name, m.revision, m.previous_production, m.rolled_back, r.salt, r.ranges, v.specs, v.statuses
    FROM models m
    JOIN routes r USING (model_name, revision)
    CROSS JOIN LATERAL (
        SELECT
            coalesce(array_agg(spec::text ORDER BY ordinal), '{}') AS specs,
            coalesce(array_agg(status ORDER BY ordinal), '{}') AS statuses
        FROM model_versions mv
        WHERE mv.model_name = m.model_name
"""
_MODEL = _MODELS + ") v WHERE m.model_name = $1"
CHANGED_MODELS = (
    _MODELS
    + """
        AND (mv.status IN ('canary', 'production') OR mv.version = m.previous_production)
    ) v
    WHERE m.changed_epoch > $1
"""
)
"""The models that changed after an epoch, with the versions that have traffic and the rollback target."""


async def find_model(connection: asyncpg.Connection, model_name: str) -> RegisteredModel | None:
    """Read one model with all its versions; None when it is not registered."""
    row = await connection.fetchrow(_MODEL, model_name)
    return None if row is None else model_of(row)


def model_of(row: asyncpg.Record) -> RegisteredModel:
    """The model of one row of these queries."""
    versions = {}
    for text, status in zip(row["specs"], row["statuses"], strict=True):
        # orjson reads all our JSON. Pydantic's own reader would read a large number differently.
        spec = ModelSpec.model_validate(orjson.loads(text))
        versions[spec.version] = RegisteredVersion(spec, Status(status))
    return RegisteredModel(
        model_name=row["model_name"],
        revision=row["revision"],
        route=Route(salt=row["salt"], ranges=RANGES.validate_json(row["ranges"])),
        versions=versions,
        previous_production=row["previous_production"],
        rolled_back=row["rolled_back"],
    )
