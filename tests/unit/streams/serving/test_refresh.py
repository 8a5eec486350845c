"""A changed model is served once its versions are loaded; a load that fails moves no traffic."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from registry.follower import EpochFollower
from schemas.errors import (
    BackendUnavailableError,
    LoadPostponedError,
    RegistryUnavailableError,
    SetupError,
)
from schemas.events import RouteHint
from schemas.models import ModelSpec
from streams.serving.active_tables import ActiveTables
from streams.serving.load_journal import Begin
from streams.serving.load_state import RETRY_SECONDS, TARGET_RETRY_SECONDS
from streams.serving.refresh import ServingRefresher
from streams.serving.route_table import ServedVersion, ServingTable
from streams.serving.version_loader import MAX_LOADS
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.served_versions import RecordingBackend, outcomes_of, served_version
from tests.support.registry.memory_registry import MemoryRegistry
from tests.support.worker import pipeline_harness
from tests.support.worker.refresh_harness import Harness, Loader
from tests.support.worker.version_loading import NoJournal, version_loader


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    """A refresher before its first refresh."""
    made = Harness()
    yield made
    await made.refresher.close()


async def test_a_registry_that_never_answers_stops_no_request() -> None:
    """Requests are answered while a call of the registry lasts."""
    asked = asyncio.Event()

    async def never() -> int:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    serving = pipeline_harness.Harness(served_version("m", "v1", RecordingBackend()))
    refresher = ServingRefresher(
        EpochFollower(never, MemoryRegistry().load),
        serving.tables,
        version_loader(Loader()),
        poll_seconds=0.0,
        stale_after_seconds=5.0,
    )
    running = asyncio.create_task(refresher.run())
    await asyncio.wait_for(asked.wait(), DEADLINE_SECONDS)
    answers = await serving.answer(pipeline_harness.request("a"))
    assert answers["a"]["predictions"] == [{"x": 1}]
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await refresher.close()


async def test_loads_what_takes_traffic_and_the_rollback_target(harness: Harness) -> None:
    """Versions with buckets and the previous production; the revision is the registry's."""
    harness.registry.put({"v2": 90, "v3": 10}, previous="v1")
    table = await harness.follow()
    assert harness.load.loaded.keys() == {"v1", "v2", "v3"}
    assert (table.epoch, table.models["m"].revision, table.behind) == (1, 1, {})


async def test_a_version_that_stays_keeps_its_backend(harness: Harness) -> None:
    """Only the new one is loaded."""
    harness.registry.put({"v1": 100})
    kept = (await harness.follow()).models["m"].versions["v1"]
    del harness.load.loaded["v1"]
    harness.registry.put({"v1": 90, "v2": 10})
    table = await harness.follow()
    assert harness.load.loaded.keys() == {"v2"}
    assert table.models["m"].versions["v1"] is kept


async def test_what_is_loaded_is_swapped_in_at_once(harness: Harness) -> None:
    """A rollback waits neither for the load of another model nor for one that it superseded."""
    harness.registry.put({"v2": 100}, previous="v1")
    harness.registry.put({"a": 100}, name="other")
    await harness.follow()
    harness.load.slow = {"b": asyncio.Event(), "v3": asyncio.Event()}
    harness.registry.put({"b": 100}, name="other")
    harness.registry.put({"v2": 90, "v3": 10})
    await harness.refresher.refresh()
    assert harness.tables.current.behind.keys() == {"m", "other"}
    harness.registry.put({"v1": 100})
    await harness.refresher.refresh()
    table = harness.tables.current
    assert (table.epoch, table.models["m"].revision) == (5, 5)
    assert table.models["other"].revision == 2
    assert table.behind.keys() == {"other"}
    harness.load.slow["b"].set()
    table = await harness.follow()
    assert (table.epoch, table.models["other"].revision, table.behind) == (5, 3, {})
    assert "v3" not in harness.load.loaded, "the rollback superseded its load"


async def test_only_what_changed_is_made_anew(harness: Harness) -> None:
    """Unchanged models are the same objects."""
    harness.registry.put({"v1": 100})
    harness.registry.put({"v1": 100}, name="other")
    first = await harness.follow()
    harness.registry.put({"v1": 100}, name="other")
    second = await harness.follow()
    assert second.models["m"] is first.models["m"]
    assert second.models["other"] is not first.models["other"]


