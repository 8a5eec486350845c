"""The registry in PostgreSQL. A promotion is one transaction: it applies whole or not at all.

Promotions are one after the other, because each locks the epoch row first. An event is decided once:
its result, applied or refused, is stored in the same transaction and repeated on every replay.
Readers never wait for writers.
"""

import re
from datetime import UTC, datetime
from typing import Literal, Self

import asyncpg
import orjson
from pydantic import TypeAdapter

from registry import lifecycle, queries
from registry.lifecycle import Applied
from registry.postgres import Database
from registry.routing import weights_of
from registry.snapshot import RegisteredModel, RegisteredVersion, Snapshot
from schemas.errors import PromotionRejectedError, RejectionCode
from schemas.event_body import event_body
from schemas.events import rfc3339
from schemas.models import (
    BucketRange,
    ModelSpec,
    PromotionError,
    PromotionEvent,
    PromotionResult,
    Route,
    Status,
)
from schemas.wire import digest

# Models that are fetched at once. Between two fetches other tasks run.
MODELS_A_FETCH = 10

RANGES = TypeAdapter(tuple[BucketRange, ...])
# An escaped NUL that is not an escaped backslash before `u0000`: JSON has it, PostgreSQL does not.
NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


class RegistryStore:
    """A pool of connections to the registry.

    Every method raises RegistryUnavailableError when PostgreSQL does not answer, within the timeouts,
    and works again as soon as it does; and SetupError when the database is not a registry.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    @classmethod
    async def connect(cls, dsn: str, **timeouts: float) -> Self:
        """A store with connections of its own; `timeouts` are those of `Database.connect`."""
        return cls(await Database.connect(dsn, **timeouts))

    async def close(self) -> None:
        """Close all connections, by force those that do not end in time."""
        await self.database.close()

    async def epoch(self) -> int:
        """How many promotions were applied so far, over all models: it moves when anything changes."""
        async with self.database.connection() as connection:
            epoch: int = await connection.fetchval(queries.EPOCH)
        return epoch

    async def load(self, since_epoch: int = -1) -> Snapshot:
        """Read the models that changed after an epoch, with the versions that may be needed to serve.

        Those are the ones with traffic and the rollback target. All is as of one epoch, the snapshot's.
        """
        async with (
            self.database.connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            epoch = await connection.fetchval(queries.EPOCH)
            models = {
                row["model_name"]: _model(row)
                async for row in connection.cursor(
                    queries.CHANGED_MODELS, since_epoch, prefetch=MODELS_A_FETCH
                )
            }
        return Snapshot(epoch=epoch, models=models)

    async def model_names(self) -> list[str]:
        """The names of all models, in their order."""
        async with self.database.connection() as connection:
            return [row["model_name"] for row in await connection.fetch(queries.MODEL_NAMES)]

    async def find(self, model_name: str) -> RegisteredModel | None:
        """Read one model as it is now; None when nobody has registered it."""
        async with self.database.connection() as connection:
            return await _find(connection, model_name)

    async def apply(self, event: PromotionEvent) -> PromotionResult:
        """Decide an event and apply it, once: a replay of the same event returns the same result.

        A refusal is a result with status `rejected`. After a RegistryUnavailableError it is unknown
        whether the event was applied, and safe to send it again.
        """
        async with (
            self.database.connection() as connection,
            # Not the server's default: under another isolation, waiting for the lock would end in an error.
            connection.transaction(isolation="read_committed"),
        ):
            epoch = await connection.fetchval(queries.LOCK_EPOCH)
            # As precise as the contract's times, so that a replayed result equals the first one.
            now = datetime.fromisoformat(rfc3339(datetime.now(UTC)))
            return await _decide(connection, event, epoch, now)


async def _decide(
    connection: asyncpg.Connection, event: PromotionEvent, epoch: int, now: datetime
) -> PromotionResult:
    before = await _find(connection, event.model_name)
    try:
        body_digest = _body_digest(event)
        known = await connection.fetchrow(queries.EVENT, event.event_id)
        if known is not None:
            return _repeated(event, known, body_digest)
    except PromotionRejectedError as error:
        # Not stored: an event without a digest cannot be recognised, and a used id has its result.
        return _rejected(event, before, error, epoch, now)
    applied = None
    try:
        applied = lifecycle.apply(before, event, now)
        result = _result(event, "applied", applied.model, epoch + 1, now)
    except PromotionRejectedError as error:
        result = _rejected(event, before, error, epoch, now)
    await connection.execute(queries.ADD_EVENT, event.event_id, body_digest, result.model_dump_json(), now)
    if applied is not None:
        await _write(connection, event, before, applied, epoch + 1)
    return result


async def _write(
    connection: asyncpg.Connection,
    event: PromotionEvent,
    before: RegisteredModel | None,
    applied: Applied,
    epoch: int,
) -> None:
    model, now = applied.model, applied.applied_at
    # A new model needs its row before its versions, and every model its versions before its rollback target.
    await connection.execute(
        queries.PUT_MODEL, model.model_name, model.revision, model.previous_production, epoch, now
    )
    changed = [model.versions[version] for version in applied.changed_versions]
    # The former production steps down before the next one steps up: an index allows one at any time.
    for registered in sorted(changed, key=lambda registered: registered.status is Status.PRODUCTION):
        spec = registered.spec
        await connection.execute(
            queries.PUT_VERSION,
            model.model_name,
            spec.version,
            spec.model_dump_json(),
            registered.status,
            now,
        )
    await connection.execute(
        queries.ADD_ROUTE,
        model.model_name,
        model.revision,
        model.route.salt,
        RANGES.dump_json(model.route.ranges).decode(),
        event.event_id,
        now,
    )
    await connection.execute(
        queries.ADD_AUDIT,
        event.event_id,
        model.model_name,
        event.action,
        event.actor,
        event.reason,
        None if before is None else _state_json(before),
        _state_json(model),
        now,
    )
    await connection.execute(queries.SET_EPOCH, epoch)


def _body_digest(event: PromotionEvent) -> str:
    body = event_body(event)
    if NUL.search(body):
        raise PromotionRejectedError(
            RejectionCode.INVALID_EVENT, "the event holds a NUL character (\\u0000); send it without"
        )
    return digest(body).decode()


def _repeated(event: PromotionEvent, known: asyncpg.Record, body_digest: str) -> PromotionResult:
    if known["body_digest"] != body_digest:
        raise PromotionRejectedError(
            RejectionCode.EVENT_CONFLICT,
            f"another event with the id {event.event_id} was decided already; send this one with a new id",
        )
    return PromotionResult.model_validate_json(known["result"])


def _rejected(
    event: PromotionEvent,
    model: RegisteredModel | None,
    error: PromotionRejectedError,
    epoch: int,
    now: datetime,
) -> PromotionResult:
    told = PromotionError(code=error.code, message=error.message)
    return _result(event, "rejected", model, epoch, now, error=told)


def _result(
    event: PromotionEvent,
    status: Literal["applied", "rejected"],
    model: RegisteredModel | None,
    epoch: int,
    now: datetime,
    *,
    error: PromotionError | None = None,
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
    )


async def _find(connection: asyncpg.Connection, model_name: str) -> RegisteredModel | None:
    row = await connection.fetchrow(queries.MODEL, model_name)
    return None if row is None else _model(row)


def _model(row: asyncpg.Record) -> RegisteredModel:
    versions = {}
    for text, status in zip(row["specs"], row["statuses"], strict=True):
        # By the reader of all our JSON: pydantic's own would make another number of a large one.
        spec = ModelSpec.model_validate(orjson.loads(text))
        versions[spec.version] = RegisteredVersion(spec, Status(status))
    return RegisteredModel(
        model_name=row["model_name"],
        revision=row["revision"],
        route=Route(salt=row["salt"], ranges=RANGES.validate_json(row["ranges"])),
        versions=versions,
        previous_production=row["previous_production"],
    )


def _state_json(model: RegisteredModel) -> str:
    """What the audit trail keeps of a model; its specs never change and are in `model_versions`."""
    return orjson.dumps(
        {
            "revision": model.revision,
            "salt": model.route.salt,
            "weights": {version: float(weight) for version, weight in weights_of(model.route).items()},
            "statuses": {version: registered.status for version, registered in model.versions.items()},
            "previous_production": model.previous_production,
        }
    ).decode()
