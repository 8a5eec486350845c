"""Alerts on the real stack: from a model server that becomes slow to the event, through a restart, to its end."""

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson
import pytest
from aiokafka import AIOKafkaProducer

from registry.alert_events import AlertEvents
from registry.alert_rules import AlertRules
from registry.heartbeats import Heartbeats
from registry.metric_windows import MetricWindows
from registry.postgres import Database
from schemas.alert_rules import ModelRules
from schemas.events import Alert, MetricsDelta
from streams.cli.failures import REFUSED
from streams.config.settings import Settings
from tests.support.deadline import Signal, wait_until
from tests.support.kafka.topic_log import TopicLog, topic_log, uncommitted_metrics
from tests.support.metrics.deltas import delta
from tests.support.models.served_model import apply
from tests.support.promotions.events import event, spec
from tests.support.servers.http_server import HttpRequest, answer, http_server, serve_doubler
from tests.support.stack.command import headrace
from tests.support.stack.services import MakeTopics
from tests.support.worker.process import StartWorker
from tests.support.worker.registry_waits import until_all_is_published, until_so_many_live

PARTITIONS = 4
REQUESTS_A_SECOND = 500
USUAL_P99_MS = 180.0


@pytest.fixture
async def opened(database: str) -> AsyncIterator[Database]:
    """An empty registry."""
    opened = await Database.connect(database)
    yield opened
    await opened.close()


class Receiver:
    """Takes alerts as Alertmanager does."""

    def __init__(self) -> None:
        self._told: list[dict[str, Any]] = []
        self._news = Signal()

    def told_of(self, model: str) -> list[dict[str, Any]]:
        """The alerts of a model so far."""
        return [each for each in self._told if each["labels"].get("model_name") == model]

    async def until(self, done: Callable[[], object]) -> None:
        """Wait until `done` is true of the alerts so far."""
        await self._news.until(done, lambda: f"another alert than {self._told}")

    async def serve(self, request: HttpRequest, writer: asyncio.StreamWriter) -> None:
        assert (request.method, request.path) == ("POST", "/api/v2/alerts")
        self._told += request.json()
        self._news.notify()
        writer.write(answer({}))


def history(model: str) -> list[MetricsDelta]:
    """The last forty minutes of a model, each with the same usual latencies."""
    now = datetime.now(UTC)
    return [
        delta(
            minute,
            at=now - timedelta(minutes=40 - minute),
            latencies=(USUAL_P99_MS,) * 60,
            model_name=model,
            worker="earlier",
        )
        for minute in range(40)
    ]


@asynccontextmanager
async def steady_requests(settings: Settings, model: str) -> AsyncIterator[None]:
    """500 requests a second, each with an input of its own, while the block runs."""

    async def send(producer: AIOKafkaProducer) -> None:
        loop = asyncio.get_running_loop()
        start, sent = loop.time(), itertools.count()
        number = next(sent)
        while True:
            while number < (loop.time() - start) * REQUESTS_A_SECOND:
                request = {"request_id": str(number), "model_name": model, "user_id": f"u{number}"}
                await producer.send(
                    settings.topic_requests,
                    orjson.dumps(request | {"input": {"x": number}}),
                    partition=number % PARTITIONS,
                )
                number = next(sent)
            await asyncio.sleep(0.02)

    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer:
        sending = asyncio.create_task(send(producer))
        try:
            yield
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


def alerts_of(log: TopicLog, settings: Settings, model: str) -> list[Alert]:
    """A model's events so far."""
    return [
        Alert.model_validate_json(record.value)
        for record in log.of(settings.topic_alerts)
        if record.key == model.encode()
    ]


class Deltas:
    """A worker's counts of 500 requests a second, published each second; a test sets the latency."""

    def __init__(self, settings: Settings, model: str, producer: AIOKafkaProducer) -> None:
        self.latency_ms = USUAL_P99_MS
        self.published = 0
        self._settings = settings
        self._model = model
        self._producer = producer

    async def run(self) -> None:
        while True:
            counted = delta(
                self.published,
                at=datetime.now(UTC) - timedelta(seconds=1),
                latencies=(self.latency_ms,) * REQUESTS_A_SECOND,
                model_name=self._model,
                revision=2,
            )
            await self._producer.send_and_wait(
                self._settings.topic_metrics, counted.model_dump_json().encode(), key=self._model.encode()
            )
            self.published += 1
            await asyncio.sleep(1.0)


@asynccontextmanager
async def steady_deltas(settings: Settings, model: str) -> AsyncIterator[Deltas]:
    """Publish while the block runs."""
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer:
        deltas = Deltas(settings, model, producer)
        publishing = asyncio.create_task(deltas.run())
        try:
            yield deltas
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)


