"""What was done to a model, and which version a user had at any time and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg
import orjson
from pydantic import TypeAdapter

from registry import queries
from registry.postgres import Database
from registry.routing import RouteTable, bucket, weights_of
from schemas.events import JsonObject
from schemas.models import Action, BucketRange, Route

RANGES = TypeAdapter(tuple[BucketRange, ...])


@dataclass(frozen=True, slots=True)
class Change:
    """One applied promotion. `before` is None for the first one; both have the keys of the audit trail:
    `revision`, `salt`, `weights`, `statuses`, `previous_production`.
    """

    event_id: str
    revision: int
    action: Action
    actor: str
    reason: str
    before: JsonObject | None
    after: JsonObject
    route: Route
    applied_at: datetime


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which version a user has at a revision; `since` is the change that gave it to this user.

    `version` and `since` are None while nothing takes traffic. `start`, `end` are the range of
    buckets around the user's, `weight` is the version's percentage of all users.
    """

    revision: int
    salt: str
    bucket: int
    version: str | None
    status: str | None = None
    weight: float = 0.0
    start: int = 0
    end: int = 0
    since: Change | None = None


def assign(changes: Sequence[Change], user_id: str) -> Assignment:
    """PURE. The user's version at the last of these changes, which begin with the model's first.

    The same bucket under another salt holds other users: `since` looks for the user, not the bucket.
    """
    last = changes[-1]
    place = bucket(last.route.salt, user_id)
    part = next((part for part in last.route.ranges if part.start <= place < part.end), None)
    if part is None:
        return Assignment(last.revision, last.route.salt, place, None)
    since = last
    for change in reversed(changes):
        if RouteTable.of(change.route).version_of(bucket(change.route.salt, user_id)) != part.version:
            break
        since = change
    return Assignment(
        revision=last.revision,
        salt=last.route.salt,
        bucket=place,
        version=part.version,
        status=last.after["statuses"][part.version],
        weight=float(weights_of(last.route)[part.version]),
        start=part.start,
        end=part.end,
        since=since,
    )


def differences(before: JsonObject | None, after: JsonObject) -> list[str]:
    """PURE. What a change did, in words: weights, else statuses; and the salt."""
    old: JsonObject = before or {"weights": {}, "statuses": {}, "salt": after["salt"]}
    told = [
        f"{version} {old['weights'].get(version, 0):g} → {after['weights'].get(version, 0):g}%"
        for version in after["statuses"]
        if old["weights"].get(version, 0) != after["weights"].get(version, 0)
    ]
    if not told:
        told = [
            f"{version} {status}"
            for version, status in after["statuses"].items()
            if old["statuses"].get(version) != status
        ]
    if old["salt"] != after["salt"]:
        told.append(f"salt {old['salt']} → {after['salt']}")
    return told


async def history(database: Database, model_name: str) -> list[Change]:
    """All applied promotions of a model, the first one first; empty when nobody has registered it.

    Raises RegistryUnavailableError and SetupError.
    """
    async with database.connection() as connection:
        rows = await connection.fetch(queries.HISTORY, model_name)
    return [_change(row) for row in rows]


async def recent_history(database: Database, model_name: str, at_most: int) -> list[Change]:
    """The last of them, the newest one last; raises what `history` does."""
    async with database.connection() as connection:
        rows = await connection.fetch(queries.RECENT_HISTORY, model_name, at_most)
    return [_change(row) for row in reversed(rows)]


def _change(row: asyncpg.Record) -> Change:
    return Change(
        event_id=row["event_id"],
        revision=row["revision"],
        action=Action(row["action"]),
        actor=row["actor"],
        reason=row["reason"],
        before=None if row["before"] is None else orjson.loads(row["before"]),
        after=orjson.loads(row["after"]),
        route=Route(salt=row["salt"], ranges=RANGES.validate_json(row["ranges"])),
        applied_at=row["applied_at"],
    )
