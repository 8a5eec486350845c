"""Keeping what a worker serves at the registry's epoch.

The registry's epoch is one row, which is read each second and whenever a hint says that it moved. If
it did, the models that changed since are read. A model whose versions are all loaded, as in every
rollback and every change of weights, is swapped in at once. For another one the missing versions are
loaded and warmed first, in the background: its older route stays until then, and no other model waits for
it. A version that cannot be loaded is reported and tried again, and the older route stays.

A poll that fails changes nothing; after `stale_after_seconds` without a successful one, answers say
that they are stale.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterable

import structlog

from registry.snapshot import RegisteredModel, Snapshot
from registry.store import RegistryStore
from schemas.errors import HeadraceError, RegistryUnavailableError, SetupError
from schemas.events import RouteHint
from schemas.models import ModelSpec
from streams.serving.active_tables import ActiveTables
from streams.serving.route_table import ServedModel, ServedVersion, ServingTable
from streams.serving.served_version import served_version, unloaded_version
from workers.backends.port import Backend
from workers.calls.dispatch import CallTracer, Meter

log = structlog.get_logger()

RETRY_LOAD_SECONDS = 10.0
# Loads at once: more would share the same cores and disks.
LOADS_AT_ONCE = 4
POLL_JITTER = 0.5, 0.9
MODELS_IN_A_LOG_LINE = 10

LoadBackend = Callable[[str, ModelSpec], Awaitable[Backend]]
"""Makes the backend of a version of this model; raises ArtifactError and UnavailableError."""

LoadFailed = Callable[[str, str, int], None]
"""Told of each version that could not be loaded: model, version, revision."""

TracerOf = Callable[[str, ModelSpec], CallTracer]
"""What traces the calls to the backend of a version of this model."""


class ServingRefresher:
    """Keeps `tables` current."""

    def __init__(
        self,
        store: RegistryStore,
        tables: ActiveTables,
        load_backend: LoadBackend,
        *,
        on_load_failed: LoadFailed,
        meter_of: Callable[[str, str], Meter],
        poll_seconds: float,
        stale_after_seconds: float,
        tracer_of: TracerOf | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._tables = tables
        self._load_backend = load_backend
        self._on_load_failed = on_load_failed
        self._meter_of = meter_of
        self._poll_seconds = poll_seconds
        self._stale_after_seconds = stale_after_seconds
        self._tracer_of = tracer_of
        self._clock = clock
        self._read_at = clock()
        self._woken = asyncio.Event()
        self._load_slots = asyncio.Semaphore(LOADS_AT_ONCE)
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._retries: dict[str, tuple[float, RegisteredModel]] = {}
        self._retiring: list[ServedVersion] = []

    def is_stale(self) -> bool:
        """Whether the registry was not read for `stale_after_seconds`."""
        return self.age_seconds() > self._stale_after_seconds

    def age_seconds(self) -> float:
        """How long ago the registry was read."""
        return self._clock() - self._read_at

    def hear(self, hint: RouteHint) -> None:
        """Read the registry now, if the hint tells of anything new."""
        if hint.epoch > self._tables.current.epoch:
            self.wake()

    def wake(self) -> None:
        """Read the registry now: hints may have been missed."""
        self._woken.set()

    async def refresh(self) -> None:
        """Read the epoch, and what changed if it moved; begin with the loads that are due again.

        Raises RegistryUnavailableError and SetupError.
        """
        epoch = await self._store.epoch()
        self._read_at = self._clock()
        known = self._tables.current.epoch
        if epoch != known:
            # An older one than ours is that of a registry restored from a backup: all of it may differ.
            self._follow(await self._store.load(known if epoch > known else -1), whole=epoch < known)
        for name, (due_at, registered) in list(self._retries.items()):
            if self._clock() >= due_at:
                del self._retries[name]
                self._begin_load(registered)

    async def loaded(self) -> None:
        """Wait until every load that has begun has ended, well or not."""
        while self._loads:
            await asyncio.wait(self._loads.values())

    async def run(self) -> None:
        """Refresh at least each `poll_seconds`, and when woken.

        With jitter, so that workers do not ask at once; and early enough that a change is served within
        `poll_seconds` where no hint tells of it.
        """
        reachable = True
        while True:
            try:
                async with asyncio.timeout(self._poll_seconds * random.uniform(*POLL_JITTER)):  # noqa: S311  # no secret
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()
            try:
                await self.refresh()
            except (RegistryUnavailableError, SetupError) as error:
                # A password that was changed, or a right that was taken, is no reason to serve nobody.
                if reachable:
                    log.warning("registry not reachable; serving goes on as it was", reason=str(error))
                reachable = False
            else:
                if not reachable:
                    log.info("registry reachable again")
                reachable = True
            await self._close_retired()

    async def close(self) -> None:
        """End the loads and close every backend."""
        loads = list(self._loads.values())
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
        await _close(self._tables.current.versions())
        await _close(self._retiring)

    def _follow(self, snapshot: Snapshot, *, whole: bool) -> None:
        before = self._tables.current
        models = {} if whole else dict(before.models)
        behind = {} if whole else dict(before.behind)
        unloaded: list[RegisteredModel] = []
        for name in self._loads.keys() | self._retries.keys():
            # What was begun for an older revision, or for a model that is there no more, is pointless.
            if whole or name in snapshot.models:
                self._give_up(name)
        for name, registered in snapshot.models.items():
            served = before.models.get(name)
            versions = _loaded(registered, served)
            if len(versions) == len(registered.versions):
                models[name] = ServedModel.of(registered, versions)
                behind.pop(name, None)
            else:
                behind[name] = "its versions are being loaded"
                if served is not None:
                    models[name] = served
                unloaded.append(registered)
        self._swap(ServingTable(snapshot.epoch, models, behind), before.models if whole else snapshot.models)
        for registered in unloaded:
            self._begin_load(registered)

    def _give_up(self, model_name: str) -> None:
        if model_name in self._loads:
            self._loads.pop(model_name).cancel()
        self._retries.pop(model_name, None)

    def _begin_load(self, registered: RegisteredModel) -> None:
        name = registered.model_name
        load = self._loads[name] = asyncio.create_task(self._load(registered))

        def ended(task: asyncio.Task[None]) -> None:
            # A newer one may have taken its place.
            if self._loads.get(name) is task:
                del self._loads[name]

        load.add_done_callback(ended)

    async def _load(self, registered: RegisteredModel) -> None:
        """Bring a model to this revision, or say why it stays behind and try again later."""
        name = registered.model_name
        served = self._tables.current.models.get(name)
        versions = _loaded(registered, served)
        fresh: list[ServedVersion] = []
        reason = ""
        async with self._load_slots:
            try:
                for version, at in registered.versions.items():
                    if version in versions:
                        continue
                    try:
                        versions[version] = await self._load_version(name, at.spec)
                        fresh.append(versions[version])
                    except Exception as error:  # noqa: BLE001  # whatever it is, this version cannot be served here
                        reason = f"{version} cannot be loaded: {error}"
                        self._tell(registered, version, error)
                        if served is not None and served.loaded:
                            break
                        versions[version] = unloaded_version(name, at.spec, self._meter_of(name, version))
            except BaseException:  # cancelled: what was loaded for it is needed no more
                await _close(fresh)
                raise
        complete = len(versions) == len(registered.versions)
        if not complete:
            await _close(fresh)
        current = self._tables.current
        models, behind = dict(current.models), dict(current.behind)
        if complete:
            models[name] = ServedModel.of(registered, versions)
        if reason:
            behind[name] = reason
            self._retries[name] = (self._clock() + RETRY_LOAD_SECONDS, registered)
        else:
            del behind[name]
        self._swap(ServingTable(current.epoch, models, behind), [name])

    async def _load_version(self, model_name: str, spec: ModelSpec) -> ServedVersion:
        backend = await self._load_backend(model_name, spec)
        try:
            await backend.warm()
            tracer = self._tracer_of(model_name, spec) if self._tracer_of is not None else None
            return served_version(model_name, spec, backend, self._meter_of(model_name, spec.version), tracer)
        except BaseException:  # a cancelled load too must leave no backend open
            await backend.close()
            raise

    def _tell(self, registered: RegisteredModel, version: str, error: Exception) -> None:
        name = registered.model_name
        expected = isinstance(error, HeadraceError)
        log.error(
            "version not loaded",
            model_name=name,
            version=version,
            revision=registered.revision,
            reason=str(error),
            exc_info=None if expected else error,
        )
        self._on_load_failed(name, version, registered.revision)

    def _swap(self, table: ServingTable, names: Collection[str]) -> None:
        """Serve by another table, which differs from the current one in these models."""
        before = self._tables.current
        self._tables.swap(table)
        for name in names:
            served, now_served = before.models.get(name), table.models.get(name)
            if served is None:
                continue
            kept = set() if now_served is None else set(now_served.versions.values())
            self._retiring += [version for version in served.versions.values() if version not in kept]
        changed = [name for name in names if table.models.get(name) is not before.models.get(name)]
        if changed:
            log.info("serving table swapped", epoch=table.epoch, models=changed[:MODELS_IN_A_LOG_LINE])

    async def _close_retired(self) -> None:
        """Close what is no longer served once no slice that began before is being answered by it."""
        if not self._retiring:
            return
        in_use = self._tables.versions_in_use()
        unused = [version for version in self._retiring if version not in in_use]
        self._retiring = [version for version in self._retiring if version in in_use]
        await _close(unused)


def _loaded(registered: RegisteredModel, served: ServedModel | None) -> dict[str, ServedVersion]:
    """The versions of a model that are loaded already."""
    if served is None:
        return {}
    return {
        version: known
        for version, at in registered.versions.items()
        if (known := served.versions.get(version)) is not None and known.is_loaded and known.spec == at.spec
    }


async def _close(versions: Iterable[ServedVersion]) -> None:
    for version in versions:
        await version.dispatcher.close()
