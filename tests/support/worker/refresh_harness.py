"""A serving refresher without PostgreSQL and without backends: its registry, its loader and its clock are a test's."""

import asyncio
from collections.abc import Callable

from registry.follower import EpochFollower
from schemas.errors import ArtifactError
from schemas.models import ModelSpec
from streams.serving.active_tables import ActiveTables
from streams.serving.load_journal import Begin
from streams.serving.load_state import ModelPart
from streams.serving.refresh import ServingRefresher
from streams.serving.route_table import ServingTable
from streams.serving.version_loader import Journal
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.served_versions import RecordingBackend
from tests.support.registry.memory_registry import MemoryRegistry
from tests.support.worker.version_loading import version_loader


class Loader:
    """Loads a RecordingBackend for each version except the broken ones."""

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.slow: dict[str, asyncio.Event] = {}
        self.uncancellable: set[str] = set()
        self.loaded: dict[str, RecordingBackend] = {}
        self.opened: list[RecordingBackend] = []

    async def __call__(self, model_name: str, spec: ModelSpec, begin: Begin) -> RecordingBackend:
        await begin()
        if spec.version in self.slow:
            try:
                await self.slow[spec.version].wait()
            except asyncio.CancelledError:
                if spec.version not in self.uncancellable:
                    raise
        if spec.version in self.broken:
            raise ArtifactError(f"{model_name} {spec.version} is broken")
        backend = self.loaded[spec.version] = RecordingBackend()
        self.opened.append(backend)
        return backend


class Harness:
    """A refresher with its collaborators; `seconds` is its clock, and each poll takes `seconds_per_poll`."""

    def __init__(self, journal: Journal | None = None, *, timeout_seconds: float = DEADLINE_SECONDS) -> None:
        self.registry, self.load, self.tables = MemoryRegistry(), Loader(), ActiveTables()
        self.failures: list[tuple[str, str]] = []
        self.seconds = self.seconds_per_poll = 0.0
        self.refresher = ServingRefresher(
            EpochFollower(self._epoch, self.registry.load),
            self.tables,
            version_loader(
                self.load,
                journal=journal,
                timeout_seconds=timeout_seconds,
                on_load_failed=lambda *failed: self.failures.append(failed),
            ),
            poll_seconds=60.0,
            stale_after_seconds=5.0,
            clock=lambda: self.seconds,
        )

    async def follow(self) -> ServingTable:
        """Refresh, wait for the loads, also for those that a start does not wait for, and return the table."""
        await self.refresher.refresh()
        await self.refresher.wait_for_loads()
        await self.refresher._loads.wait(ModelPart.ROLLBACK_TARGET)
        return self.tables.current

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until `holds` is true; it is asked after each swap of the table."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not holds():
                await self.tables.changed.wait()
                self.tables.changed.clear()

    async def _epoch(self) -> int:
        self.seconds += self.seconds_per_poll
        return await self.registry.epoch()