async def until_counted(settings: Settings, deltas: Deltas, count: int) -> None:
    """Wait until `count` more deltas are published, and the monitors have committed all but the newest of them."""
    enough = deltas.published + count

    async def counted() -> bool:
        return deltas.published >= enough and await uncommitted_metrics(settings, PARTITIONS) <= 1

    await wait_until(counted, f"{count} deltas counted")


async def test_a_model_that_becomes_slow_is_told_once_and_through_a_restart(
    topics: MakeTopics, database: str, opened: Database, start_worker: StartWorker
) -> None:
    """Five times the latency; the monitor that fired the alert is killed, another one resolves it.

    After how many windows it fires is held by the tests of the rules, whose clock is simulated.
    """
    name = f"m-{uuid.uuid4().hex[:12]}"
    receiver, alert_events = Receiver(), AlertEvents(opened)
    await MetricWindows(opened).add("earlier", 0, history(name))
    async with http_server(receiver.serve) as webhook:
        settings = await topics(
            PARTITIONS, postgres_dsn=database, alert_webhook_url=f"{webhook}/api/v2/alerts"
        )
        version = spec("v1", endpoint="http://127.0.0.1:9")
        await apply(database, event("register", name, model=version), event("promote", name, version="v1"))
        rules = orjson.dumps({"latency_baseline": {"clear_seconds": 3}})
        ended = await headrace(
            "alerts", "set", name, "-f", "-", "--reason", "a quick test", settings=settings, stdin=rules
        )
        assert ended.code == 0, ended.stderr
        monitor = start_worker(settings, "monitor")
        await monitor.logged("partitions assigned")
        async with (
            topic_log(settings.kafka_bootstrap, settings.topic_alerts) as log,
            steady_deltas(settings, name) as deltas,
        ):
            await until_counted(settings, deltas, 5)
            await log.to_end()
            assert alerts_of(log, settings, name) == []
            deltas.latency_ms = 5 * USUAL_P99_MS
            await log.until(lambda: alerts_of(log, settings, name), "an alert")
            (fired,) = alerts_of(log, settings, name)
            assert (fired.rule, fired.model_version, fired.state) == ("latency_baseline", "v1", "firing")
            assert fired.baseline == pytest.approx(USUAL_P99_MS, rel=0.011)

            shown = await headrace("alerts", settings=settings)
            assert f"{name} v1: p99 of 1 s is" in shown.stdout
            assert "a quick test" in shown.stdout
            await until_all_is_published(alert_events)
            await receiver.until(lambda: receiver.told_of(name))
            monitor.kill()
            await monitor.ended()
            second = start_worker(settings, "monitor")
            await second.logged("partitions assigned")
            deltas.latency_ms = USUAL_P99_MS
            await log.until(lambda: len(alerts_of(log, settings, name)) > 1, "its end")
            await log.to_end()
            (_, resolved) = alerts_of(log, settings, name)
            assert (resolved.state, resolved.alert_id) == ("resolved", fired.alert_id)
        assert await alert_events.firing() == []
        await until_all_is_published(alert_events)
        await receiver.until(lambda: "startsAt" not in receiver.told_of(name)[-1])
        second.terminate()
        assert await second.ended() == 0
        assert webhook not in second.log
    mine = receiver.told_of(name)
    assert {each["annotations"]["alert_id"] for each in mine} == {fired.alert_id}
    assert mine[0]["startsAt"] < mine[0]["endsAt"]
    assert datetime.fromisoformat(mine[-1]["endsAt"]) == resolved.at.replace(
        microsecond=resolved.at.microsecond // 1000 * 1000
    )


