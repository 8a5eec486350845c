"""PURE: what the registry holds, as immutable values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from schemas.models import ModelSpec, Route, Status

PerModel = TypeVar("PerModel")


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """A version as the registry holds it."""

    spec: ModelSpec
    status: Status


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A model with its current route.

    `versions` are all of its versions, or those that a worker serves: the ones with traffic and the rollback target.
    `previous_production` is the rollback target. Workers keep it loaded if they can, although it is archived.
    `rolled_back` is True when the last change of the traffic was a rollback.
    """

    model_name: str
    revision: int
    route: Route
    versions: Mapping[str, RegisteredVersion]
    previous_production: str | None = None
    rolled_back: bool = False

    @property
    def with_traffic(self) -> frozenset[str]:
        """The versions that the route needs."""
        return frozenset(part.version for part in self.route.ranges)


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[PerModel]):
    """What was read of each model, by name, as of one epoch."""

    epoch: int
    models: Mapping[str, PerModel] = field(default_factory=dict)
