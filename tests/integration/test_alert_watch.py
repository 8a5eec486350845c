"""streams/monitoring/watch.py over PostgreSQL: a monitor that starts, falls behind or loses its models."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from registry.alert_events import AlertEvents
from registry.metric_windows import MetricWindows
from registry.postgres import Database
from schemas.alert_rules import GlobalRules, ModelRules
from schemas.errors import BrokerUnavailableError
from schemas.events import Alert
from streams.monitoring.watch import NOT_EVALUATED, AlertWatch
from streams.process.background import failed_steps
from tests.support.deadline import DEADLINE_SECONDS, wait_until
from tests.support.metrics.deltas import delta
from tests.support.stack.services import execute
from tests.support.worker.registry_waits import until_all_is_published


@pytest.fixture
async def opened(database: str) -> AsyncIterator[Database]:
    """An empty registry."""
    opened = await Database.connect(database)
    yield opened
    await opened.close()


@dataclass
class Followed:
    """Each model has one version, which gets everything."""

    model_rules: Mapping[str, ModelRules] = field(default_factory=dict)
    global_rules: GlobalRules = field(default_factory=GlobalRules)

    def route_of(self, model_name: str) -> tuple[Mapping[str, float], str | None, str | None]:  # noqa: ARG002
        return {"v1": 1.0}, "v1", None


@dataclass
class Assigned:
    """The models that a test assigns; `asked` records them before each evaluation."""

    read: bool = True
    mine: frozenset[str] = frozenset({"m"})
    generation: int = 1
    settled: bool = True
    asked: list[str] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def owns(self, model_name: str) -> bool:
        return model_name in self.mine

    def is_read(self, model_name: str) -> bool:
        self.asked.append(model_name)
        self.news.set()
        return self.read

    def partition_of(self, model_name: str) -> int:  # noqa: ARG002
        return 0

    async def judged(self, times: int) -> None:
        """Wait for this many further evaluations."""
        until = len(self.asked) + times
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(self.asked) < until:
                self.news.clear()
                await self.news.wait()


@dataclass
class Broker:
    """Where events are published, unless it is away."""

    published: list[Alert] = field(default_factory=list)
    away: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def publish(self, alert: Alert) -> None:
        self.changed.set()
        if self.away:
            raise BrokerUnavailableError("away")
        self.published.append(alert)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(self.published) < count:
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def watching(opened: Database, assigned: Assigned, broker: Broker) -> AsyncIterator[AlertWatch]:
    """A watch that judges and publishes while the block runs."""
    told: list[Alert] = []
    watch = AlertWatch(
        MetricWindows(opened),
        AlertEvents(opened),
        Followed(),
        assigned,
        publish=broker.publish,
        notify=told.append,
    )
    tasks = [
        asyncio.create_task(watch.run_evaluation_loop()),
        asyncio.create_task(watch.run_publishing_loop()),
    ]
    try:
        yield watch
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended


async def failing(opened: Database, *model_names: str) -> None:
    """Models whose requests of the last minutes all failed; only `m` when none is named."""
    now = datetime.now(UTC)
    for model_name in model_names or ("m",):
        deltas = [
            delta(
                second,
                at=now - timedelta(seconds=600 - second),
                boot_id=model_name,
                model_name=model_name,
                requests=10,
                ok=0,
                errors={"INTERNAL": 10},
            )
            for second in range(600)
        ]
        await MetricWindows(opened).add("earlier", 0, deltas)


async def refuse(dsn: str, event: str, table: str, model_name: str) -> None:
    """Let PostgreSQL raise an error that nobody foresaw at this event of rows of the model."""
    await execute(
        dsn,
        f"""
        CREATE FUNCTION refuse_{table}() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'a trigger of the test' USING ERRCODE = 'P0001'; END $$;
        CREATE TRIGGER refuse_{table} BEFORE {event} ON {table} FOR EACH ROW
        WHEN (NEW.model_name = '{model_name}') EXECUTE FUNCTION refuse_{table}();
        """,
    )


async def test_what_is_not_read_yet_is_not_judged(opened: Database) -> None:
    """Deltas that wait after a restart are no silence, and do not hide that a fault is over."""
    await failing(opened)
    assigned, broker = Assigned(read=False), Broker()
    async with watching(opened, assigned, broker):
        await assigned.judged(3)
        assert await AlertEvents(opened).firing() == []
        assigned.read = True
        await broker.until(1)
    (fired,) = broker.published
    assert (fired.rule, fired.state, fired.value) == ("error_rate", "firing", 1.0)


async def test_what_fires_is_not_told_again_by_who_comes_next(opened: Database) -> None:
    """Not after a restart, nor after partitions changed hands."""
    await failing(opened)
    broker = Broker()
    assigned = Assigned()
    async with watching(opened, assigned, broker) as watch:
        await broker.until(1)
        # A monitor that ends before this is recorded leaves the event to the next one, which publishes it again.
        await until_all_is_published(AlertEvents(opened))
        assigned.generation += 1
        await assigned.judged(2)
        assert watch.firing == broker.published
    again = Assigned()
    async with watching(opened, again, broker) as watch:
        await again.judged(2)
        assert watch.firing == broker.published
    assert len(broker.published) == 1


async def test_models_of_other_monitors_are_left_to_them(opened: Database) -> None:
    """Neither judged, nor published in their place."""
    await failing(opened)
    mine, broker = Assigned(), Broker(away=True)
    async with watching(opened, mine, broker):
        async with asyncio.timeout(DEADLINE_SECONDS):
            await broker.changed.wait()
    others, other = Assigned(mine=frozenset()), Broker()
    async with watching(opened, others, other) as watch:
        # Nothing is begun, so nothing is judged: it is begun by its deltas, if at all.
        await watch.begin(["m"])
        assert watch.firing == []
        assert others.asked == []
    assert other.published == []
    assert len(await AlertEvents(opened).unpublished()) == 1


async def test_an_event_that_could_not_be_published_is_published_later(opened: Database) -> None:
    """By whoever watches the model then, with the same id."""
    await failing(opened)
    broker = Broker(away=True)
    async with watching(opened, Assigned(), broker):
        async with asyncio.timeout(DEADLINE_SECONDS):
            await broker.changed.wait()
    assert broker.published == []
    (noted,) = await AlertEvents(opened).unpublished()
    broker.away = False
    async with watching(opened, Assigned(), broker):
        await broker.until(1)
    assert broker.published == [noted.alert]


async def test_a_model_whose_alerts_cannot_be_recorded_keeps_no_other(
    database: str, opened: Database
) -> None:
    """PostgreSQL refuses the rows of one model: those of the others fire; once it takes them, its own do too."""
    await failing(opened, "a", "m", "z")
    await refuse(database, "INSERT", "alert_states", "m")
    assigned, broker = Assigned(mine=frozenset({"a", "m", "z"})), Broker()
    before = failed_steps[NOT_EVALUATED]
    async with watching(opened, assigned, broker):
        await broker.until(2)
        assert {alert.model_name for alert in broker.published} == {"a", "z"}

        async def counted() -> bool:
            return failed_steps[NOT_EVALUATED] > before

        await wait_until(counted, "a failure that is counted")
        await execute(database, "DROP TRIGGER refuse_alert_states ON alert_states")
        await broker.until(3)
    assert broker.published[2].model_name == "m"


async def test_an_event_that_cannot_be_published_keeps_no_other(database: str, opened: Database) -> None:
    """The oldest one is tried again and again, and those behind it are published once."""
    await failing(opened, "a", "m", "z")
    assigned, broker = Assigned(mine=frozenset({"a", "m", "z"})), Broker(away=True)
    async with watching(opened, assigned, broker):
        await wait_until(partial(_recorded, opened, 3), "three events")
    first, *others = [event.alert for event in await AlertEvents(opened).unpublished()]
    await refuse(database, "UPDATE", "alert_events", first.model_name)
    broker.away = False
    async with watching(opened, assigned, broker):
        await wait_until(partial(_recorded, opened, 1), "one event")
    assert [alert for alert in broker.published if alert != first] == others


async def test_a_stored_alert_that_cannot_be_read_keeps_no_other(database: str, opened: Database) -> None:
    """As another release stores them: its event is left alone, and its state is replaced when the alert fires."""
    await failing(opened, "a", "m")
    unreadable = '{"alert_id": "x", "model_name": "a", "rule": "error_rate"}'
    await execute(
        database,
        f"INSERT INTO alert_states VALUES ('a', 'v1', 'error_rate', '{unreadable}');"
        f"INSERT INTO alert_events (model_name, alert) VALUES ('a', '{unreadable}');",
    )
    assigned, broker = Assigned(mine=frozenset({"a", "m"})), Broker()
    async with watching(opened, assigned, broker):
        await broker.until(2)
    assert {alert.model_name for alert in broker.published} == {"a", "m"}


async def _recorded(opened: Database, count: int) -> bool:
    return len(await AlertEvents(opened).unpublished()) == count
