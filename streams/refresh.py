"""Keeping a worker's serving table at the registry's epoch.

The registry is polled: its epoch is one row. When it moved, the whole snapshot is loaded, a new
serving table is built beside the old one, everything in it loaded and warm, and swapped in by one
assignment. A poll that fails changes nothing; after `stale_after_seconds` without a successful
one, answers say that they are stale.
"""

import asyncio
import random
import time
from collections.abc import Callable

import structlog

from registry.store import RegistryStore
from schemas.errors import RegistryUnavailableError
from streams.serving import LoadBackend, ServedVersion, ServingTable, serve
from workers.backend import Backend

log = structlog.get_logger()

RETRY_LOAD_SECONDS = 10.0
RETIRE_GRACE_SECONDS = 10.0


class ServingRefresher:
    """Holds the current table; `run` keeps it current."""

    def __init__(
        self,
        store: RegistryStore,
        load_backend: LoadBackend,
        *,
        poll_seconds: float,
        stale_after_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._load_backend = load_backend
        self._poll_seconds = poll_seconds
        self._stale_after_seconds = stale_after_seconds
        self._clock = clock
        self._read_at = clock()
        self._built_at = clock()
        self._retiring: list[tuple[float, Backend]] = []
        self.table = ServingTable()

    def is_stale(self) -> bool:
        """Whether the registry was not read for `stale_after_seconds`."""
        return self._clock() - self._read_at > self._stale_after_seconds

    async def refresh(self) -> None:
        """Read the epoch; build and swap the table if it moved, or if a load is due again.

        Raises RegistryUnavailableError.
        """
        epoch = await self._store.epoch()
        self._read_at = self._clock()
        retry = not self.table.complete and self._clock() - self._built_at > RETRY_LOAD_SECONDS
        if epoch == self.table.epoch and not retry:
            return
        snapshot = await self._store.load()
        table = await serve(snapshot, self.table, self._load_backend)
        self._built_at = self._clock()
        self._retire(self.table.versions() - table.versions())
        self.table = table
        log.info("serving table swapped", epoch=table.epoch, models=len(table.models))

    async def run(self) -> None:
        """Refresh at each poll, with jitter so that workers do not ask at once; ends when cancelled."""
        reachable = True
        while True:
            await asyncio.sleep(self._poll_seconds * random.uniform(0.8, 1.2))  # noqa: S311  # no secret
            try:
                await self.refresh()
            except RegistryUnavailableError as error:
                if reachable:
                    log.warning("registry not reachable; serving goes on as it was", reason=str(error))
                reachable = False
            else:
                if not reachable:
                    log.info("registry reachable again")
                reachable = True
            await self._close_retired()

    async def close(self) -> None:
        """Close every backend."""
        for version in self.table.versions():
            await version.backend.close()
        for _, backend in self._retiring:
            await backend.close()

    def _retire(self, versions: set[ServedVersion]) -> None:
        # A slice that began with the table before may use them until its calls have timed out.
        now = self._clock()
        self._retiring += [
            (now + version.spec.timeout_ms / 1000 + RETIRE_GRACE_SECONDS, version.backend)
            for version in versions
        ]

    async def _close_retired(self) -> None:
        now = self._clock()
        due = [backend for close_at, backend in self._retiring if close_at <= now]
        self._retiring = [(close_at, backend) for close_at, backend in self._retiring if close_at > now]
        for backend in due:
            await backend.close()
