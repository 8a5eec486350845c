"""One promotion event in one transaction: decide it by the lifecycle, write what it changes, store its result.

An event is decided once: its result, applied or rejected, is stored in the transaction that applies it, and each
replay returns the stored one.
"""

import re
from datetime import UTC, datetime
from typing import Literal

import asyncpg
import orjson

from registry import lifecycle
from registry.lifecycle import Applied
from registry.model_rows import RANGES, find_model
from registry.names import unknown_model
from registry.routing import weights_of
from registry.snapshot import RegisteredModel
from registry.worker_heartbeat import HEARTBEAT_TIMEOUT_SECONDS, unloadable_everywhere
from schemas.bounds import rfc3339
from schemas.errors import PromotionRejectedError, RejectionCode
from schemas.models import PromotionError, PromotionEvent, PromotionResult, Status, event_body
from schemas.wire import digest

# An escaped NUL, unless its backslash is escaped itself. JSON can hold it, PostgreSQL cannot.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")

# Promotions queue here: each sees all that was applied before it.
_LOCK_EPOCH = "SELECT epoch FROM control_epoch FOR UPDATE"
_SET_EPOCH = "UPDATE control_epoch SET epoch = $1"
_EVENT = "SELECT body_digest, result FROM promotion_events WHERE event_id = $1"
# What the live workers cannot load of a model.
_UNLOADABLE = """
    SELECT coalesce(unloadable -> $1, '{}') FROM worker_heartbeats
    WHERE sent_at > now() - make_interval(secs => $2)
    ORDER BY worker, boot_id
"""
_ADD_EVENT = """
    INSERT INTO promotion_events (event_id, body_digest, result, decided_at) VALUES ($1, $2, $3, $4)
"""
_PUT_MODEL = """
    INSERT INTO models (model_name, revision, previous_production, rolled_back, changed_epoch, created_at)
    VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (model_name) DO UPDATE SET
        revision = excluded.revision,
        previous_production = excluded.previous_production,
        rolled_back = excluded.rolled_back,
        changed_epoch = excluded.changed_epoch
"""
_PUT_VERSION = """
    INSERT INTO model_versions (model_name, version, spec, status, created_at) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (model_name, version) DO UPDATE SET status = excluded.status
"""
_ADD_ROUTE = """
    INSERT INTO routes (model_name, revision, salt, ranges, event_id, created_at)
    VALUES ($1, $2, $3, $4, $5, $6)
"""
_ADD_AUDIT = """
    INSERT INTO promotion_audit
        (event_id, model_name, action, actor, reason, before, after, applied_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""


async def decide(connection: asyncpg.Connection, event: PromotionEvent) -> PromotionResult:
    """Decide an event inside the caller's transaction, and write what it changes."""
    epoch = await connection.fetchval(_LOCK_EPOCH)
    # As precise as the contract's times, so that a replayed result equals the first one.
    now = datetime.fromisoformat(rfc3339(datetime.now(UTC)))
    before = await find_model(connection, event.model_name)
    try:
        body_digest = _body_digest(event)
        stored = await connection.fetchrow(_EVENT, event.event_id)
        if stored is not None:
            return _stored_result(event, stored, body_digest)
    except PromotionRejectedError as error:
        # Not stored: an event without a digest cannot be recognised, and a used id has its result.
        return _rejected(event, before, error, epoch, now)
    applied = None
    try:
        applied = lifecycle.apply(before, event, now, await _unloadable(connection, event.model_name))
        if applied.is_unchanged:
            result = _result(event, "applied", applied.model, epoch, now, unchanged=True)
        else:
            result = _result(event, "applied", applied.model, epoch + 1, now)
    except PromotionRejectedError as error:
        if error.code is RejectionCode.UNKNOWN_MODEL:
            error = PromotionRejectedError(error.code, await unknown_model(connection, event.model_name))
        result = _rejected(event, before, error, epoch, now)
    await connection.execute(_ADD_EVENT, event.event_id, body_digest, result.model_dump_json(), now)
    if applied is not None and not applied.is_unchanged:
        await _write(connection, event, before, applied, epoch + 1)
    return result


