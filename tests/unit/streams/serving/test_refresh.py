"""streams/serving/refresh.py: what changed is swapped in when it is loaded, and a load that fails moves no traffic."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from registry.follower import EpochFollower
from registry.snapshot import RegisteredModel, RegisteredVersion, Snapshot
from schemas.errors import ArtifactError, BackendUnavailableError, RegistryUnavailableError, SetupError
from schemas.events import JsonObject, RouteHint
from schemas.models import BUCKETS, BucketRange, ModelSpec, Route, Status
from streams.serving.active_tables import ActiveTables
from streams.serving.load_state import RETRY_SECONDS
from streams.serving.refresh import ServingRefresher
from streams.serving.route_table import ServingTable
from streams.serving.version_loader import VersionLoader
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.served_versions import RecordingBackend, RecordingMeter, spec_of


class Loader:
    """Loads a RecordingBackend for each version but the broken ones."""

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.slow: dict[str, asyncio.Event] = {}
        self.uncancellable: set[str] = set()
        self.loaded: dict[str, RecordingBackend] = {}

    async def __call__(self, model_name: str, spec: ModelSpec) -> RecordingBackend:
        if spec.version in self.slow:
            try:
                await self.slow[spec.version].wait()
            except asyncio.CancelledError:
                if spec.version not in self.uncancellable:
                    raise
        if spec.version in self.broken:
            raise ArtifactError(f"{model_name} {spec.version} is broken")
        backend = self.loaded[spec.version] = RecordingBackend()
        return backend


def model_of(
    name: str,
    revision: int,
    weights: dict[str, int],
    previous: str | None = None,
    schema: JsonObject | None = None,
) -> RegisteredModel:
    """A model whose route gives each version so many percent."""
    ranges, start = [], 0
    for version, weight in weights.items():
        end = start + weight * BUCKETS // 100
        ranges.append(BucketRange(start=start, end=end, version=version))
        start = end
    names = [*weights, *([previous] if previous else [])]
    versions = {name: RegisteredVersion(spec_of(name, schema), Status.PRODUCTION) for name in names}
    return RegisteredModel(name, revision, Route(salt=name, ranges=tuple(ranges)), versions, previous)


class Registry:
    """What the store answers to a refresher: models, each with the epoch of its last change."""

    def __init__(self) -> None:
        self.now = 0
        self.failure: Exception | None = None
        self.failed = asyncio.Event()
        self.models: dict[str, tuple[int, RegisteredModel]] = {}

    def put(self, weights: dict[str, int], *, name: str = "m", **fields: Any) -> None:
        """Change a model; its revision is the epoch of the change."""
        self.now += 1
        self.models[name] = self.now, model_of(name, self.now, weights, **fields)

    async def epoch(self) -> int:
        if self.failure is not None:
            self.failed.set()
            raise self.failure
        return self.now

    async def load(self, since_epoch: int = -1) -> Snapshot[RegisteredModel]:
        changed = {name: model for name, (epoch, model) in self.models.items() if epoch > since_epoch}
        return Snapshot(self.now, changed)


class Harness:
    """A refresher and what is around it; `seconds` is its clock."""

    def __init__(self) -> None:
        self.registry, self.load, self.tables = Registry(), Loader(), ActiveTables()
        self.failures: list[tuple[str, str, int]] = []
        self.seconds = 0.0
        self.refresher = ServingRefresher(
            EpochFollower(self.registry.epoch, self.registry.load),
            self.tables,
            VersionLoader(
                self.load,
                meter_of=lambda *_: RecordingMeter(),
                on_load_failed=lambda *failure: self.failures.append(failure),
            ),
            poll_seconds=60.0,
            stale_after_seconds=5.0,
            clock=lambda: self.seconds,
        )

    async def follow(self) -> ServingTable:
        """Refresh, and wait for the loads."""
        await self.refresher.refresh()
        await self.refresher.wait_for_loads()
        return self.tables.current


@pytest.fixture
async def bench() -> AsyncIterator[Harness]:
    """A worker's refresher before its first refresh."""
    made = Harness()
    yield made
    await made.refresher.close()


async def test_loads_what_takes_traffic_and_the_rollback_target(bench: Harness) -> None:
    """Versions with buckets and the previous production are loaded; the revision is the registry's."""
    bench.registry.put({"v2": 90, "v3": 10}, previous="v1")
    table = await bench.follow()
    assert bench.load.loaded.keys() == {"v1", "v2", "v3"}
    assert (table.epoch, table.models["m"].revision, table.behind) == (1, 1, {})


