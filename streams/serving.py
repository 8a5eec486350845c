"""The table by which a worker serves: the registry's snapshot with everything loaded.

A slice captures one table and is served by it to its end; a refresh builds a new table beside the
old one and swaps it in whole. A version whose backend cannot be loaded never gets traffic here:
its model stays on the route it had. At a worker's start there is none; then the version's requests
are told that it is not available, and the others are served.
"""

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from registry.routing import RouteTable, bucket
from registry.snapshot import RegisteredModel, Snapshot
from schemas.errors import (
    ArtifactError,
    BackendUnavailableError,
    HeadraceError,
    InvalidInputError,
    InvalidOutputError,
)
from schemas.events import JsonObject
from schemas.json_schema import Validator, compile_schema, details
from schemas.models import ModelSpec
from workers.backend import Backend

log = structlog.get_logger()

LoadBackend = Callable[[str, ModelSpec], Awaitable[Backend]]


@dataclass(frozen=True, slots=True, eq=False)
class ServedVersion:
    """A version that can answer: its schemas compiled, its backend warm."""

    model_name: str
    spec: ModelSpec
    backend: Backend
    cache_prefix: bytes
    input_validator: Validator
    output_validator: Validator
    input_is_valid: Callable[[Any], bool]
    output_is_valid: Callable[[Any], bool]

    @classmethod
    def of(cls, model_name: str, spec: ModelSpec, backend: Backend) -> "ServedVersion":
        """Compile the schemas of a version; raises ArtifactError when one is no JSON Schema."""
        try:
            accepts, promises = compile_schema(spec.input_schema), compile_schema(spec.output_schema)
        except ValueError as error:
            raise ArtifactError(f"{model_name} {spec.version} has a bad schema: {error}") from None
        return cls(
            model_name=model_name,
            spec=spec,
            backend=backend,
            cache_prefix=f"headrace:pred:{model_name}:{spec.version}:".encode(),
            input_validator=accepts,
            output_validator=promises,
            input_is_valid=accepts.is_valid,
            output_is_valid=promises.is_valid,
        )

    def refuse_input(self, value: JsonObject) -> InvalidInputError:
        """The error that says what is wrong with an input that is not valid."""
        return InvalidInputError(
            f"input does not match the schema of {self.spec.version}",
            details(self.input_validator, value),
        )

    def refuse_output(self, value: Any) -> InvalidOutputError:
        """The error that says what is wrong with predictions that are not valid."""
        return InvalidOutputError(
            f"predictions do not match the output schema of {self.spec.version}",
            details(self.output_validator, value),
        )


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A model's route over its served versions: `targets[i]` has the buckets up to `ends[i]`."""

    model_name: str
    revision: int
    salt: str
    ends: tuple[int, ...]
    targets: tuple[ServedVersion, ...]
    versions: Mapping[str, ServedVersion]

    @classmethod
    def of(cls, registered: RegisteredModel, versions: Mapping[str, ServedVersion]) -> "ServedModel":
        """`versions` has at least those with traffic."""
        table = RouteTable.of(registered.route)
        return cls(
            model_name=registered.model_name,
            revision=registered.revision,
            salt=registered.route.salt,
            ends=table.ends,
            targets=tuple(versions[version] for version in table.versions),
            versions=versions,
        )

    @property
    def loaded(self) -> bool:
        """Whether every version could be loaded."""
        return all(type(version.backend) is not NotLoaded for version in self.versions.values())

    def version_for(self, user_id: str) -> ServedVersion | None:
        """The version of a user, or None while nothing takes traffic."""
        targets = self.targets
        if len(targets) > 1:
            return targets[bisect_right(self.ends, bucket(self.salt, user_id))]
        return targets[0] if targets else None


@dataclass(frozen=True, slots=True, eq=False)
class ServingTable:
    """Everything a worker can answer, at one epoch of the registry."""

    epoch: int = -1
    models: Mapping[str, ServedModel] = field(default_factory=dict)
    complete: bool = True
    """Whether every model is at the registry's revision; False after a load that failed."""

    def longest_timeout_seconds(self) -> float:
        return max((version.spec.timeout_ms / 1000 for version in self.versions()), default=0.0)

    def versions(self) -> set[ServedVersion]:
        return {version for model in self.models.values() for version in model.versions.values()}


class NotLoaded:
    """Stands for a backend that could not be loaded, where there is no older route to stay on."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def infer(self, inputs: Sequence[JsonObject], *, timeout_seconds: float) -> list[Any]:  # noqa: ARG002  # the protocol's signature
        raise BackendUnavailableError(self._reason)

    async def warm(self) -> None:
        """There is nothing to warm."""

    async def close(self) -> None:
        """There is nothing to close."""


async def serve(snapshot: Snapshot, previous: ServingTable, load_backend: LoadBackend) -> ServingTable:
    """The table of a snapshot, built on what the previous one has loaded.

    Backends of versions that stay are kept; the others of `previous` are for the caller to close
    once no slice uses them.
    """
    models: dict[str, ServedModel] = {}
    complete = True
    for name, registered in snapshot.models.items():
        served = previous.models.get(name)
        if served is not None and served.revision == registered.revision and served.loaded:
            models[name] = served
            continue
        try:
            models[name] = await _serve_model(registered, served, load_backend)
        except HeadraceError as error:
            assert served is not None  # without an older route the model is served as far as it loads
            models[name] = served
            log.error("the old route stays", model_name=name, revision=served.revision, reason=str(error))
        complete &= models[name].revision == registered.revision and models[name].loaded
    return ServingTable(epoch=snapshot.epoch, models=models, complete=complete)


async def _serve_model(
    registered: RegisteredModel, served: ServedModel | None, load_backend: LoadBackend
) -> ServedModel:
    """Raises what loading raises, unless no version of the model was served before."""
    versions: dict[str, ServedVersion] = {}
    loaded: list[Backend] = []
    stays = served is not None and served.loaded
    try:
        for version in _needed(registered):
            known = served.versions.get(version) if served else None
            if known is None or type(known.backend) is NotLoaded:
                spec = registered.versions[version].spec
                try:
                    backend = await load_backend(registered.model_name, spec)
                    loaded.append(backend)
                    await backend.warm()
                except HeadraceError as error:
                    log.error(
                        "version not loaded",
                        model_name=registered.model_name,
                        version=version,
                        reason=str(error),
                    )
                    if stays:
                        raise
                    backend = NotLoaded(f"{version} is not loaded on this worker; its log says why")
                known = ServedVersion.of(registered.model_name, spec, backend)
            versions[version] = known
    except BaseException:  # a cancelled refresh too must leave no backend loaded
        for backend in loaded:
            await backend.close()
        raise
    return ServedModel.of(registered, versions)


def _needed(registered: RegisteredModel) -> list[str]:
    """The versions with traffic, and the one a rollback would go back to."""
    needed = dict.fromkeys(part.version for part in registered.route.ranges)
    if registered.previous_production is not None:
        needed[registered.previous_production] = None
    return list(needed)
