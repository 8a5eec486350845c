"""Loads and warms the versions that a model's new route needs and that are not loaded yet."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from registry.snapshot import RegisteredModel
from schemas.errors import HeadraceError
from schemas.models import ModelSpec
from streams.serving.route_table import ServedModel, ServedVersion
from streams.serving.served_version import served_version, unloaded_version
from workers.backends.port import Backend
from workers.calls.dispatch import CallTracer, Meter

log = structlog.get_logger()

# More loads at once would share the same cores and disks.
MAX_LOADS = 4

LoadBackend = Callable[[str, ModelSpec], Awaitable[Backend]]
"""Makes the backend of a version of this model; raises ArtifactError and UnavailableError."""

LoadFailed = Callable[[str, str, int], None]
"""Called for each version that could not be loaded, with its model, version and revision."""

TracerOf = Callable[[str, ModelSpec], CallTracer]
"""Makes what traces the calls to the backend of a version of this model."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a load made of a model.

    `versions` are all versions that the route needs, or None when an older route must stay. `new` are those that this
    load opened. `failure` says which version could not be loaded and why; empty when all are loaded.
    """

    versions: Mapping[str, ServedVersion] | None
    new: Sequence[ServedVersion]
    failure: str


class VersionLoader:
    """Loads versions, at most `MAX_LOADS` models at once."""

    def __init__(
        self,
        load_backend: LoadBackend,
        *,
        on_load_failed: LoadFailed,
        meter_of: Callable[[str, str], Meter],
        tracer_of: TracerOf | None = None,
    ) -> None:
        self._load_backend = load_backend
        self._on_load_failed = on_load_failed
        self._meter_of = meter_of
        self._tracer_of = tracer_of
        self._slots = asyncio.Semaphore(MAX_LOADS)

    async def load(self, registered: RegisteredModel, served: ServedModel | None) -> LoadResult:
        """Load the versions of a model that are not loaded in `served`, the model as it is served now.

        When a version cannot be loaded and `served` can answer, nothing that was loaded is kept. When `served` cannot,
        a version that fails each call stands in for it, and the other versions are served.
        """
        versions = loaded_versions(registered, served)
        missing = {name: at.spec for name, at in registered.versions.items() if name not in versions}
        keeps_older = served is not None and served.loaded
        new: list[ServedVersion] = []
        failure = ""
        async with self._slots:
            try:
                for name, spec in missing.items():
                    try:
                        versions[name] = await self._load_version(registered.model_name, spec)
                        new.append(versions[name])
                    except Exception as error:  # noqa: BLE001  # whatever it is, this version cannot be served here
                        failure = f"{name} cannot be loaded: {error}"
                        self._report_failure(registered, name, error)
                        if keeps_older:
                            await close_versions(new)
                            return LoadResult(None, (), failure)
                        meter = self._meter_of(registered.model_name, name)
                        versions[name] = unloaded_version(registered.model_name, spec, meter)
            except BaseException:  # a cancelled load leaves no backend open
                await close_versions(new)
                raise
        return LoadResult(versions, new, failure)

    async def _load_version(self, model_name: str, spec: ModelSpec) -> ServedVersion:
        backend = await self._load_backend(model_name, spec)
        try:
            await backend.warm()
            tracer = self._tracer_of(model_name, spec) if self._tracer_of is not None else None
            return served_version(model_name, spec, backend, self._meter_of(model_name, spec.version), tracer)
        except BaseException:  # a cancelled load leaves no backend open
            await backend.close()
            raise

    def _report_failure(self, registered: RegisteredModel, version: str, error: Exception) -> None:
        log.error(
            "version not loaded",
            model_name=registered.model_name,
            version=version,
            revision=registered.revision,
            reason=str(error),
            exc_info=None if isinstance(error, HeadraceError) else error,
        )
        self._on_load_failed(registered.model_name, version, registered.revision)


def loaded_versions(registered: RegisteredModel, served: ServedModel | None) -> dict[str, ServedVersion]:
    """PURE. The versions of a registered model that are loaded already, as they are served."""
    if served is None:
        return {}
    return {
        name: known
        for name, at in registered.versions.items()
        if (known := served.versions.get(name)) is not None and known.is_loaded and known.spec == at.spec
    }


async def close_versions(versions: Iterable[ServedVersion]) -> None:
    """Close the backends of these versions; they answer no more."""
    for version in versions:
        await version.dispatcher.close()