async def _unloadable(connection: asyncpg.Connection, model_name: str) -> dict[str, str]:
    reports = await connection.fetch(_UNLOADABLE, model_name, HEARTBEAT_TIMEOUT_SECONDS)
    return unloadable_everywhere([orjson.loads(report[0]) for report in reports])


async def _write(
    connection: asyncpg.Connection,
    event: PromotionEvent,
    before: RegisteredModel | None,
    applied: Applied,
    epoch: int,
) -> None:
    model, now = applied.model, applied.applied_at
    # A new model needs its row before its versions; every model needs its versions before its rollback target.
    await connection.execute(
        _PUT_MODEL,
        model.model_name,
        model.revision,
        model.previous_production,
        model.rolled_back,
        epoch,
        now,
    )
    changed = [model.versions[version] for version in applied.changed_versions]
    # The former production steps down before the next one steps up: an index allows one at any time.
    for registered in sorted(changed, key=lambda registered: registered.status is Status.PRODUCTION):
        spec = registered.spec
        await connection.execute(
            _PUT_VERSION, model.model_name, spec.version, spec.model_dump_json(), registered.status, now
        )
    await connection.execute(
        _ADD_ROUTE,
        model.model_name,
        model.revision,
        model.route.salt,
        RANGES.dump_json(model.route.ranges).decode(),
        event.event_id,
        now,
    )
    await connection.execute(
        _ADD_AUDIT,
        event.event_id,
        model.model_name,
        event.action,
        event.actor,
        event.reason,
        None if before is None else _audited_state(before),
        _audited_state(model),
        now,
    )
    await connection.execute(_SET_EPOCH, epoch)


def _body_digest(event: PromotionEvent) -> str:
    body = event_body(event)
    if _NUL.search(body):
        raise PromotionRejectedError(
            RejectionCode.INVALID_EVENT, "the event holds a NUL character (\\u0000); send it without"
        )
    return digest(body).decode()


def _stored_result(event: PromotionEvent, stored: asyncpg.Record, body_digest: str) -> PromotionResult:
    if stored["body_digest"] != body_digest:
        raise PromotionRejectedError(
            RejectionCode.EVENT_CONFLICT,
            f"another event with the id {event.event_id} was decided already; send this one with a new id",
        )
    return PromotionResult.model_validate_json(stored["result"])


def _rejected(
    event: PromotionEvent,
    model: RegisteredModel | None,
    error: PromotionRejectedError,
    epoch: int,
    now: datetime,
) -> PromotionResult:
    reason = PromotionError(code=error.code, message=error.message)
    return _result(event, "rejected", model, epoch, now, error=reason)


def _result(
    event: PromotionEvent,
    status: Literal["applied", "rejected"],
    model: RegisteredModel | None,
    epoch: int,
    now: datetime,
    *,
    error: PromotionError | None = None,
    unchanged: bool = False,
) -> PromotionResult:
    return PromotionResult(
        event_id=event.event_id,
        model_name=event.model_name,
        action=event.action,
        status=status,
        revision=0 if model is None else model.revision,
        epoch=epoch,
        route=None if model is None else model.route,
        error=error,
        applied_at=now,
        actor=event.actor,
        unchanged=unchanged,
    )


def _audited_state(model: RegisteredModel) -> str:
    """What the audit trail keeps of a model, as JSON. Specs never change and are in `model_versions`."""
    return orjson.dumps(
        {
            "revision": model.revision,
            "salt": model.route.salt,
            "weights": {version: float(weight) for version, weight in weights_of(model.route).items()},
            "statuses": {version: registered.status for version, registered in model.versions.items()},
            "previous_production": model.previous_production,
        }
    ).decode()
