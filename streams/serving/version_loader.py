"""Loads and warms the versions of a model that are not loaded yet: those with traffic, and the rollback target."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import structlog

from registry.snapshot import RegisteredModel
from schemas.errors import HeadraceError, LoadPostponedError
from schemas.models import ModelSpec, Status
from streams.models.backend_loader import warm
from streams.serving.load_journal import Begin
from streams.serving.load_state import RETRY_SECONDS, TARGET_RETRY_SECONDS
from streams.serving.route_table import ServedModel, ServedVersion
from streams.serving.served_version import served_version, unloaded_version
from workers.backends.port import Backend
from workers.calls.observers import CallTracer, Gate, Meter

log = structlog.get_logger()

# More loads at once would share the same cores and disks.
MAX_LOADS = 4
# Rollback targets have slots of their own: those that hang must not keep versions with traffic from being loaded.
MAX_TARGET_LOADS = 1

LoadBackend = Callable[[str, ModelSpec, Begin], Awaitable[Backend]]
"""Makes the backend of a version of this model; raises ArtifactError and UnavailableError.

It awaits its last argument when it has downloaded what it needs.
"""

LoadFailed = Callable[[str, str], None]
"""Called for each version that could not be loaded, with its model and version."""

TracerOf = Callable[[str, ModelSpec], CallTracer]
"""Makes what traces the calls to the backend of a version of this model."""

Publish = Callable[[Mapping[str, ServedVersion]], bool]
"""Serves a model by these versions until its load has ended; False when the load is wanted no more."""


class Journal(Protocol):
    """Remembers loads that end the process: `load_journal.LoadJournal`."""

    def attempt(
        self, model_name: str, spec: ModelSpec, *, others_are_served: bool
    ) -> AbstractAsyncContextManager[Begin]:
        """Record the load of a version while the block runs; raises LoadPostponedError when it must wait."""
        ...


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a load made of a part of a model.

    `versions` are all versions of the part, or None when nothing new is to be served. `new` are those that this load
    opened and that are not published. `failures` has the versions that could not be loaded, each with the reason. After
    a failure the load is due again in `retry_seconds`.
    """

    versions: Mapping[str, ServedVersion] | None
    new: Sequence[ServedVersion]
    failures: Mapping[str, str]
    retry_seconds: float


