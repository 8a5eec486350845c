"""Which workers live, and how far each has followed the registry."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from registry import queries
from registry.postgres import Database

LEASE_SECONDS = 5.0
"""A worker that has not renewed its lease for so long does not live, as far as anybody can tell."""
FORGET_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Lease:
    """What one worker says of itself.

    All its answers from now on are by the registry as of `epoch` or later, except for the models in
    `behind`, each with the reason why it stays on an older route here.
    """

    worker: str
    boot_id: str
    epoch: int
    behind: Mapping[str, str] = field(default_factory=dict)

    def serves(self, model_name: str, epoch: int) -> bool:
        """PURE. Whether this worker's answers for a model are by `epoch` or later."""
        return self.epoch >= epoch and model_name not in self.behind


class Leases:
    """All methods raise RegistryUnavailableError and SetupError, as those of the store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def renew(self, lease: Lease) -> None:
        """Say that the worker lives and where it is."""
        async with self._database.connection() as connection:
            await connection.execute(
                queries.RENEW_LEASE,
                lease.worker,
                lease.boot_id,
                lease.epoch,
                orjson.dumps(lease.behind).decode(),
            )

    async def end(self, worker: str, boot_id: str) -> None:
        """Take away the lease of a worker that ends, and those that died long ago."""
        async with self._database.connection() as connection:
            await connection.execute(queries.END_LEASE, worker, boot_id)
            await connection.execute(queries.FORGET_LEASES, FORGET_SECONDS)

    async def live(self) -> list[Lease]:
        """The leases of all workers that live, in the order of their names."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(queries.LIVE_LEASES, LEASE_SECONDS)
        return [_lease(row) for row in rows]

    async def all(self) -> list[tuple[Lease, float]]:
        """Every lease that was not ended, with the seconds since it was renewed; those who died have theirs."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(queries.ALL_LEASES)
        return [(_lease(row), row["age_seconds"]) for row in rows]


def _lease(row: Mapping[str, Any]) -> Lease:
    return Lease(row["worker"], row["boot_id"], row["epoch"], orjson.loads(row["behind"]))