async def test_a_load_that_fails_leaves_the_old_route(harness: Harness) -> None:
    """The model keeps its revision, is reported as behind and counted, and is loaded again later."""
    harness.registry.put({"v1": 100})
    first = await harness.follow()
    harness.load.broken = {"v3"}
    harness.registry.put({"v2": 90, "v3": 10})
    second = await harness.follow()
    assert second.models["m"] is first.models["m"]
    assert second.behind == {"m": "v3 cannot be loaded: m v3 is broken"}
    assert harness.failures == [("m", "v3")]
    assert harness.load.loaded["v2"].closed, "a version of a failed load is closed"
    harness.load.broken = set()
    assert (await harness.follow()).behind, "the retry is not due"
    harness.seconds += RETRY_SECONDS
    third = await harness.follow()
    assert (third.models["m"].revision, third.behind) == (2, {})


async def test_a_rollback_target_that_cannot_be_loaded_decides_nothing(harness: Harness) -> None:
    """As after a good version follows a broken one: it is served, and the target is reported and tried again later."""
    harness.load.broken = {"broken"}
    harness.registry.put({"v1": 100})
    await harness.follow()
    harness.registry.put({"broken": 100}, previous="v1")
    assert (await harness.follow()).behind
    harness.registry.put({"v2": 100}, previous="broken")
    table = await harness.follow()
    assert (table.models["m"].revision, table.behind) == (3, {})
    assert table.models["m"].versions.keys() == {"v2"}
    assert table.unloadable == {"m": {"broken": "m broken is broken"}}
    harness.load.broken = set()
    harness.seconds += TARGET_RETRY_SECONDS
    table = await harness.follow()
    assert table.models["m"].versions.keys() == {"v2", "broken"}
    assert table.unloadable == {}
    harness.registry.put({"broken": 100})
    await harness.refresher.refresh()
    assert harness.tables.current.models["m"].revision == 4, "a rollback loads nothing"


async def test_a_start_serves_without_its_rollback_target(harness: Harness) -> None:
    """Whether it fails or hangs, and beside other models whose targets hang."""
    names = [f"m{number}" for number in range(MAX_LOADS + 1)]
    harness.load.slow = {"v1": asyncio.Event()}
    for name in names:
        harness.registry.put({"v2": 100}, name=name, previous="v1")
    await harness.refresher.refresh()
    await harness.refresher.wait_for_loads()
    table = harness.tables.current
    assert table.models.keys() == set(names)
    assert table.behind == {}
    harness.registry.put({"v3": 100}, name="m0", previous="v1")
    await harness.refresher.refresh()
    await harness.refresher.wait_for_loads()
    assert harness.tables.current.models["m0"].revision == len(names) + 1
    harness.load.slow["v1"].set()
    table = await harness.follow()
    assert all(model.versions["v1"].is_loaded for model in table.models.values())


async def test_a_rollback_target_is_loaded_although_the_route_fails(harness: Harness) -> None:
    """Then a rollback helps at once."""
    harness.load.broken = {"v2"}
    harness.registry.put({"v2": 100}, previous="v1")
    table = await harness.follow()
    assert table.models["m"].versions["v1"].is_loaded
    assert table.unloadable == {"m": {"v2": "m v2 is broken"}}
    harness.registry.put({"v1": 100})
    await harness.refresher.refresh()
    table = harness.tables.current
    assert (table.behind, table.unloadable) == ({}, {})
    assert table.models["m"].is_loaded


async def test_a_route_without_traffic_is_no_older_route(harness: Harness) -> None:
    """A model whose first promotion is broken answers with the reason, and the next good one is served."""
    harness.registry.put({})
    await harness.follow()
    harness.load.broken = {"broken"}
    harness.registry.put({"broken": 100})
    table = await harness.follow()
    assert await errors_of(table.models["m"].versions) == {
        "broken": "broken is not loaded on this worker; its log says why"
    }
    harness.registry.put({"v2": 100}, previous="broken")
    table = await harness.follow()
    assert (table.models["m"].is_loaded, table.behind) == (True, {})


