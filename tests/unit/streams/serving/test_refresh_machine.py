"""Whatever happens to the registry and to loads, a worker serves what the registry has and leaves no backend open."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from registry.routing import RouteTable
from registry.snapshot import RegisteredModel
from streams.serving.load_state import RETRY_SECONDS, TARGET_RETRY_SECONDS
from streams.serving.route_table import ServedModel, ServedVersion
from tests.support.worker.refresh_harness import Harness

Result = TypeVar("Result")
NAMES = ("a", "b")
VERSIONS = ("v1", "v2", "v3")
names = st.sampled_from(NAMES)
routes = st.sampled_from([["v1"], ["v2"], ["v1", "v3"], ["v2", "v3"]])


def backend_of(version: ServedVersion) -> int:
    """The identity of a version's backend."""
    dispatcher: Any = version.dispatcher
    return id(dispatcher._backend)


def is_current(served: ServedModel, registered: RegisteredModel) -> bool:
    """Whether a model is served as it is registered.

    The revision is not enough: after a restore another route may have the same one.
    """
    table = RouteTable.of(registered.route)
    return (
        served.is_loaded
        and served.revision == registered.revision
        and served.ends == table.ends
        and tuple(target.spec.version for target in served.targets) == table.versions
        and registered.with_traffic <= served.versions.keys() <= registered.versions.keys()
    )


class Refreshing(RuleBasedStateMachine):
    """A worker with two models, whose versions may be broken or slow to load."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.harness = self.run(self._make())
        self.backups: list[tuple[int, dict[str, tuple[int, RegisteredModel]]]] = []

    async def _make(self) -> Harness:
        return Harness()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return self.loop.run_until_complete(coroutine)

    def teardown(self) -> None:
        self.run(self.harness.refresher.close())
        assert all(backend.closed for backend in self.harness.load.opened)
        self.loop.close()

    @initialize()
    def begin(self) -> None:
        self.promote("a", ["v1"], poll=True)

    @rule(name=names, some=routes, previous=st.sampled_from([None, *VERSIONS]), poll=st.booleans())
    def promote(self, name: str, some: list[str], previous: str | None = None, *, poll: bool) -> None:
        registry = self.harness.registry
        self.backups.append((registry.now, dict(registry.models)))
        previous = None if previous in some else previous
        registry.put(dict.fromkeys(some, 100 // len(some)), name=name, previous=previous)
        if poll:
            self.poll()

    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        self.restore_backup(data.draw(st.integers(0, len(self.backups) - 1)))

    def restore_backup(self, number: int) -> None:
        """Go back to the registry before this promotion. A poll sees it; see `registry/follower.py`."""
        registry = self.harness.registry
        now, models = self.backups[number]
        registry.now, registry.models = now, dict(models)
        self.backups = self.backups[: max(number, 1)]
        self.poll()

    @rule(version=st.sampled_from(["v2", "v3"]))
    def break_or_mend(self, version: str) -> None:
        self.harness.load.broken ^= {version}

    @rule()
    def slow_down(self) -> None:
        for version in VERSIONS:
            self.harness.load.slow.setdefault(version, asyncio.Event())

    def speed_up(self) -> None:
        for waiting in self.harness.load.slow.values():
            waiting.set()
        self.harness.load.slow.clear()
        self.run(asyncio.sleep(0))

    @rule()
    def poll(self) -> None:
        """Loads that wait for nothing end too."""
        self.run(self.harness.refresher.refresh())
        self.run(asyncio.sleep(0))

    @rule(seconds=st.sampled_from([1.0, RETRY_SECONDS, TARGET_RETRY_SECONDS]))
    def wait(self, seconds: float) -> None:
        self.harness.seconds += seconds

    @rule()
    def settle(self) -> None:
        """Let every load end, and those that failed be tried again: the table is the registry then."""
        self.speed_up()
        self.harness.seconds += TARGET_RETRY_SECONDS
        table = self.run(self.harness.follow())
        registry = self.harness.registry
        assert table.epoch == registry.now
        assert table.models.keys() == registry.models.keys()
        for name, (_, registered) in registry.models.items():
            current = is_current(table.models[name], registered)
            assert current == (name not in table.behind)
            assert current or self.harness.load.broken & registered.with_traffic
            target = registered.previous_production
            reported = table.unloadable.get(name, {})
            assert target in {
                None,
                *table.models[name].versions,
                *(self.harness.load.broken & reported.keys()),
            }

    @invariant()
    def no_backend_is_lost(self) -> None:
        """Each open one is served, retired or being loaded; and none that is served is closed."""
        refresher = self.harness.refresher
        served = {
            backend_of(version) for version in self.harness.tables.current.versions() if version.is_loaded
        }
        retired = {backend_of(version) for version in refresher._retiring if version.is_loaded}
        open_now = {id(backend) for backend in self.harness.load.opened if not backend.closed}
        assert served <= open_now
        if not refresher._loads._tasks:
            assert open_now <= served | retired

    @invariant()
    def what_is_behind_has_a_reason(self) -> None:
        table = self.harness.tables.current
        assert all(table.behind.values())
        assert all(served.is_loaded for name, served in table.models.items() if name not in table.behind)


TestRefreshing = Refreshing.TestCase
TestRefreshing.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def test_an_older_route_is_behind_when_a_restored_registry_gives_its_revision_to_another_route() -> None:
    """The route to v1 was revision 3. After a restore to revision 2, revision 3 is a route to v2, which is broken."""
    machine = Refreshing()
    machine.begin()
    machine.break_or_mend("v2")
    machine.promote("a", ["v2"], poll=False)
    machine.promote("a", ["v1"], poll=True)
    machine.restore_backup(2)
    machine.promote("a", ["v2"], poll=True)
    machine.settle()
    table = machine.harness.tables.current
    assert (table.models["a"].revision, set(table.models["a"].versions)) == (3, {"v1"})
    assert table.behind == {"a": "v2 cannot be loaded: a v2 is broken"}
    machine.break_or_mend("v2")
    machine.settle()
    table = machine.harness.tables.current
    assert (table.models["a"].revision, set(table.models["a"].versions), table.behind) == (3, {"v2"}, {})
    machine.teardown()
