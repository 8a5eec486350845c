"""streams/kafka/broker_watch.py: one line when Kafka or a topic is lost, one when it is in use again."""

import asyncio
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, NodeNotReadyError, NotEnoughReplicasError
from structlog.testing import capture_logs

from streams.kafka import broker_watch
from streams.kafka.broker_watch import BrokerWatch, RepeatLimit

REACHED = "Kafka in use again"
LOST = "Kafka lost"


class Clock:
    """A clock that stands."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(clock: Clock) -> BrokerWatch:
    return BrokerWatch("broker:9092", clock)


def line(
    message: str, *arguments: Any, name: str = "aiokafka.client", level: int = logging.ERROR
) -> logging.LogRecord:
    return logging.LogRecord(name, level, "file.py", abs(hash(message)) % 1000, message, arguments, None)


def test_a_loss_and_a_return_are_one_line_each(watch: BrokerWatch, clock: Clock) -> None:
    """However many clients and attempts there are."""
    with capture_logs() as logged:
        for client in ("consumer", "producer", "consumer"):
            watch.found(client, is_reached=False, topics={})
        clock.now += 12.34
        watch.found("producer", is_reached=True, topics={})
        assert [each["event"] for each in logged] == [LOST]
        for client in ("consumer", "producer"):
            watch.found(client, is_reached=True, topics={})
    assert [each["event"] for each in logged] == [LOST, REACHED]
    assert logged[0]["bootstrap"] == "broker:9092"
    assert logged[1]["lost_seconds"] == 12.3


def test_a_topic_is_lost_and_found(watch: BrokerWatch) -> None:
    """By its name; others are not concerned, and neither is Kafka."""
    with capture_logs() as logged:
        for _ in range(3):
            watch.found("consumer", is_reached=True, topics={"t": False, "other": True})
        watch.found("consumer", is_reached=True, topics={"t": True, "other": True})
    assert [(each["event"], each["topic"]) for each in logged] == [
        ("topic lost", "t"),
        ("topic in use again", "t"),
    ]


@pytest.mark.parametrize(
    "record",
    [
        line("Unable connect to node with id %s: %s", 1, OSError("refused")),
        line("Failed fetch messages from %s: %s", 1, NodeNotReadyError()),
        line("Group Coordinator Request failed: %s", KafkaConnectionError("closed")),
        line("Heartbeat send request failed: %s. Will retry.", TimeoutError()),
        line("Got error produce response: %s", KafkaConnectionError),
        line("Unable to update metadata from %s", [1]),
    ],
)
def test_lines_about_a_broker_that_is_not_reached_are_left_out(
    watch: BrokerWatch, record: logging.LogRecord
) -> None:
    """The watch says it itself, with the last of them as the reason."""
    assert not watch.filter(record)
    with capture_logs() as logged:
        watch.found("consumer", is_reached=False, topics={})
    assert logged[0]["reason"] == record.getMessage()


def test_other_lines_are_written_once_in_a_while(watch: BrokerWatch, clock: Clock) -> None:
    """Each kind by itself, with the number of those that were left out."""

    def refused() -> logging.LogRecord:
        return line("Got error produce response on %s, retrying. Error: %s", "t", NotEnoughReplicasError)

    assert watch.filter(refused())
    assert not any(watch.filter(refused()) for _ in range(4))
    assert watch.filter(line("something else"))
    clock.now += broker_watch.REPEAT_SECONDS
    later = refused()
    assert watch.filter(later)
    assert later.left_out == 4  # type: ignore[attr-defined]  # a field of the line


def test_what_the_libraries_say_of_a_lost_broker_is_left_out(watch: BrokerWatch) -> None:
    """But not what others say, and not what is critical."""
    watch.found("consumer", is_reached=False, topics={})
    assert not watch.filter(line("Commit failed, retrying", name="streams.kafka.transport"))
    assert watch.filter(line("fault", name="streams.worker"))
    assert watch.filter(line("the end", level=logging.CRITICAL))


@pytest.fixture
def at_debug_level() -> Iterator[None]:
    logger = logging.getLogger("aiokafka")
    before = logger.level
    logger.setLevel(logging.DEBUG)
    yield
    logger.setLevel(before)


@pytest.mark.usefixtures("at_debug_level")
def test_level_debug_shows_all(watch: BrokerWatch) -> None:
    """Somebody looks for the cause."""
    watch.found("consumer", is_reached=False, topics={})
    assert all(watch.filter(line("Unable to update metadata from %s", [1])) for _ in range(3))


def test_the_filter_ends_with_its_block(watch: BrokerWatch) -> None:
    """The handlers are those of the process."""
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        with watch.filtering():
            assert watch in handler.filters
        assert watch not in handler.filters
    finally:
        logging.getLogger().removeHandler(handler)


class Client:
    """An aiokafka client whose broker does not answer."""

    def __init__(self) -> None:
        self._sync_task: object = object()
        self.asked = asyncio.Event()
        self.asked_times = 0

    async def _metadata_update(self, *_: object) -> bool:
        return False

    def force_metadata_update(self) -> None:
        self.asked.set()
        self.asked_times += 1


async def test_a_lost_broker_is_asked_for_again(watch: BrokerWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise its return would be noticed at the next regular update."""
    monkeypatch.setattr(broker_watch, "LOOK_AGAIN_SECONDS", 0)
    client = Client()
    watch.follow(client)
    with capture_logs() as logged:
        assert not await client._metadata_update(SimpleNamespace(), ["t"])
    assert [each["event"] for each in logged] == [LOST]
    await asyncio.wait_for(client.asked.wait(), 10)


async def test_failed_updates_have_one_timer(watch: BrokerWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each client; the next failed update after it schedules the next one."""
    monkeypatch.setattr(broker_watch, "LOOK_AGAIN_SECONDS", 0)
    clients = (Client(), Client())
    for client in clients:
        watch.follow(client)
    for times in (1, 2):
        for client in clients:
            client.asked.clear()
            for _ in range(5):
                await client._metadata_update(SimpleNamespace(), ["t"])
        for client in clients:
            await asyncio.wait_for(client.asked.wait(), 10)
        assert [client.asked_times for client in clients] == [times, times]


async def test_a_closed_client_does_not_look_again(
    watch: BrokerWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its timer ends without a look."""
    monkeypatch.setattr(broker_watch, "LOOK_AGAIN_SECONDS", 0)
    closed, other = Client(), Client()
    for client in (closed, other):
        watch.follow(client)
        await client._metadata_update(SimpleNamespace(), ["t"])
    closed._sync_task = None
    await asyncio.wait_for(other.asked.wait(), 10)
    assert closed.asked_times == 0


def test_the_limit_counts_by_kind() -> None:
    """One of each kind; the count begins anew with each that is written."""
    limit = RepeatLimit(10.0)
    assert [limit.admit("a", now) for now in (0.0, 1.0, 9.9, 10.0, 10.1)] == [0, None, None, 2, None]
    assert limit.admit("b", 10.1) == 0