async def test_a_rollback_target_that_ended_a_process_waits_for_the_routes() -> None:
    """And no version with traffic waits for it."""
    journal = Ended("one")
    harness = Harness(journal)
    harness.load.slow = {"a": asyncio.Event(), "old": asyncio.Event()}
    harness.registry.put({"a": 100}, name="two", previous="old")
    harness.registry.put({"b": 100}, name="one", previous="c")
    harness.refresher.serving_began()
    await harness.refresher.refresh()
    await harness.until(lambda: ("one", "b") in harness.failures)
    harness.load.slow["a"].set()
    await harness.refresher.wait_for_loads()
    await harness.refresher.refresh()
    await harness.refresher.wait_for_loads()
    assert harness.tables.current.models["one"].versions["b"].is_loaded, "the target of the other hangs"
    harness.load.slow["old"].set()
    assert (await harness.follow()).models["two"].versions["old"].is_loaded
    await harness.refresher.close()


async def test_without_an_older_route_the_other_versions_are_served(harness: Harness) -> None:
    """At a worker's start a broken version answers that it is unavailable, until it is loaded."""
    harness.load.broken = {"v2"}
    harness.registry.put({"v1": 90, "v2": 10})
    first = await harness.follow()
    assert first.behind.keys() == {"m"}
    versions = first.models["m"].versions
    assert await outcomes_of(versions["v1"].dispatcher, [{"x": 1}]) == [[{"x": 1}]]
    (error,) = await outcomes_of(versions["v2"].dispatcher, [{"x": 1}])
    assert isinstance(error, BackendUnavailableError)
    assert error.message.startswith("v2 is not loaded")
    harness.load.broken = set()
    harness.seconds += RETRY_SECONDS
    second = await harness.follow()
    assert second.behind == {}
    assert second.models["m"].versions["v1"] is versions["v1"]
    assert await outcomes_of(second.models["m"].versions["v2"].dispatcher, [{"x": 1}]) == [[{"x": 1}]]


async def test_without_an_older_route_versions_are_served_as_they_are_loaded(harness: Harness) -> None:
    """Production first. The others answer that they are being loaded."""
    harness.load.slow = {"v1": asyncio.Event(), "v2": asyncio.Event()}
    harness.registry.put({"v2": 10, "v1": 90}, canaries=("v2",))
    await harness.refresher.refresh()
    running = asyncio.create_task(harness.refresher.wait_for_loads())
    await harness.until(lambda: harness.tables.current.models)
    versions = harness.tables.current.models["m"].versions
    assert await errors_of(versions) == {
        name: f"{name} is being loaded by this worker" for name in ("v1", "v2")
    }
    harness.load.slow["v1"].set()
    await harness.until(
        lambda: harness.load.loaded and harness.tables.current.models["m"].versions["v1"].is_loaded
    )
    versions = harness.tables.current.models["m"].versions
    assert await errors_of(versions) == {"v2": "v2 is being loaded by this worker"}
    harness.registry.put({"v1": 100})
    table = await harness.follow()
    await running
    assert table.models["m"].versions["v1"] is versions["v1"]
    assert table.behind == {}
    assert harness.load.loaded.keys() == {"v1"}


async def test_what_ended_a_process_is_loaded_when_the_others_are_served() -> None:
    """Not before the start has ended, nor while another version is being loaded."""
    asked: list[bool] = []

    class Journal(NoJournal):
        def attempt(
            self, model_name: str, spec: ModelSpec, *, others_are_served: bool
        ) -> AbstractAsyncContextManager[Begin]:
            if model_name == "m":
                asked.append(others_are_served)
                if not others_are_served:
                    raise LoadPostponedError("it ended a process", 1.0)
            return super().attempt(model_name, spec, others_are_served=others_are_served)

    harness = Harness(Journal())
    harness.registry.put({"v1": 100})
    harness.load.slow = {"a": asyncio.Event()}
    harness.registry.put({"a": 100}, name="other")
    await harness.refresher.refresh()
    await harness.until(lambda: len(harness.failures) == 1)
    harness.refresher.serving_began()
    harness.seconds += 1.0
    await harness.refresher.refresh()
    await harness.until(lambda: len(harness.failures) == 2)
    assert harness.tables.current.behind["m"] == "v1 cannot be loaded: it ended a process"
    harness.load.slow["a"].set()
    await harness.refresher.wait_for_loads()
    harness.seconds += 1.0
    table = await harness.follow()
    assert (asked, table.behind) == ([False, False, True], {})
    await harness.refresher.close()