async def test_a_version_that_stays_keeps_its_backend(bench: Harness) -> None:
    """Only the new one is loaded."""
    bench.registry.put({"v1": 100})
    kept = (await bench.follow()).models["m"].versions["v1"]
    del bench.load.loaded["v1"]
    bench.registry.put({"v1": 90, "v2": 10})
    table = await bench.follow()
    assert bench.load.loaded.keys() == {"v2"}
    assert table.models["m"].versions["v1"] is kept


async def test_what_is_loaded_is_swapped_in_at_once(bench: Harness) -> None:
    """A rollback waits for no load: neither its own, nor that of another model, nor one it made pointless."""
    bench.registry.put({"v2": 100}, previous="v1")
    bench.registry.put({"a": 100}, name="other")
    await bench.follow()
    bench.load.slow = {"b": asyncio.Event(), "v3": asyncio.Event()}
    bench.registry.put({"b": 100}, name="other")
    bench.registry.put({"v2": 90, "v3": 10})
    await bench.refresher.refresh()
    assert bench.tables.current.behind.keys() == {"m", "other"}
    bench.registry.put({"v1": 100})
    await bench.refresher.refresh()
    table = bench.tables.current
    assert (table.epoch, table.models["m"].revision) == (5, 5)
    assert table.models["other"].revision == 2
    assert table.behind.keys() == {"other"}
    bench.load.slow["b"].set()
    table = await bench.follow()
    assert (table.epoch, table.models["other"].revision, table.behind) == (5, 3, {})
    assert "v3" not in bench.load.loaded, "nobody needs it any more"


async def test_only_what_changed_is_made_anew(bench: Harness) -> None:
    """The other models are the same objects."""
    bench.registry.put({"v1": 100})
    bench.registry.put({"v1": 100}, name="other")
    first = await bench.follow()
    bench.registry.put({"v1": 100}, name="other")
    second = await bench.follow()
    assert second.models["m"] is first.models["m"]
    assert second.models["other"] is not first.models["other"]


async def test_a_load_that_fails_leaves_the_old_route(bench: Harness) -> None:
    """The model stays at its revision, is told to be behind and counted, and heals after a while."""
    bench.registry.put({"v1": 100})
    first = await bench.follow()
    bench.load.broken = {"v3"}
    bench.registry.put({"v2": 90, "v3": 10})
    second = await bench.follow()
    assert second.models["m"] is first.models["m"]
    assert second.behind == {"m": "v3 cannot be loaded: m v3 is broken"}
    assert bench.failures == [("m", "v3", 2)]
    assert bench.load.loaded["v2"].closed, "what was loaded for nothing is let go of"
    bench.load.broken = set()
    assert (await bench.follow()).behind, "not before it is due"
    bench.seconds += RETRY_SECONDS
    third = await bench.follow()
    assert (third.models["m"].revision, third.behind) == (2, {})


async def test_without_an_older_route_the_others_are_served(bench: Harness) -> None:
    """At a worker's start a broken version answers that it is not available, and heals."""
    bench.load.broken = {"v2"}
    bench.registry.put({"v1": 90, "v2": 10})
    first = await bench.follow()
    assert first.behind.keys() == {"m"}
    versions = first.models["m"].versions
    assert await versions["v1"].dispatcher.infer([{"x": 1}]) == [[{"x": 1}]]
    (error,) = await versions["v2"].dispatcher.infer([{"x": 1}])
    assert isinstance(error, BackendUnavailableError)
    assert error.message.startswith("v2 is not loaded")
    bench.load.broken = set()
    bench.seconds += RETRY_SECONDS
    second = await bench.follow()
    assert second.behind == {}
    assert second.models["m"].versions["v1"] is versions["v1"]
    assert await second.models["m"].versions["v2"].dispatcher.infer([{"x": 1}]) == [[{"x": 1}]]


async def test_a_load_that_swallows_its_cancellation_changes_nothing(bench: Harness) -> None:
    """As `asyncio.wait_for` of Python 3.11 may: the newer route stays, and what was loaded is closed."""
    bench.registry.put({"v1": 100})
    await bench.follow()
    bench.load.slow, bench.load.uncancellable = {"v2": asyncio.Event()}, {"v2"}
    bench.registry.put({"v2": 100})
    await bench.refresher.refresh()
    (load,) = asyncio.all_tasks() - {asyncio.current_task()}
    # It waits by now.
    await asyncio.sleep(0)
    bench.registry.put({"v1": 100})
    table = await bench.follow()
    await load
    assert bench.load.loaded["v2"].closed
    assert bench.tables.current is table
    assert (table.models["m"].revision, table.behind) == (3, {})


async def test_a_model_without_traffic_answers_nobody(bench: Harness) -> None:
    """It is known, but has no version for a user."""
    bench.registry.put({})
    assert (await bench.follow()).models["m"].version_for("u") is None


