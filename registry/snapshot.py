"""The immutable route table that each worker holds.

A slice of requests captures one snapshot and is routed by it to its end; a refresh replaces the
whole snapshot and changes none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.models import ModelSpec, Route, Status


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """A version as the registry holds it."""

    spec: ModelSpec
    status: Status


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A model with all its versions and its current route.

    `previous_production` is the rollback target, kept loaded though archived.
    """

    model_name: str
    revision: int
    route: Route
    versions: Mapping[str, RegisteredVersion]
    previous_production: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything routable at one epoch."""

    epoch: int
    models: Mapping[str, RegisteredModel] = field(default_factory=dict)