class Ended(NoJournal):
    """Loads of these models ended a process."""

    def __init__(self, *models: str) -> None:
        self.models = models
        self.asked: list[tuple[str, bool]] = []

    def attempt(
        self, model_name: str, spec: ModelSpec, *, others_are_served: bool
    ) -> AbstractAsyncContextManager[Begin]:
        self.asked.append((model_name, others_are_served))
        if model_name in self.models and not others_are_served:
            raise LoadPostponedError("it ended a process", 0.0)
        return super().attempt(model_name, spec, others_are_served=others_are_served)


async def test_without_others_a_version_that_ended_a_process_is_loaded_before_the_start_ends() -> None:
    """There is nobody to protect, and its requests would fail."""
    journal = Ended("m")
    harness = Harness(journal)
    harness.registry.put({"v1": 100})
    table = await harness.follow()
    assert (journal.asked, table.behind) == ([("m", False), ("m", True)], {})
    assert table.models["m"].versions["v1"].is_loaded
    await harness.refresher.close()


async def test_versions_that_ended_one_process_do_not_wait_for_each_other() -> None:
    """They are loaded one after the other."""
    harness = Harness(Ended("one", "two"))
    harness.load.slow = {"a": asyncio.Event()}
    harness.registry.put({"a": 100}, name="one")
    harness.registry.put({"b": 100}, name="two")
    await harness.refresher.refresh()
    await harness.until(lambda: len(harness.failures) == 2)
    harness.refresher.serving_began()
    await harness.refresher.refresh()
    await harness.until(lambda: len(harness.failures) == 3)
    assert harness.failures[-1][0] == "two"
    harness.load.slow["a"].set()
    await harness.refresher.wait_for_loads()
    assert harness.tables.current.behind.keys() == {"two"}
    assert (await harness.follow()).behind == {}
    await harness.refresher.close()


async def errors_of(versions: Mapping[str, ServedVersion]) -> dict[str, str]:
    """What the versions that are not loaded answer."""
    answers = {name: await outcomes_of(version.dispatcher, [{"x": 1}]) for name, version in versions.items()}
    return {
        name: answer.message
        for name, (answer,) in answers.items()
        if isinstance(answer, BackendUnavailableError)
    }


async def test_a_load_that_swallows_its_cancellation_changes_nothing(harness: Harness) -> None:
    """As `asyncio.wait_for` of Python 3.11 may: the newer route stays, and what was loaded is closed."""
    harness.registry.put({"v1": 100})
    await harness.follow()
    harness.load.slow, harness.load.uncancellable = {"v2": asyncio.Event()}, {"v2"}
    harness.registry.put({"v2": 100})
    await harness.refresher.refresh()
    (load,) = asyncio.all_tasks() - {asyncio.current_task()}
    # It waits by now.
    await asyncio.sleep(0)
    harness.registry.put({"v1": 100})
    table = await harness.follow()
    await load
    assert harness.load.loaded["v2"].closed
    assert harness.tables.current is table
    assert (table.models["m"].revision, table.behind) == (3, {})


async def test_a_load_that_is_cancelled_while_its_journal_ends_leaves_no_backend_open() -> None:
    """A newer revision ends it."""
    ends = asyncio.Event()

    class Journal(NoJournal):
        @asynccontextmanager
        async def attempt(
            self, model_name: str, spec: ModelSpec, *, others_are_served: bool
        ) -> AsyncGenerator[Begin, None]:
            async with super().attempt(model_name, spec, others_are_served=others_are_served) as begin:
                yield begin
            if spec.version == "v2":
                ends.set()
                await asyncio.Event().wait()

    harness = Harness(Journal())
    harness.registry.put({"v1": 100})
    await harness.follow()
    harness.registry.put({"v2": 100})
    await harness.refresher.refresh()
    await asyncio.wait_for(ends.wait(), DEADLINE_SECONDS)
    (load,) = asyncio.all_tasks() - {asyncio.current_task()}
    harness.registry.put({"v1": 100})
    await harness.follow()
    await asyncio.gather(load, return_exceptions=True)
    assert harness.load.loaded["v2"].closed
    await harness.refresher.close()


async def test_a_model_without_traffic_has_no_version_for_a_user(harness: Harness) -> None:
    """The model is known."""
    harness.registry.put({})
    assert (await harness.follow()).models["m"].version_for("u") is None


async def test_an_invalid_schema_is_a_failed_load(harness: Harness) -> None:
    """Its backend is closed and the older route stays; without one, a stand-in answers."""
    harness.registry.put({"v1": 100})
    first = await harness.follow()
    harness.registry.put({"v2": 100}, schema={"type": "nonsense"})
    harness.registry.put({"v3": 100}, name="other", schema={"type": "nonsense"})
    second = await harness.follow()
    assert second.models["m"] is first.models["m"]
    assert second.models["other"].version_for("u") is not None
    assert harness.load.loaded["v2"].closed
    assert harness.load.loaded["v3"].closed


