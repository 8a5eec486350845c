"""What an `EpochFollower` reads of the registry: the same tests on PostgreSQL and on the registry in memory."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from registry.follower import NOTHING_KNOWN, EpochFollower
from registry.routing import weights_of
from registry.snapshot import RegisteredModel
from registry.store import RegistryStore
from schemas.errors import RegistryUnavailableError
from schemas.models import PromotionEvent
from tests.support.promotions.events import event, spec
from tests.support.registry.memory_registry import MemoryRegistry

# The fixtures of the real thing are chosen at run time, and the stack starts for fixtures known before.
pytestmark = pytest.mark.usefixtures("stack")


@dataclass
class Registry:
    """A registry to read; `apply` applies an event, `make_unavailable` ends its service."""

    reader: Any
    apply: Callable[[PromotionEvent], Awaitable[None]]
    make_unavailable: Callable[[], Awaitable[None]]

    async def promote(self, model_name: str, version: str) -> None:
        await self.apply(event("register", model_name, model=spec(version)))
        await self.apply(event("promote", model_name, version=version))

    async def loaded(self, since_epoch: int = NOTHING_KNOWN) -> Mapping[str, RegisteredModel]:
        models: Mapping[str, RegisteredModel] = (await self.reader.load(since_epoch)).models
        return models


@pytest.fixture
async def postgres(database: str) -> AsyncIterator[Registry]:
    store = await RegistryStore.connect(database)

    async def apply(promotion: PromotionEvent) -> None:
        result = await store.apply(promotion)
        assert result.status == "applied", result.error

    yield Registry(store, apply, store.close)
    await store.close()


def memory() -> Registry:
    registry = MemoryRegistry()

    async def apply(promotion: PromotionEvent) -> None:
        registry.apply(promotion)

    async def make_unavailable() -> None:
        registry.failure = RegistryUnavailableError("down")

    return Registry(registry, apply, make_unavailable)


@pytest.fixture(params=["postgres", "memory"])
def registry(request: pytest.FixtureRequest) -> Registry:
    if request.param == "memory":
        return memory()
    made: Registry = request.getfixturevalue(request.param)
    return made


async def test_an_empty_registry_has_an_epoch(registry: Registry) -> None:
    """It has no models."""
    snapshot = await registry.reader.load()
    assert (snapshot.epoch, snapshot.models) == (await registry.reader.epoch(), {})
    assert await registry.reader.find("m") is None


async def test_every_applied_event_raises_the_epoch_by_one(registry: Registry) -> None:
    """Of whatever model it is; the snapshot has the same epoch."""
    before = await registry.reader.epoch()
    await registry.promote("a", "v1")
    assert await registry.reader.epoch() == before + 2
    await registry.promote("b", "v1")
    assert (await registry.reader.load()).epoch == await registry.reader.epoch() == before + 4


async def test_a_load_has_the_models_that_changed_since(registry: Registry) -> None:
    """All for NOTHING_KNOWN, none for the current epoch or a later one."""
    await registry.promote("a", "v1")
    known = await registry.reader.epoch()
    await registry.promote("b", "v1")
    assert (await registry.loaded()).keys() == {"a", "b"}
    assert (await registry.loaded(known)).keys() == {"b"}
    current = await registry.reader.epoch()
    assert await registry.loaded(current) == {}
    assert await registry.loaded(current + 10) == {}
    assert (await registry.reader.load(current + 10)).epoch == current


async def test_revisions_are_those_of_the_loaded_models(registry: Registry) -> None:
    """Each applied event raises the revision of its model."""
    await registry.promote("a", "v1")
    await registry.promote("b", "v1")
    first = (await registry.reader.revisions()).models
    assert first == {name: model.revision for name, model in (await registry.loaded()).items()}
    known = await registry.reader.epoch()
    await registry.promote("a", "v2")
    later = await registry.reader.revisions(known)
    assert later.epoch == await registry.reader.epoch()
    assert later.models.keys() == {"a"}
    assert later.models["a"] > first["a"]


async def test_a_loaded_model_has_the_versions_that_a_worker_serves(registry: Registry) -> None:
    """Those with traffic and the rollback target; `find` has them all."""
    for version in ("v1", "v2"):
        await registry.promote("m", version)
    for version in ("v3", "v4"):
        await registry.apply(event("register", "m", model=spec(version)))
    await registry.apply(event("canary", "m", version="v3", weight=10))
    model = (await registry.loaded())["m"]
    assert model.previous_production == "v1"
    assert model.versions.keys() == {"v1", "v2", "v3"}
    assert weights_of(model.route) == {"v2": 90, "v3": 10}
    whole = await registry.reader.find("m")
    assert whole.versions.keys() == {"v1", "v2", "v3", "v4"}
    assert whole.route == model.route
    assert {name: whole.versions[name] for name in model.versions} == model.versions


async def test_a_follower_reads_each_change_once(registry: Registry) -> None:
    """The first poll is complete, later ones have the changed models only."""
    await registry.promote("a", "v1")
    follower = EpochFollower(registry.reader.epoch, registry.reader.load)
    first = await follower.poll()
    assert first is not None
    assert first.is_complete
    assert first.models.keys() == {"a"}
    assert await follower.poll() is None
    await registry.promote("b", "v1")
    second = await follower.poll()
    assert second is not None
    assert not second.is_complete
    assert second.models.keys() == {"b"}


async def test_an_unavailable_registry_raises(registry: Registry) -> None:
    """The same error from each reader."""
    await registry.make_unavailable()
    for read in (registry.reader.epoch, registry.reader.load, registry.reader.revisions):
        with pytest.raises(RegistryUnavailableError):
            await read()
    with pytest.raises(RegistryUnavailableError):
        await registry.reader.find("m")