async def test_a_worker_that_dies_and_requests_that_wait_are_told(
    topics: MakeTopics, database: str, opened: Database, start_worker: StartWorker
) -> None:
    """By rules of the installation, which one of two monitors judges."""
    settings = await topics(PARTITIONS, postgres_dsn=database)
    rules = {
        "consumer_lag": {"age_seconds": 2, "hold_seconds": 0},
        "stale_workers": {"silent_seconds": 6, "hold_seconds": 0},
    }
    ended = await headrace("alerts", "set", "-f", "-", settings=settings, stdin=orjson.dumps(rules))
    assert ended.code == 0, ended.stderr
    name = f"m-{uuid.uuid4().hex[:12]}"
    async with (
        http_server(serve_doubler) as url,
        topic_log(settings.kafka_bootstrap, settings.topic_alerts) as log,
    ):
        version = spec("v1", endpoint=f"{url}/v2/models/m")
        await apply(database, event("register", name, model=version), event("promote", name, version="v1"))
        worker = start_worker(settings, "predict")
        monitors = [start_worker(settings, "monitor") for _ in range(2)]
        await asyncio.gather(worker.ready(), *(monitor.ready() for monitor in monitors))
        # The rule can miss the heartbeats only of a worker that has sent one.
        await until_so_many_live(Heartbeats(opened), 1)
        worker.kill()
        async with steady_requests(settings, name):
            await log.until(lambda: len(alerts_of(log, settings, "")) >= 2, "both alerts")
        for monitor in monitors:
            monitor.terminate()
        assert [await monitor.ended() for monitor in monitors] == [0, 0]
        await log.to_end()
        told = alerts_of(log, settings, "")
    assert {alert.rule for alert in told} == {"consumer_lag", "stale_workers"}
    assert {(alert.state, alert.model_version) for alert in told} == {("firing", "")}
    assert len(await AlertEvents(opened).firing()) == len(told) == 2


async def test_one_of_two_monitors_records_an_alert(opened: Database) -> None:
    """The first one; a resolved event counts only for the alert that fires."""
    alert_events = AlertEvents(opened)
    first, second = (alert() for _ in range(2))
    noted = await asyncio.gather(alert_events.record(first), alert_events.record(second))
    assert sorted(noted) == [False, True]
    (fires,) = await alert_events.firing()
    other = first if fires == second else second
    assert not await alert_events.record(other.model_copy(update={"state": "resolved"}))
    assert await alert_events.record(fires.model_copy(update={"state": "resolved"}))
    assert not await alert_events.record(fires.model_copy(update={"state": "resolved"}))
    events = await alert_events.unpublished()
    assert [event.alert.state for event in events] == ["firing", "resolved"]
    for each in events[:1]:
        await alert_events.mark_published(each)
    assert await alert_events.unpublished() == events[1:]
    await alert_events.forget()
    assert await alert_events.unpublished() == events[1:]


def alert() -> Alert:
    return Alert(
        alert_id=str(uuid.uuid4()),
        model_name="m",
        model_version="v1",
        rule="error_rate",
        severity="critical",
        state="firing",
        value=0.5,
        threshold=0.2,
        window_seconds=30,
        at=datetime(2026, 11, 25, tzinfo=UTC),
    )


async def test_rules_are_kept_with_who_set_them_and_never_change(opened: Database) -> None:
    """The last rules are in force; fields that were left out are not stored, so that they follow the defaults."""
    rules = AlertRules(opened)
    await rules.set(
        "m", ModelRules.model_validate_json('{"no_traffic": {"enabled": false}}'), actor="a", reason=""
    )
    last = await rules.set("m", ModelRules(), actor="b", reason="back")
    assert await rules.in_force() == {"m": last}
    trail = await rules.trail("m")
    assert [(change.rules, change.actor) for change in trail] == [
        ({"no_traffic": {"enabled": False}}, "a"),
        ({}, "b"),
    ]
    async with opened.connection() as connection:
        for statement in (
            "UPDATE alert_rules SET actor = 'c'",
            "DELETE FROM alert_rules",
            "TRUNCATE alert_rules",
        ):
            with pytest.raises(asyncpg.RestrictViolationError, match="its rows are history"):
                await connection.execute(statement)


async def test_rules_that_are_none_are_refused_by_name(topics: MakeTopics, database: str) -> None:
    """A misspelt threshold must not seem to be set."""
    settings = await topics(1, postgres_dsn=database)
    await apply(database, event("register", model=spec("v1")))
    for content, told in (
        (b'{"latency_basline": {}}', "latency_basline is not a field; did you mean latency_baseline?"),
        (b'{"error_rate": {"objective": 99}}', "error_rate.objective is not a field"),
        (b'{"error_rate": {"objective_percent": 100}}', "error_rate.objective_percent"),
        (b'{"consumer_lag": {}}', "consumer_lag"),
        (b"[]", "a JSON object is needed, not an array"),
    ):
        ended = await headrace("alerts", "set", "m", "-f", "-", settings=settings, stdin=content)
        assert ended.code == REFUSED
        assert told in ended.stderr
    ended = await headrace("alerts", "set", "nobody", "-f", "-", settings=settings, stdin=b"{}")
    assert ended.code == REFUSED
    assert "UNKNOWN_MODEL" in ended.stderr
    ended = await headrace("alerts", "rules", "m", "--json", settings=settings)
    (document,) = ended.documents
    assert ModelRules.model_validate_json(orjson.dumps(document["rules"])) == ModelRules()
    assert document["trail"] == []