async def test_a_restored_registry_is_read_whole(harness: Harness) -> None:
    """Its epoch is lower. Models that it does not have are not served any more."""
    harness.registry.put({"v1": 100})
    restored = dict(harness.registry.models)
    harness.registry.put({"v1": 100}, name="other")
    await harness.follow()
    harness.registry.now, harness.registry.models = 1, restored
    table = await harness.follow()
    assert (table.epoch, set(table.models)) == (1, {"m"})


async def test_a_restored_registry_ends_the_loads_of_models_that_it_does_not_have(harness: Harness) -> None:
    """Neither a running load nor one that waits for its retry."""
    harness.registry.put({"v1": 100})
    restored = dict(harness.registry.models)
    await harness.follow()
    harness.load.slow, harness.load.broken = {"v2": asyncio.Event()}, {"v3"}
    harness.registry.put({"v3": 100}, name="failing")
    await harness.follow()
    harness.registry.put({"v2": 100}, name="loading")
    await harness.refresher.refresh()
    harness.registry.now, harness.registry.models = 1, restored
    await harness.refresher.refresh()
    harness.load.slow["v2"].set()
    harness.load.broken = set()
    harness.seconds += RETRY_SECONDS
    table = await harness.follow()
    assert (table.epoch, set(table.models), table.behind) == (1, {"m"}, {})
    assert harness.load.loaded.keys() == {"v1"}


async def test_a_hint_with_a_newer_epoch_is_followed(harness: Harness) -> None:
    """Long before the next poll. A hint with the epoch that is served causes no poll."""
    harness.registry.put({"v1": 100})
    await harness.follow()
    harness.registry.put({"v1": 50, "v2": 50})
    running = asyncio.create_task(harness.refresher.run())
    harness.tables.changed.clear()
    harness.refresher.on_hint(RouteHint(model_name="m", revision=1, epoch=1))
    await asyncio.sleep(0)
    assert harness.tables.current.epoch == 1
    harness.refresher.on_hint(RouteHint(model_name="m", revision=2, epoch=2))
    async with asyncio.timeout(DEADLINE_SECONDS):
        while harness.tables.current.models["m"].revision < 2:
            harness.tables.changed.clear()
            await harness.tables.changed.wait()
    running.cancel()


async def test_a_table_without_successful_polls_is_stale(harness: Harness) -> None:
    """Until a poll succeeds."""
    await harness.follow()
    harness.seconds += 5.0
    assert not harness.refresher.is_stale()
    harness.registry.failure = RegistryUnavailableError("down")
    harness.seconds += 0.1
    with pytest.raises(RegistryUnavailableError):
        await harness.refresher.refresh()
    assert harness.refresher.is_stale()
    harness.registry.failure = None
    await harness.follow()
    assert not harness.refresher.is_stale()


async def test_slow_polls_are_not_stale_before_the_next_one_ends(harness: Harness) -> None:
    """The age counts from the end of a poll: with 3 s for each, 1 s apart, the next one ends within 5 s."""
    harness.seconds_per_poll = 3.0
    await harness.follow()
    assert harness.refresher.age_seconds() == 0.0
    harness.seconds += 1.0 + harness.seconds_per_poll
    assert not harness.refresher.is_stale(), "the second poll is about to end"


async def test_a_registry_that_refuses_access_does_not_stop_serving(harness: Harness) -> None:
    """As after a changed password: the worker serves on, and follows when it has access again."""
    harness.registry.put({"v1": 100})
    await harness.follow()
    harness.registry.failure = SetupError("wrong password")
    running = asyncio.create_task(harness.refresher.run())
    async with asyncio.timeout(DEADLINE_SECONDS):
        harness.refresher.poll_now()
        await harness.registry.failed.wait()
        harness.registry.failure = None
        harness.registry.put({"v1": 100})
        harness.refresher.poll_now()
        while harness.tables.current.epoch < 2:
            harness.tables.changed.clear()
            await harness.tables.changed.wait()
    running.cancel()


def test_the_oldest_table_in_use_is_known() -> None:
    """An epoch is not reported while a slice in flight holds an older table."""
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