async def test_a_schema_that_is_none_is_a_failed_load(bench: Harness) -> None:
    """The backend is let go of and the route stays; at a start too, the worker serves the rest."""
    bench.registry.put({"v1": 100})
    first = await bench.follow()
    bench.registry.put({"v2": 100}, schema={"type": "nonsense"})
    bench.registry.put({"v3": 100}, name="other", schema={"type": "nonsense"})
    second = await bench.follow()
    assert second.models["m"] is first.models["m"]
    assert second.models["other"].version_for("u") is not None
    assert bench.load.loaded["v2"].closed
    assert bench.load.loaded["v3"].closed


async def test_a_registry_that_went_back_is_read_whole(bench: Harness) -> None:
    """One restored from a backup has a lower epoch; what is not in it is served no more."""
    bench.registry.put({"v1": 100})
    restored = dict(bench.registry.models)
    bench.registry.put({"v1": 100}, name="other")
    await bench.follow()
    bench.registry.now, bench.registry.models = 1, restored
    table = await bench.follow()
    assert (table.epoch, set(table.models)) == (1, {"m"})


async def test_what_a_registry_that_went_back_does_not_have_is_loaded_no_more(bench: Harness) -> None:
    """Neither what was being loaded then nor what was to be tried again is ever served."""
    bench.registry.put({"v1": 100})
    restored = dict(bench.registry.models)
    await bench.follow()
    bench.load.slow, bench.load.broken = {"v2": asyncio.Event()}, {"v3"}
    bench.registry.put({"v3": 100}, name="failing")
    await bench.follow()
    bench.registry.put({"v2": 100}, name="loading")
    await bench.refresher.refresh()
    bench.registry.now, bench.registry.models = 1, restored
    await bench.refresher.refresh()
    bench.load.slow["v2"].set()
    bench.load.broken = set()
    bench.seconds += RETRY_SECONDS
    table = await bench.follow()
    assert (table.epoch, set(table.models), table.behind) == (1, {"m"}, {})
    assert bench.load.loaded.keys() == {"v1"}


async def test_a_hint_is_followed_if_it_tells_of_anything_new(bench: Harness) -> None:
    """Long before the next poll; one that is known already causes no read."""
    bench.registry.put({"v1": 100})
    await bench.follow()
    bench.registry.put({"v1": 50, "v2": 50})
    running = asyncio.create_task(bench.refresher.run())
    bench.tables.changed.clear()
    bench.refresher.on_hint(RouteHint(model_name="m", revision=1, epoch=1))
    await asyncio.sleep(0)
    assert bench.tables.current.epoch == 1
    bench.refresher.on_hint(RouteHint(model_name="m", revision=2, epoch=2))
    async with asyncio.timeout(DEADLINE_SECONDS):
        while bench.tables.current.models["m"].revision < 2:
            bench.tables.changed.clear()
            await bench.tables.changed.wait()
    running.cancel()


async def test_what_is_not_read_for_long_is_stale(bench: Harness) -> None:
    """Until it is read again."""
    await bench.follow()
    bench.seconds += 5.0
    assert not bench.refresher.is_stale()
    bench.registry.failure = RegistryUnavailableError("down")
    bench.seconds += 0.1
    with pytest.raises(RegistryUnavailableError):
        await bench.refresher.refresh()
    assert bench.refresher.is_stale()
    bench.registry.failure = None
    await bench.follow()
    assert not bench.refresher.is_stale()


async def test_a_registry_that_refuses_us_ends_nothing(bench: Harness) -> None:
    """A password that was changed while a worker ran: it serves on, and follows when it is let in again."""
    bench.registry.put({"v1": 100})
    await bench.follow()
    bench.registry.failure = SetupError("wrong password")
    running = asyncio.create_task(bench.refresher.run())
    async with asyncio.timeout(DEADLINE_SECONDS):
        bench.refresher.poll_now()
        await bench.registry.failed.wait()
        bench.registry.failure = None
        bench.registry.put({"v1": 100})
        bench.refresher.poll_now()
        while bench.tables.current.epoch < 2:
            bench.tables.changed.clear()
            await bench.tables.changed.wait()
    running.cancel()


def test_the_oldest_table_in_use_is_known() -> None:
    """Nothing is told to be followed while a slice is still answered by an older table."""
    tables = ActiveTables()
    old, new = ServingTable(1), ServingTable(2)
    tables.swap(old)
    with tables.in_use():
        with tables.in_use() as used:
            assert used is old
            tables.swap(new)
            with tables.in_use() as used_now:
                assert used_now is new
        assert tables.oldest() is old
        tables.changed.clear()
    assert tables.changed.is_set()
    assert tables.oldest() is new
