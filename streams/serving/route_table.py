"""PURE. The serving table: the registry's routes over the versions that this worker has loaded.

A table is immutable. A slice captures one table and uses it to its end; a change makes a new table, and
`active_tables.py` swaps it in whole. So all responses of one slice come from the same routes.
"""

from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Protocol

from registry.routing import RouteTable, bucket, buckets
from registry.snapshot import RegisteredModel
from schemas.errors import ArtifactError, InvalidInputError, InvalidOutputError
from schemas.events import JsonObject
from schemas.json_schema import OMITTED, Explanations, Validator, compile_schema
from schemas.models import Fallback, ModelSpec, StalePolicy, Status, cache_seconds, served_form
from schemas.schema_limits import check_size
from schemas.wire import canonical


class InferenceDispatcher(Protocol):
    """The calls to the backend of one version; `workers.calls.dispatch.Dispatcher` makes them."""

    def infer(
        self,
        inputs: Sequence[JsonObject],
        *,
        digests: Sequence[bytes] = ...,
        sizes_bytes: Sequence[int] = ...,
        deadline_loop_seconds: float = ...,
    ) -> AsyncGenerator[tuple[int, Sequence[Any]], None]:
        """A prediction or an AnswerError for each input, as batches end.

        Each part is the outcomes of consecutive inputs, after the index of the first.
        """
        ...

    def least_wait_seconds(self) -> float:
        """The least time to an outcome of an input that begins to wait now; 0 where nothing waits or is known."""
        ...

    async def close(self) -> None:
        """End the calls and close the backend. Idempotent."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ServedVersion:
    """A version that takes requests: its compiled schemas and the dispatcher of its backend.

    `cache_prefix` and the digest of an input are the cache's key. It contains a digest of the spec: in a registry that
    was restored, a name may be registered again with another artifact. `is_loaded` is False for a version that could
    not be loaded: its calls fail with BACKEND_UNAVAILABLE.
    """

    model_name: str
    spec: ModelSpec
    dispatcher: InferenceDispatcher
    cache_prefix: bytes
    input_validator: Validator
    output_validator: Validator
    input_is_valid: Callable[[Any], bool]
    output_is_valid: Callable[[Any], bool]
    fails_when_stale: bool
    limits_waiting: bool
    cache_seconds: int
    is_loaded: bool

    @classmethod
    def of(
        cls, model_name: str, spec: ModelSpec, dispatcher: InferenceDispatcher, *, is_loaded: bool = True
    ) -> "ServedVersion":
        """Compile the schemas of a version; raises ArtifactError when one is not a JSON Schema, or too large.

        Registration refuses such schemas too, but an earlier release did not.
        """
        try:
            check_size(spec.input_schema)
            check_size(spec.output_schema)
            input_validator = compile_schema(spec.input_schema)
            output_validator = compile_schema(spec.output_schema)
        except ValueError as error:
            raise ArtifactError(f"{model_name} {spec.version} has a bad schema: {error}") from None
        return cls(
            model_name=model_name,
            spec=spec,
            dispatcher=dispatcher,
            cache_prefix=cache_prefix_of(model_name, spec),
            input_validator=input_validator,
            output_validator=output_validator,
            input_is_valid=input_validator.is_valid,
            output_is_valid=output_validator.is_valid,
            fails_when_stale=spec.stale_policy is StalePolicy.FAIL,
            limits_waiting=spec.max_waiting is not None or spec.max_waiting_bytes is not None,
            cache_seconds=cache_seconds(spec),
            is_loaded=is_loaded,
        )

    @property
    def falls_back(self) -> bool:
        """Whether the production version answers the requests that this version fails or refuses."""
        return self.spec.fallback is Fallback.PRODUCTION

    def refuse_input(self, value: JsonObject, explanations: Explanations) -> InvalidInputError:
        """The error for an invalid input, with details as far as the budget of `explanations` goes."""
        message = f"input does not match the schema of {self.spec.version}"
        found = explanations.of(self.input_validator, value)
        return InvalidInputError(message if found else f"{message}; {OMITTED}", found or ())

    def refuse_output(self, value: Any, explanations: Explanations) -> InvalidOutputError:
        """The error for invalid predictions, with details as far as the budget of `explanations` goes."""
        message = f"predictions do not match the output schema of {self.spec.version}"
        found = explanations.of(self.output_validator, value)
        return InvalidOutputError(message if found else f"{message}; {OMITTED}", found or ())


def cache_prefix_of(model_name: str, spec: ModelSpec) -> bytes:
    """The beginning of the cache keys of a version, with 64 bits of the SHA-256 of its spec."""
    digest = sha256(canonical(served_form(spec))).hexdigest()[:16]
    return f"{model_name}:{spec.version}:{digest}:".encode()


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A model's route over its loaded versions: `targets[i]` has the buckets below `ends[i]`, from `ends[i - 1]`.

    `versions` are those with traffic, and the rollback target where it is loaded.
    """

    model_name: str
    revision: int
    salt: str
    ends: tuple[int, ...]
    targets: tuple[ServedVersion, ...]
    versions: Mapping[str, ServedVersion]
    production: ServedVersion | None

    @classmethod
    def of(cls, registered: RegisteredModel, versions: Mapping[str, ServedVersion]) -> "ServedModel":
        """Build the route; `versions` holds at least the versions with traffic."""
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
    def is_loaded(self) -> bool:
        """Whether the model has traffic, and every version with traffic is loaded."""
        return bool(self.targets) and all(version.is_loaded for version in self.targets)

    def version_for(self, user_id: str) -> ServedVersion | None:
        """The version of a user; None while no version takes traffic."""
        targets = self.targets
        if len(targets) > 1:
            return targets[bisect_right(self.ends, bucket(self.salt, user_id))]
        return targets[0] if targets else None

    def versions_for(self, user_ids: Sequence[str]) -> list[ServedVersion]:
        """The version of each user; for a model that takes traffic."""
        targets, ends = self.targets, self.ends
        if len(targets) > 1:
            return [targets[bisect_right(ends, number)] for number in buckets(self.salt, user_ids)]
        return [targets[0]] * len(user_ids)


@dataclass(frozen=True, slots=True, eq=False)
class ServingTable:
    """All models of one worker at one epoch of the registry.

    `behind` maps each model that keeps an older route than the registry's to the reason: a version that the
    newer route needs is still loading, or cannot be loaded. `unloadable` has, by model, the versions that cannot be
    loaded with their reasons: those that the newer route needs, and the rollback target. `older_revisions` has the
    revisions of the older routes.
    """

    epoch: int = -1
    models: Mapping[str, ServedModel] = field(default_factory=dict)
    behind: Mapping[str, str] = field(default_factory=dict)
    unloadable: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    older_revisions: Mapping[str, int] = field(default_factory=dict)

    def longest_timeout_seconds(self) -> float:
        """The longest timeout of a call; 0 without versions."""
        return max((version.spec.timeout_ms / 1000 for version in self.versions()), default=0.0)

    def versions(self) -> set[ServedVersion]:
        """The versions of all models."""
        return {version for model in self.models.values() for version in model.versions.values()}
