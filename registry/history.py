"""The audit trail in PostgreSQL: every promotion that was applied to a model."""

from collections.abc import Collection

import asyncpg
import orjson

from registry.assignment import Change
from registry.model_rows import RANGES
from registry.postgres import Database
from schemas.models import Action, Route

_CHANGES = """
    SELECT a.event_id, a.action, a.actor, a.reason, a.before, a.after, a.applied_at, r.revision, r.salt, r.ranges
    FROM promotion_audit a JOIN routes r USING (model_name, event_id)
    WHERE a.model_name = $1
"""
_HISTORY = _CHANGES + "ORDER BY a.id"
_RECENT_HISTORY = _CHANGES + "ORDER BY a.id DESC LIMIT $2"
_ROUTES = "SELECT revision, salt, ranges FROM routes WHERE model_name = $1 AND revision = ANY($2)"


async def history(database: Database, model_name: str) -> list[Change]:
    """All applied promotions of a model, oldest first; empty when the model is not registered.

    Raises RegistryUnavailableError and SetupError.
    """
    async with database.connection() as connection:
        rows = await connection.fetch(_HISTORY, model_name)
    return [_change(row) for row in rows]


async def recent_history(database: Database, model_name: str, at_most: int) -> list[Change]:
    """The last `at_most` of them, newest last; raises what `history` raises."""
    async with database.connection() as connection:
        rows = await connection.fetch(_RECENT_HISTORY, model_name, at_most)
    return [_change(row) for row in reversed(rows)]


async def routes_at(database: Database, model_name: str, revisions: Collection[int]) -> dict[int, Route]:
    """The routes of a model at these revisions; raises what `history` raises."""
    if not revisions:
        return {}
    async with database.connection() as connection:
        rows = await connection.fetch(_ROUTES, model_name, list(revisions))
    return {row["revision"]: _route(row) for row in rows}


def _route(row: asyncpg.Record) -> Route:
    return Route(salt=row["salt"], ranges=RANGES.validate_json(row["ranges"]))


def _change(row: asyncpg.Record) -> Change:
    return Change(
        event_id=row["event_id"],
        revision=row["revision"],
        action=Action(row["action"]),
        actor=row["actor"],
        reason=row["reason"],
        before=None if row["before"] is None else orjson.loads(row["before"]),
        after=orjson.loads(row["after"]),
        route=_route(row),
        applied_at=row["applied_at"],
    )
