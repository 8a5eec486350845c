"""The registry in memory, for tests of what follows it. tests/contract/test_store_port.py holds it to RegistryStore."""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from registry import lifecycle
from registry.follower import NOTHING_KNOWN
from registry.snapshot import RegisteredModel, RegisteredVersion, Snapshot
from schemas.events import JsonObject
from schemas.models import BUCKETS, BucketRange, PromotionEvent, Route, Status
from tests.support.models.served_versions import spec_of

_WITH_TRAFFIC = {Status.CANARY, Status.PRODUCTION}


class MemoryRegistry:
    """Models, each with the epoch of its last change. Calls raise `failure` while it is set."""

    def __init__(self) -> None:
        self.now = 0
        self.failure: Exception | None = None
        self.failed = asyncio.Event()
        self.models: dict[str, tuple[int, RegisteredModel]] = {}

    async def epoch(self) -> int:
        self._raise_failure()
        return self.now

    async def load(self, since_epoch: int = NOTHING_KNOWN) -> Snapshot[RegisteredModel]:
        self._raise_failure()
        changed = {name: model for name, (epoch, model) in self.models.items() if epoch > since_epoch}
        return Snapshot(self.now, {name: _served(model) for name, model in changed.items()})

    async def revisions(self, since_epoch: int = NOTHING_KNOWN) -> Snapshot[int]:
        snapshot = await self.load(since_epoch)
        return Snapshot(snapshot.epoch, {name: model.revision for name, model in snapshot.models.items()})

    async def find(self, model_name: str) -> RegisteredModel | None:
        self._raise_failure()
        return self.models[model_name][1] if model_name in self.models else None

    def apply(self, event: PromotionEvent) -> None:
        """Apply an event as the lifecycle decides; raises PromotionRejectedError."""
        before = self.models[event.model_name][1] if event.model_name in self.models else None
        applied = lifecycle.apply(before, event, datetime.now(UTC))
        if not applied.is_unchanged:
            self._put(applied.model)

    def put(self, weights: dict[str, int], *, name: str = "m", **fields: Any) -> None:
        """Replace a model by one with this traffic in percent; its revision is the epoch."""
        self._put(model_of(name, self.now + 1, weights, **fields))

    @contextmanager
    def failing(self, failure: Exception) -> Iterator[None]:
        """Raise `failure` in every call until the block ends."""
        self.failure = failure
        yield
        self.failure = None

    def _put(self, model: RegisteredModel) -> None:
        self.now += 1
        self.models[model.model_name] = self.now, model

    def _raise_failure(self) -> None:
        if self.failure is not None:
            self.failed.set()
            raise self.failure


def model_of(
    name: str,
    revision: int,
    weights: dict[str, int],
    previous: str | None = None,
    *,
    schema: JsonObject | None = None,
    canaries: Collection[str] = (),
) -> RegisteredModel:
    """A model whose route gives each version its weight in percent."""
    ranges, start = [], 0
    for version, weight in weights.items():
        end = start + weight * BUCKETS // 100
        ranges.append(BucketRange(start=start, end=end, version=version))
        start = end
    versions = {
        name: RegisteredVersion(
            spec_of(name, schema), Status.CANARY if name in canaries else Status.PRODUCTION
        )
        for name in weights
    }
    if previous is not None:
        versions[previous] = RegisteredVersion(spec_of(previous, schema), Status.ARCHIVED)
    return RegisteredModel(name, revision, Route(salt=name, ranges=tuple(ranges)), versions, previous)


def _served(model: RegisteredModel) -> RegisteredModel:
    """The model with the versions that a worker loads."""
    served = {
        name: version
        for name, version in model.versions.items()
        if version.status in _WITH_TRAFFIC or name == model.previous_production
    }
    return replace(model, versions=served)
