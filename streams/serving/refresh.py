"""Keeps what a worker serves at the registry's epoch.

The registry's epoch is read each second, and at once when a hint says that it moved. If it moved, the models that changed
since are read. A model whose versions are all loaded is served by its new route at once. A rollback to the rollback target
and a change of weights among versions with traffic are such cases. For another model the missing versions are loaded
and warmed first, in the background. Its older route stays until then, and no other model waits for it. A version that
cannot be loaded is reported and tried again later, and the older route stays. Without an older route the new one is
served, version by version as they are loaded, and the requests of the others fail. `load_state.py` has the states.

A poll that fails changes nothing. After `stale_after_seconds` without a successful poll, responses are stale.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Collection, Mapping

import structlog

from registry.follower import EpochFollower, RegistryChanges
from registry.snapshot import RegisteredModel
from schemas.errors import RegistryUnavailableError, SetupError
from schemas.events import RouteHint
from streams.serving.active_tables import ActiveTables
from streams.serving.load_journal import NOT_SERVING_YET_SECONDS
from streams.serving.load_state import (
    CURRENT,
    RETRY_SECONDS,
    LoadEvent,
    LoadPhase,
    ModelLoad,
    advance,
    is_due,
)
from streams.serving.route_table import ServedModel, ServedVersion, ServingTable
from streams.serving.version_loader import LoadResult, VersionLoader, close_versions, loaded_versions

log = structlog.get_logger()

# Workers do not poll at the same moment, and each early enough for a change to be served within `poll_seconds`.
POLL_JITTER = 0.5, 0.9
MODELS_IN_A_LOG_LINE = 10


class ServingRefresher:
    """Keeps `tables` current: its methods are called by one event loop."""

    def __init__(
        self,
        follower: EpochFollower[RegisteredModel],
        tables: ActiveTables,
        loader: VersionLoader,
        *,
        poll_seconds: float,
        stale_after_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._follower = follower
        self._tables = tables
        self._loader = loader
        self._poll_seconds = poll_seconds
        self._stale_after_seconds = stale_after_seconds
        self._clock = clock
        self._polled_at = clock()
        self._poll_now = asyncio.Event()
        self._loads: dict[str, ModelLoad] = {}  # of the models that are not CURRENT
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._is_serving = False
        self._retiring: list[ServedVersion] = []

    def is_stale(self) -> bool:
        """True when the last successful poll is more than `stale_after_seconds` ago."""
        return self.age_seconds() > self._stale_after_seconds

    def age_seconds(self) -> float:
        """The time since the last successful poll."""
        return self._clock() - self._polled_at

    def on_hint(self, hint: RouteHint) -> None:
        """Poll now, if the hint's epoch is newer than the one served."""
        if hint.epoch > self._follower.epoch:
            self.poll_now()

    def poll_now(self) -> None:
        """Poll now instead of after `poll_seconds`."""
        self._poll_now.set()

    async def refresh(self) -> None:
        """Poll the registry, serve what changed, and start the loads that are due.

        Raises RegistryUnavailableError and SetupError.
        """
        changes = await self._follower.poll()
        if changes is not None:
            self._apply(changes)
        # The end of the poll: a registry that takes seconds for each poll is still followed.
        self._polled_at = self._clock()
        self._retry_due()

    async def wait_for_loads(self) -> None:
        """Wait until every running load has ended, and a version is loaded or none is tried again soon.

        While none is loaded, a version whose earlier load ended a process has no others to wait for.
        """
        while True:
            while self._tasks:
                await asyncio.wait(self._tasks.values())
            retry_at = min((load.retry_at for load in self._loads.values()), default=math.inf)
            wait_seconds = retry_at - self._clock()
            is_loaded = any(version.is_loaded for version in self._tables.current.versions())
            if is_loaded or wait_seconds > NOT_SERVING_YET_SECONDS:
                return
            self._is_serving = True
            await asyncio.sleep(wait_seconds)
            self._retry_due()

    def serving_began(self) -> None:
        """From now on versions may be loaded whose earlier load ended a process."""
        if self._tasks:
            log.warning("versions are still being loaded", models=sorted(self._tasks)[:MODELS_IN_A_LOG_LINE])
        self._is_serving = True

    async def run(self) -> None:
        """Refresh at least each `poll_seconds`, and after `poll_now`. Runs until cancelled."""
        reachable = True
        while True:
            try:
                async with asyncio.timeout(self._poll_seconds * random.uniform(*POLL_JITTER)):  # noqa: S311  # no secret
                    await self._poll_now.wait()
            except TimeoutError:
                pass
            self._poll_now.clear()
            try:
                await self.refresh()
            except (RegistryUnavailableError, SetupError) as error:
                # SetupError too: a changed password or a revoked right is no reason to stop serving.
                if reachable:
                    log.warning("registry not reachable; serving goes on as it was", reason=str(error))
                reachable = False
            else:
                if not reachable:
                    log.info("registry reachable again")
                reachable = True
            await self._close_retired()

    async def close(self) -> None:
        """Cancel the loads and close every backend."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await close_versions(self._tables.current.versions())
        await close_versions(self._retiring)

    def _retry_due(self) -> None:
        for name, load in list(self._loads.items()):
            if is_due(load, self._clock()):
                self._advance(name, LoadEvent.RETRY_DUE)

    def _apply(self, changes: RegistryChanges[RegisteredModel]) -> None:
        before = self._tables.current.models
        if changes.is_complete:
            for name in list(self._loads):
                self._abandon_load(name)
        changed: dict[str, ServedModel] = {}
        for name, registered in changes.models.items():
            served = before.get(name)
            versions = loaded_versions(registered, served)
            if len(versions) == len(registered.versions):
                changed[name] = ServedModel.of(registered, versions)
                self._advance(name, LoadEvent.REVISION_READY)
            else:
                if served is not None:
                    changed[name] = served
                self._advance(name, LoadEvent.REVISION_UNLOADED, target=registered)
        self._swap(
            changes.epoch,
            changes.merged(before, changed),
            {*before, *changed} if changes.is_complete else changes.models,
        )

    def _advance(
        self,
        name: str,
        event: LoadEvent,
        *,
        target: RegisteredModel | None = None,
        reason: str = "",
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        """Advance the state of a model's load, and let its task follow the state."""
        load = advance(
            self._loads.get(name, CURRENT),
            event,
            target=target,
            reason=reason,
            retry_seconds=retry_seconds,
            now=self._clock(),
        )
        self._abandon_load(name)
        if load is not CURRENT:
            self._loads[name] = load
        if load.phase is LoadPhase.LOADING and load.target is not None:
            self._start_load(load.target)

    def _abandon_load(self, name: str) -> None:
        """Forget the state of a model's load, and cancel its task unless that is the caller."""
        self._loads.pop(name, None)
        task = self._tasks.pop(name, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def _start_load(self, target: RegisteredModel) -> None:
        name = target.model_name
        task = self._tasks[name] = asyncio.create_task(self._load(target))

        def on_end(task: asyncio.Task[None]) -> None:
            # A newer load may have taken its place.
            if self._tasks.get(name) is task:
                del self._tasks[name]

        task.add_done_callback(on_end)

    async def _load(self, target: RegisteredModel) -> None:
        name = target.model_name
        task = asyncio.current_task()

        def publish(versions: Mapping[str, ServedVersion]) -> bool:
            wanted = self._tasks.get(name) is task
            if wanted:
                self._serve(target, versions, is_whole=False)
            return wanted

        result = await self._loader.load(
            target,
            self._tables.current.models.get(name),
            publish=publish,
            # Of two that have to wait for each other, the one goes first that began first.
            others_are_served=lambda: self._is_serving and next(iter(self._tasks), name) == name,
        )
        if self._tasks.get(name) is not task:
            # A newer revision cancelled this load, and a library swallowed the cancellation.
            await close_versions(result.new)
            return
        self._end_load(name, result)
        self._serve(target, result.versions)

    def _serve(
        self,
        target: RegisteredModel,
        versions: Mapping[str, ServedVersion] | None,
        *,
        is_whole: bool = True,
    ) -> None:
        """Serve a model by these versions, or as before."""
        models = dict(self._tables.current.models)
        if versions is not None:
            models[target.model_name] = ServedModel.of(target, versions)
        self._swap(self._tables.current.epoch, models, [target.model_name], is_logged=is_whole)

    def _end_load(self, name: str, result: LoadResult) -> None:
        if result.failure:
            self._advance(
                name, LoadEvent.LOAD_FAILED, reason=result.failure, retry_seconds=result.retry_seconds
            )
        else:
            self._advance(name, LoadEvent.LOADED)

    def _swap(
        self,
        epoch: int,
        models: Mapping[str, ServedModel],
        names: Collection[str],
        *,
        is_logged: bool = True,
    ) -> None:
        """Serve `models` from the next slice on; they differ from the current ones in `names`."""
        before = self._tables.current.models
        behind = {name: load.reason for name, load in self._loads.items()}
        self._tables.swap(ServingTable(epoch, models, behind))
        for name in names:
            if name in before:
                kept = set(models[name].versions.values()) if name in models else set()
                self._retiring += [
                    version for version in before[name].versions.values() if version not in kept
                ]
        changed = [name for name in names if models.get(name) is not before.get(name)]
        if changed and is_logged:
            log.info("serving table swapped", epoch=epoch, models=changed[:MODELS_IN_A_LOG_LINE])

    async def _close_retired(self) -> None:
        """Close the versions that are served no more, once no slice in flight holds them."""
        if not self._retiring:
            return
        in_use = self._tables.versions_in_use()
        unused = [version for version in self._retiring if version not in in_use]
        self._retiring = [version for version in self._retiring if version in in_use]
        await close_versions(unused)
