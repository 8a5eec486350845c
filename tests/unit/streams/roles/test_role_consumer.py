"""streams/roles/: how much each role fetches ahead, and what it does before it reads."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest
from aiokafka.errors import KafkaConnectionError

from registry.postgres import Database
from schemas.errors import BrokerUnavailableError
from streams.config.identity import Identity
from streams.config.settings import Settings
from streams.kafka.aiokafka_consumer import TransportOptions
from streams.kafka.broker_watch import BrokerWatch
from streams.roles import control_role, log_role, monitor_role, predict_role, role_consumer
from streams.roles.role_consumer import RoleConsumer, RoleContext

SETTINGS = Settings()
CONTEXT = RoleContext(
    SETTINGS, Identity("me", "boot"), MagicMock(), MagicMock(), asyncio.Event(), MagicMock()
)


class Reached(Exception):  # noqa: N818  # no error: ends a role where the test has seen enough
    """The role has got as far as the test follows it."""


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> list[TransportOptions]:
    """The options of each app that is made; a role ends where it makes its app, without a service."""
    made: list[TransportOptions] = []

    def worker_app(given: TransportOptions, **_: object) -> None:
        made.append(given)
        raise Reached

    monkeypatch.setattr(role_consumer, "worker_app", worker_app)
    for module in (control_role, log_role, monitor_role):
        monkeypatch.setattr(module, "partition_counts", AsyncMock())
    monkeypatch.setattr(predict_role, "_pipeline_options", AsyncMock())
    for name in ("tracing", "_refresher", "_cache"):
        monkeypatch.setattr(predict_role, name, lambda *_, **__: nullcontext())
    monkeypatch.setattr(predict_role, "_store", lambda _: nullcontext((None, None)))
    return made


@pytest.mark.parametrize(
    ("role", "max_outstanding"),
    [
        (predict_role.predict_role, 2 * SETTINGS.slices_in_flight),
        (control_role.control_role, 2),
        (monitor_role.monitor_role, 2),
        (log_role.log_role, 3),
    ],
)
async def test_what_each_role_fetches_is_bounded(
    options: list[TransportOptions],
    role: Callable[[RoleContext], AbstractAsyncContextManager[None]],
    max_outstanding: int,
) -> None:
    """The memory of a role follows from it: a slice of the role `log` has 10,000 responses."""
    with pytest.raises(Reached):
        await role(CONTEXT).__aenter__()
    assert [made.max_outstanding for made in options] == [max_outstanding]


async def test_the_log_role_tunes_the_garbage_collector_before_it_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Later, it would stop the event loop for a collection and freeze the objects of the first slices."""
    steps = []

    class Consumer:
        def __init__(self, *_: object, **__: object) -> None: ...

        @asynccontextmanager
        async def reading(self, *_: object, **__: object) -> AsyncIterator[Any]:
            steps.append("read")
            raise Reached
            yield

    monkeypatch.setattr(log_role, "partition_counts", AsyncMock())
    monkeypatch.setattr(log_role, "RoleConsumer", Consumer)
    monkeypatch.setattr(Database, "connect", AsyncMock())
    monkeypatch.setattr(log_role, "tune_garbage_collector", lambda: steps.append("tune"))
    with pytest.raises(Reached):
        await log_role.log_role(CONTEXT).__aenter__()
    assert steps == ["tune", "read"]


async def test_a_broker_that_is_lost_before_a_role_reads_is_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker exits with 3 and a sentence; what the client raises would be a traceback."""
    app = MagicMock()
    app.start = AsyncMock(side_effect=KafkaConnectionError("Unable to bootstrap"))
    monkeypatch.setattr(role_consumer, "worker_app", lambda *_, **__: app)
    monkeypatch.setattr(role_consumer, "watch_of", lambda _: BrokerWatch("broker:9092"))
    consumer = RoleConsumer(CONTEXT, "predict", "requests", group_id="g", slice_max_records=1)
    with pytest.raises(BrokerUnavailableError, match="cannot be reached"):
        await consumer.reading(AsyncMock(), attempts=lambda: 0).__aenter__()
