"""Keeps what a worker serves at the registry's epoch.

The registry's epoch is read each second, and at once when a hint says that it moved. If it moved, the models that changed
since are read. A model whose versions with traffic are all loaded is served by its new route at once. A rollback to the
rollback target and a change of weights among versions with traffic are such cases. For another model the missing versions
are loaded and warmed first, in the background. Its older route stays until then, and no other model waits for it. A
version that cannot be loaded is reported and tried again later, and the older route stays. Without an older route the new
one is served, version by version as they are loaded, and the requests of the others fail. The rollback target is loaded
beside that. Whether it can be loaded decides nothing about the route. `load_state.py` has the states.

A poll that fails changes nothing. After `stale_after_seconds` without a successful poll, responses are stale.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial

import structlog

from registry.follower import EpochFollower, RegistryChanges
from registry.snapshot import RegisteredModel
from schemas.errors import RegistryUnavailableError, SetupError
from schemas.events import RouteHint
from streams.serving.active_tables import ActiveTables
from streams.serving.load_journal import NOT_SERVING_YET_SECONDS
from streams.serving.load_state import LoadEvent, ModelPart
from streams.serving.model_loads import LoadKey, ModelLoads
from streams.serving.route_table import ServedModel, ServedVersion, ServingTable
from streams.serving.version_loader import VersionLoader, close_versions, loaded_versions

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
        self._loads = ModelLoads(self._load, clock)
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
        self._loads.retry_due()

    async def wait_for_loads(self) -> None:
        """Wait until no version with traffic is being loaded, and one is loaded or none is tried again soon.

        While none is loaded, a version whose earlier load ended a process has no others to wait for.
        """
        while True:
            await self._loads.wait(ModelPart.ROUTE)
            failed = self._loads.states(ModelPart.ROUTE).values()
            retry_at = min((load.retry_at for load in failed), default=math.inf)
            wait_seconds = retry_at - self._clock()
            is_loaded = any(version.is_loaded for version in self._tables.current.versions())
            if is_loaded or wait_seconds > NOT_SERVING_YET_SECONDS:
                return
            self._is_serving = True
            await asyncio.sleep(wait_seconds)
            self._loads.retry_due()

    def serving_began(self) -> None:
        """From now on versions may be loaded whose earlier load ended a process."""
        if loading := sorted(key.model_name for key in self._loads.running(ModelPart.ROUTE)):
            log.warning("versions are still being loaded", models=loading[:MODELS_IN_A_LOG_LINE])
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
        await self._loads.close()
        await close_versions(self._tables.current.versions())
        await close_versions(self._retiring)

    def _apply(self, changes: RegistryChanges[RegisteredModel]) -> None:
        before = self._tables.current.models
        if changes.is_complete:
            self._loads.abandon_all()
        changed: dict[str, ServedModel] = {}
        for name, registered in changes.models.items():
            served = before.get(name)
            versions = loaded_versions(registered, served)
            if registered.with_traffic <= versions.keys():
                changed[name] = ServedModel.of(registered, versions)
            elif served is not None:
                changed[name] = served
            self._follow(registered, ModelPart.ROUTE, is_loaded=registered.with_traffic <= versions.keys())
            self._follow(
                registered,
                ModelPart.ROLLBACK_TARGET,
                is_loaded=registered.previous_production in {None, *versions},
            )
        self._swap(
            changes.epoch,
            changes.merged(before, changed),
            {*before, *changed} if changes.is_complete else changes.models,
        )

    def _follow(self, registered: RegisteredModel, part: ModelPart, *, is_loaded: bool) -> None:
        event = LoadEvent.REVISION_READY if is_loaded else LoadEvent.REVISION_UNLOADED
        self._loads.advance(LoadKey(registered.model_name, part), event, target=registered)

    async def _load(self, key: LoadKey, target: RegisteredModel) -> None:
        """Load a part of a model, and serve what was loaded."""
        others_are_served = partial(self._others_are_served, key)
        if key.part is ModelPart.ROLLBACK_TARGET:
            result = await self._loader.load_rollback_target(target, others_are_served=others_are_served)
        else:

            def publish(versions: Mapping[str, ServedVersion]) -> bool:
                wanted = self._loads.is_wanted(key)
                if wanted:
                    self._serve(target, versions, is_logged=False)
                return wanted

            result = await self._loader.load_route(
                target,
                self._tables.current.models.get(target.model_name),
                publish=publish,
                others_are_served=others_are_served,
            )
        if not self._loads.is_wanted(key):
            # A newer revision cancelled this load, and a library swallowed the cancellation.
            await close_versions(result.new)
            return
        if result.failures:
            self._loads.advance(
                key, LoadEvent.LOAD_FAILED, failures=result.failures, retry_seconds=result.retry_seconds
            )
        else:
            self._loads.advance(key, LoadEvent.LOADED)
        if key.part is ModelPart.ROUTE:
            self._serve(target, result.versions)
        else:
            self._keep(target.model_name, result.versions)

    def _others_are_served(self, key: LoadKey) -> bool:
        """Whether a version may be loaded that ended a process. Of two that have to wait, the one goes first that began first."""
        routes = self._loads.running(ModelPart.ROUTE)
        before = routes if key.part is ModelPart.ROUTE else [*routes, *self._loads.running(key.part)]
        return self._is_serving and before[:1] in ([], [key])

    def _serve(
        self,
        target: RegisteredModel,
        versions: Mapping[str, ServedVersion] | None,
        *,
        is_logged: bool = True,
    ) -> None:
        """Serve a model by these versions and a rollback target that is loaded, or as before."""
        models = dict(self._tables.current.models)
        if versions is not None:
            loaded = loaded_versions(target, models.get(target.model_name))
            models[target.model_name] = ServedModel.of(target, {**loaded, **versions})
        self._swap(self._tables.current.epoch, models, [target.model_name], is_logged=is_logged)

    def _keep(self, name: str, rollback_target: Mapping[str, ServedVersion] | None) -> None:
        """Keep a rollback target beside the versions by which a model is served."""
        models = dict(self._tables.current.models)
        if rollback_target is not None:
            models[name] = replace(models[name], versions={**models[name].versions, **rollback_target})
        self._swap(self._tables.current.epoch, models, [name], is_logged=False)

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
        loads = self._loads.states(ModelPart.ROUTE)
        behind = {name: load.reason for name, load in loads.items()}
        older = {
            name: models[name].revision
            for name, load in loads.items()
            if name in models and load.target is not None and models[name].revision != load.target.revision
        }
        self._tables.swap(ServingTable(epoch, models, behind, self._loads.unloadable(), older))
        for name in names:
            if name in before:
                kept = set(models[name].versions.values()) if name in models else set()
                self._retiring += [
                    version for version in before[name].versions.values() if version not in kept
                ]
        changed = [name for name in names if _loaded(models.get(name)) != _loaded(before.get(name))]
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


def _loaded(model: ServedModel | None) -> tuple[int, frozenset[ServedVersion]] | None:
    """PURE. What a log line is worth: the revision, and the versions that answer by it."""
    if model is None:
        return None
    return model.revision, frozenset(version for version in model.versions.values() if version.is_loaded)
