"""The registry in PostgreSQL: read what changed, and apply promotions.

A promotion is one transaction: it applies whole or not at all. Promotions are serialised, because each locks the
epoch's row first. Readers never wait for writers.
"""

from typing import Self

import structlog
from pydantic import ValidationError

from registry.follower import NOTHING_KNOWN
from registry.model_rows import CHANGED_MODELS, find_model, model_of
from registry.postgres import Database
from registry.promotion_transaction import decide
from registry.snapshot import RegisteredModel, Snapshot
from schemas.models import PromotionEvent, PromotionResult

log = structlog.get_logger()

# Rows of one fetch. Between two fetches other tasks run.
MODELS_PER_FETCH = 10

_EPOCH = "SELECT epoch FROM control_epoch"
_CHANGED_REVISIONS = "SELECT model_name, revision FROM models WHERE changed_epoch > $1"


class RegistryStore:
    """Reads and changes the registry.

    Every method raises RegistryUnavailableError when PostgreSQL does not answer within the timeouts, and works
    again as soon as PostgreSQL does; and SetupError when the database is not a registry.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    @classmethod
    async def connect(cls, dsn: str, **timeouts: float) -> Self:
        """A store with connections of its own; `timeouts` are those of `Database.connect`."""
        return cls(await Database.connect(dsn, **timeouts))

    async def close(self) -> None:
        """Close all connections, forcibly after the connect timeout."""
        await self.database.close()

    async def epoch(self) -> int:
        """The number of promotions applied so far to all models. It rises with every change.

        Raises RegistryUnavailableError when the server is read-only too: its copy of the registry may be old.
        """
        async with self.database.primary() as connection:
            epoch: int = await connection.fetchval(_EPOCH)
        return epoch

    async def load(self, since_epoch: int = NOTHING_KNOWN) -> Snapshot[RegisteredModel]:
        """Read the models that changed after an epoch, each with its versions with traffic and its rollback target.

        All of it is as of one epoch, the snapshot's. A model that this release cannot read is logged and left out.
        """
        async with (
            self.database.connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            epoch = await connection.fetchval(_EPOCH)
            models = {}
            async for row in connection.cursor(CHANGED_MODELS, since_epoch, prefetch=MODELS_PER_FETCH):
                try:
                    models[row["model_name"]] = model_of(row)
                except ValidationError as error:
                    log.error(
                        "registered model cannot be read; it stays as it is served",
                        model_name=row["model_name"],
                        revision=row["revision"],
                        reason=str(error).partition("\n")[0],
                    )
        return Snapshot(epoch=epoch, models=models)

    async def revisions(self, since_epoch: int = NOTHING_KNOWN) -> Snapshot[int]:
        """Like `load`, but reads the revision of each model only."""
        async with (
            self.database.connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            epoch = await connection.fetchval(_EPOCH)
            rows = await connection.fetch(_CHANGED_REVISIONS, since_epoch)
        return Snapshot(epoch, {row["model_name"]: row["revision"] for row in rows})

    async def find(self, model_name: str) -> RegisteredModel | None:
        """Read one model with all its versions; None when it is not registered."""
        async with self.database.connection() as connection:
            return await find_model(connection, model_name)

    async def apply(self, event: PromotionEvent) -> PromotionResult:
        """Decide an event and apply it, once: a replay of the same event returns the same result.

        A refused event gives a result with status `rejected`. After a RegistryUnavailableError it is unknown
        whether the event was applied; it is safe to send it again.
        """
        async with (
            self.database.connection() as connection,
            # Not the server's default: under another isolation, waiting for the lock would end in an error.
            connection.transaction(isolation="read_committed"),
        ):
            return await decide(connection, event)
