"""The table by which a worker serves: the registry's routes with everything loaded that they need.

A slice captures one table and is served by it to its end; what changes makes a new table beside the
old one, which is swapped in whole. So two answers of one slice are never by two routes.
"""

import asyncio
from bisect import bisect_right
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from registry.routing import RouteTable, bucket
from registry.snapshot import RegisteredModel
from schemas.errors import (
    ArtifactError,
    BackendUnavailableError,
    InvalidInputError,
    InvalidOutputError,
)
from schemas.events import JsonObject
from schemas.json_schema import Validator, compile_schema, details
from schemas.models import Fallback, Framework, ModelSpec, StalePolicy, Status
from workers.backends.port import Backend
from workers.calls.dispatch import CallTracer, Dispatcher, Meter

# A session runs one batch at a time; the next one is at hand when it is done.
ONNX_CALLS = 2
ONNX_BATCH = 2048
SERVER_BATCH = 256

LoadBackend = Callable[[str, ModelSpec], Awaitable[Backend]]


@dataclass(frozen=True, slots=True, eq=False)
class ServedVersion:
    """A version that can answer: its schemas compiled, its backend warm and behind its dispatcher."""

    model_name: str
    spec: ModelSpec
    backend: Backend
    dispatcher: Dispatcher
    cache_prefix: bytes
    input_validator: Validator
    output_validator: Validator
    input_is_valid: Callable[[Any], bool]
    output_is_valid: Callable[[Any], bool]
    fails_when_stale: bool

    @classmethod
    def of(
        cls,
        model_name: str,
        spec: ModelSpec,
        backend: Backend,
        meter: Meter,
        tracer: CallTracer | None = None,
    ) -> "ServedVersion":
        """Compile the schemas of a version; raises ArtifactError when one is no JSON Schema."""
        try:
            accepts, promises = compile_schema(spec.input_schema), compile_schema(spec.output_schema)
        except ValueError as error:
            raise ArtifactError(f"{model_name} {spec.version} has a bad schema: {error}") from None
        return cls(
            model_name=model_name,
            spec=spec,
            backend=backend,
            dispatcher=Dispatcher(
                backend,
                name=f"{model_name} {spec.version}",
                max_batch=_max_batch(spec),
                max_calls=ONNX_CALLS if spec.framework is Framework.ONNX else spec.server.max_calls,
                timeout_seconds=spec.timeout_ms / 1000,
                meter=meter,
                tracer=tracer,
            ),
            cache_prefix=f"headrace:pred:{model_name}:{spec.version}:".encode(),
            input_validator=accepts,
            output_validator=promises,
            input_is_valid=accepts.is_valid,
            output_is_valid=promises.is_valid,
            fails_when_stale=spec.stale_policy is StalePolicy.FAIL,
        )

    @property
    def falls_back(self) -> bool:
        """Whether production answers what this version's backend fails to."""
        return self.spec.fallback is Fallback.PRODUCTION

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


def _max_batch(spec: ModelSpec) -> int:
    if spec.framework is Framework.TORCHSERVE:
        return 1
    return spec.max_batch or (ONNX_BATCH if spec.framework is Framework.ONNX else SERVER_BATCH)


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A model's route over its served versions: `targets[i]` has the buckets up to `ends[i]`."""

    model_name: str
    revision: int
    salt: str
    ends: tuple[int, ...]
    targets: tuple[ServedVersion, ...]
    versions: Mapping[str, ServedVersion]
    production: ServedVersion | None

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
            production=next(
                (
                    versions[version]
                    for version, at in registered.versions.items()
                    if at.status is Status.PRODUCTION
                ),
                None,
            ),
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
    """Everything a worker can answer, at one epoch of the registry.

    `behind` are the models that stay on an older route than the registry's, each with the reason: a
    version that the newer one needs is still loading, or cannot be loaded.
    """

    epoch: int = -1
    models: Mapping[str, ServedModel] = field(default_factory=dict)
    behind: Mapping[str, str] = field(default_factory=dict)

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


class ServedTables:
    """The table that is served now, and those before it by which slices are still being answered.

    `changed` is set whenever one of the two is not what it was; who waits for it clears it.
    """

    def __init__(self) -> None:
        self.current = ServingTable()
        self.changed = asyncio.Event()
        self._slices: Counter[ServingTable] = Counter()

    @contextmanager
    def in_use(self) -> Iterator[ServingTable]:
        """The current table, for one slice from its beginning to the delivery of its answers."""
        table = self.current
        self._slices[table] += 1
        try:
            yield table
        finally:
            self._slices[table] -= 1
            if not self._slices[table]:
                del self._slices[table]
                if table is not self.current:
                    self.changed.set()

    def swap(self, table: ServingTable) -> None:
        """Serve by another table from the next slice on."""
        self.current = table
        self.changed.set()

    def oldest(self) -> ServingTable:
        """No answer from now on is by an older table than this."""
        # Those in use are in the order of their first use, which is that of their age.
        return next(iter(self._slices), self.current)

    def versions_in_use(self) -> set[ServedVersion]:
        """Every version that is served now, or by which a slice is still being answered."""
        return set().union(*(table.versions() for table in (self.current, *self._slices)))
