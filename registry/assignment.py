"""PURE: what a promotion changed, and which version a user had at any time and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from registry.routing import RouteTable, bucket, weights_of
from schemas.events import JsonObject
from schemas.models import Action, Route


@dataclass(frozen=True, slots=True)
class Change:
    """One applied promotion, as the audit trail has it.

    `before` and `after` are JSON objects with the keys `revision`, `salt`, `weights`, `statuses` and
    `previous_production`. `before` is None for a model's first promotion.
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
    """Which version a user has at a revision, and the change (`since`) that assigned it to this user.

    `version` and `since` are None while nothing takes traffic. `start` and `end` are the range of buckets that
    holds the user's bucket; `weight` is the version's percentage of all users.
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
    """The user's version at the last of these changes, which begin with the model's first.

    `since` follows the user and not the bucket: under another salt the same bucket holds other users.
    """
    last = changes[-1]
    user_bucket = bucket(last.route.salt, user_id)
    part = next((part for part in last.route.ranges if part.start <= user_bucket < part.end), None)
    if part is None:
        return Assignment(last.revision, last.route.salt, user_bucket, None)
    since = last
    for change in reversed(changes):
        if RouteTable.of(change.route).version_of(bucket(change.route.salt, user_id)) != part.version:
            break
        since = change
    return Assignment(
        revision=last.revision,
        salt=last.route.salt,
        bucket=user_bucket,
        version=part.version,
        status=last.after["statuses"][part.version],
        weight=float(weights_of(last.route)[part.version]),
        start=part.start,
        end=part.end,
        since=since,
    )


def differences(before: JsonObject | None, after: JsonObject) -> list[str]:
    """What a change did, for people: the weights that changed, else the statuses; and the salt."""
    old: JsonObject = before or {"weights": {}, "statuses": {}, "salt": after["salt"]}
    changed = [
        f"{version} {old['weights'].get(version, 0):g} → {after['weights'].get(version, 0):g}%"
        for version in after["statuses"]
        if old["weights"].get(version, 0) != after["weights"].get(version, 0)
    ]
    if not changed:
        changed = [
            f"{version} {status}"
            for version, status in after["statuses"].items()
            if old["statuses"].get(version) != status
        ]
    if old["salt"] != after["salt"]:
        changed.append(f"salt {old['salt']} → {after['salt']}")
    return changed