class VersionLoader:
    """Loads versions, at most `MAX_LOADS` with traffic and `MAX_TARGET_LOADS` others at once, each within `timeout_seconds`."""

    def __init__(
        self,
        load_backend: LoadBackend,
        *,
        journal: Journal,
        timeout_seconds: float,
        on_load_failed: LoadFailed,
        meter_of: Callable[[str, str], Meter],
        tracer_of: TracerOf | None = None,
        gate: Gate | None = None,
    ) -> None:
        self._load_backend = load_backend
        self._journal = journal
        self._timeout_seconds = timeout_seconds
        self._on_load_failed = on_load_failed
        self._meter_of = meter_of
        self._tracer_of = tracer_of
        self._gate = gate
        self._slots = asyncio.Semaphore(MAX_LOADS)
        self._target_slots = asyncio.Semaphore(MAX_TARGET_LOADS)

    async def load_route(
        self,
        registered: RegisteredModel,
        served: ServedModel | None,
        *,
        publish: Publish,
        others_are_served: Callable[[], bool],
    ) -> LoadResult:
        """Load the versions with traffic that are not loaded in `served`, the model as it is served now.

        When a version cannot be loaded and `served` can answer, nothing that was loaded is kept. When `served` cannot,
        a version that fails each call stands in for it, and the other versions are served: each is published as soon as
        it is loaded. A version whose load ended a process waits until `others_are_served`.
        """
        versions = loaded_versions(registered, served)
        missing = _production_first(registered, versions)
        keeps_older = served is not None and served.is_loaded
        new: list[ServedVersion] = []
        failures: dict[str, str] = {}
        waits_seconds: list[float] = []
        if not keeps_older:
            for version in missing:
                versions[version] = self._stand_in(registered, version, "is being loaded by this worker")
        try:
            for version in missing:
                if not keeps_older and publish(dict(versions)):
                    new.clear()
                try:
                    versions[version] = await self._load_version(
                        registered, version, self._slots, others_are_served
                    )
                    new.append(versions[version])
                except Exception as error:  # noqa: BLE001  # whatever it is, this version cannot be served here
                    failures[version] = str(error)
                    waits_seconds.append(_retry_seconds(error, RETRY_SECONDS))
                    self._report_failure("version not loaded", registered, version, error)
                    if keeps_older:
                        await close_versions(new)
                        return LoadResult(None, (), failures, waits_seconds[0])
                    versions[version] = self._stand_in(
                        registered, version, "is not loaded on this worker; its log says why"
                    )
        except BaseException:  # a cancelled load leaves no backend open
            await close_versions(new)
            raise
        return LoadResult(versions, new, failures, min(waits_seconds, default=0.0))

    async def load_rollback_target(
        self, registered: RegisteredModel, *, others_are_served: Callable[[], bool]
    ) -> LoadResult:
        """Load the rollback target, which takes no traffic. After a failure a rollback would have to load it."""
        version = registered.previous_production
        if version is None:
            return LoadResult(None, (), {}, 0.0)
        try:
            loaded = await self._load_version(registered, version, self._target_slots, others_are_served)
        except Exception as error:  # noqa: BLE001  # whatever it is, this version cannot be served here
            self._report_failure("rollback target not loaded", registered, version, error)
            return LoadResult(None, (), {version: str(error)}, _retry_seconds(error, TARGET_RETRY_SECONDS))
        return LoadResult({version: loaded}, [loaded], {}, 0.0)

    async def _load_version(
        self,
        registered: RegisteredModel,
        version: str,
        slots: asyncio.Semaphore,
        others_are_served: Callable[[], bool],
    ) -> ServedVersion:
        name, spec = registered.model_name, registered.versions[version].spec
        backend: Backend | None = None
        # Production versions wait for the slots before all others, because each model loads its own first.
        async with slots:
            try:
                async with self._journal.attempt(name, spec, others_are_served=others_are_served()) as begin:
                    backend = await self._load_backend(name, spec, begin)
                    await warm(backend, timeout_seconds=self._timeout_seconds)
                    tracer = self._tracer_of(name, spec) if self._tracer_of is not None else None
                    meter = self._meter_of(name, version)
                    return served_version(name, spec, backend, meter, tracer=tracer, gate=self._gate)
            except BaseException:  # a cancelled load leaves no backend open, also while the journal ends
                if backend is not None:
                    await backend.close()
                raise

    def _stand_in(self, registered: RegisteredModel, version: str, reason: str) -> ServedVersion:
        name, spec = registered.model_name, registered.versions[version].spec
        return unloaded_version(name, spec, reason)

    def _report_failure(
        self, event: str, registered: RegisteredModel, version: str, error: Exception
    ) -> None:
        log.error(
            event,
            model_name=registered.model_name,
            version=version,
            revision=registered.revision,
            reason=str(error),
            exc_info=None if isinstance(error, HeadraceError) else error,
        )
        self._on_load_failed(registered.model_name, version)


def loaded_versions(registered: RegisteredModel, served: ServedModel | None) -> dict[str, ServedVersion]:
    """PURE. The versions of a registered model that are loaded already, as they are served."""
    if served is None:
        return {}
    return {
        name: known
        for name, at in registered.versions.items()
        if (known := served.versions.get(name)) is not None and known.is_loaded and known.spec == at.spec
    }


def _production_first(registered: RegisteredModel, loaded: Mapping[str, ServedVersion]) -> list[str]:
    """PURE. The versions with traffic that are not loaded, in the order of loading."""
    missing = [name for name in registered.versions if name in registered.with_traffic and name not in loaded]
    return sorted(missing, key=lambda name: registered.versions[name].status is not Status.PRODUCTION)


def _retry_seconds(error: Exception, usual_seconds: float) -> float:
    return error.retry_seconds if isinstance(error, LoadPostponedError) else usual_seconds


async def close_versions(versions: Iterable[ServedVersion]) -> None:
    """Close the backends of these versions; they answer no more."""
    for version in versions:
        await version.dispatcher.close()
