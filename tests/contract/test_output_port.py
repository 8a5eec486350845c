"""The port `Output` of streams/serving/ports.py: the same tests on Kafka and on the output in memory."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiokafka
import pytest
from aiokafka.structs import TopicPartition

from streams.kafka.aiokafka_consumer import TransportOptions
from streams.kafka.batch_producer import OutputBatch
from streams.kafka.faust_app import output_of, worker_app
from streams.kafka.memberships import members_folder
from streams.kafka.offset_tracker import Row, Slice
from streams.kafka.record_source import Headers
from streams.kafka.slice_agent import slice_agent
from streams.kafka.stepping_over import StepOver
from streams.serving.ports import Output
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.stack.services import MakeTopics
from tests.support.worker.pipeline_harness import MemoryOutput

# The fixtures of the real thing are chosen at run time, and the stack starts for fixtures known before.
pytestmark = pytest.mark.usefixtures("stack")

PARTITION = 1
ROWS: list[Row] = [
    (1_700_000_000_001, b"user", b'{"x": 1}', [("trace", b"\x00"), ("trace", b"again")]),
    (1_700_000_000_002, None, b"\xff", []),
    (1_700_000_000_003, b"", None, []),
]


@dataclass
class Sent:
    """An output, and what reads `count` records of a partition back as rows."""

    output: Output
    topic: str
    read: Callable[[int, int], Awaitable[list[Row]]]


def row_of(record: Any) -> Row:
    return record.timestamp, record.key, record.value, list(record.headers)


async def nothing_to_handle(handled: Slice) -> None:
    raise AssertionError(f"unexpected records: {handled.records}")


async def nothing_to_send(headers: Headers) -> None:
    raise AssertionError(f"unexpected dead letter: {headers}")


@pytest.fixture
async def kafka_output(topics: MakeTopics) -> AsyncIterator[Sent]:
    settings = await topics(partitions=2)
    faults: list[BaseException] = []
    options = TransportOptions(
        bootstrap=settings.kafka_bootstrap,
        group_id=settings.group_id,
        client_id="output-port",
        slice_max_records=10,
        max_outstanding=1,
        fetch_max_bytes=1024 * 1024,
        batch_max_bytes=64 * 1024 * 1024,
        members_folder=members_folder(settings),
    )
    app = worker_app(options, on_fault=faults.append)
    # Faust needs an agent to start.
    slice_agent(
        app,
        settings.topic_requests,
        nothing_to_handle,
        step_over=StepOver(nothing_to_send),
        slices_in_flight=1,
        on_fault=faults.append,
    )

    async def read(partition: int, count: int) -> list[Row]:
        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=settings.kafka_bootstrap, auto_offset_reset="earliest", enable_auto_commit=False
        )
        await consumer.start()
        try:
            consumer.assign([TopicPartition(settings.topic_responses, partition)])
            async with asyncio.timeout(DEADLINE_SECONDS):
                return [row_of(await consumer.getone()) for _ in range(count)]
        finally:
            await consumer.stop()

    await app.start()
    try:
        yield Sent(output_of(app), settings.topic_responses, read)
    finally:
        await app.stop()
    assert faults == []


def memory_output() -> Sent:
    output = MemoryOutput()

    async def read(partition: int, count: int) -> list[Row]:
        rows = [
            row_of(record) for topic, to, record in output.sent if (topic, to) == ("responses", partition)
        ]
        assert len(rows) == count
        return rows

    return Sent(output, "responses", read)


@pytest.fixture(params=["kafka_output", "memory"])
def sent(request: pytest.FixtureRequest) -> Sent:
    if request.param == "memory":
        return memory_output()
    made: Sent = request.getfixturevalue(request.param)
    return made


def batch_of(*rows: Row) -> OutputBatch:
    batch = OutputBatch()
    assert all(batch.add(*row) for row in rows)
    return batch


async def delivered(delivery: Awaitable[Any]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        await delivery


async def test_a_batch_is_delivered_as_it_is(sent: Sent) -> None:
    """To its partition, in order, with timestamps, keys, values and headers; absent is not empty."""
    await delivered(await sent.output.send_batch(batch_of(*ROWS), sent.topic, PARTITION))
    assert await sent.read(PARTITION, len(ROWS)) == ROWS


async def test_a_delivered_batch_takes_no_more(sent: Sent) -> None:
    """Its size is known by then; neither `add` nor `join` extends it."""
    batch = batch_of(ROWS[0])
    await delivered(await sent.output.send_batch(batch, sent.topic, PARTITION))
    assert not batch.add(*ROWS[1])
    assert sent.output.join([ROWS[1]], sent.topic, PARTITION) == (0, None)
    assert await sent.read(PARTITION, 1) == ROWS[:1]


async def test_nothing_to_join(sent: Sent) -> None:
    """Without a batch of the partition no row is taken."""
    assert sent.output.join(ROWS, sent.topic, PARTITION) == (0, None)
    assert sent.output.join([], sent.topic, PARTITION) == (0, None)


async def test_joined_rows_follow_the_batch_and_precede_the_next(sent: Sent) -> None:
    """`join` takes the first rows, perhaps none; they have a delivery exactly when there are any."""
    first = await sent.output.send_batch(batch_of(ROWS[0]), sent.topic, PARTITION)
    count, joined = sent.output.join(ROWS[1:], sent.topic, PARTITION)
    assert 0 <= count <= 2
    assert (joined is None) == (count == 0)
    deliveries = [first] if joined is None else [first, joined]
    if count < 2:
        rest = batch_of(*ROWS[1 + count :])
        deliveries.append(await sent.output.send_batch(rest, sent.topic, PARTITION))
    for delivery in deliveries:
        await delivered(delivery)
    assert await sent.read(PARTITION, len(ROWS)) == ROWS


async def test_batches_of_a_partition_keep_their_order(sent: Sent) -> None:
    """They may be handed over together."""
    rows: list[Row] = [(1_700_000_000_000 + number, b"k", b"%d" % number, []) for number in range(50)]
    deliveries = [await sent.output.send_batch(batch_of(row), sent.topic, PARTITION) for row in rows]
    for delivery in deliveries:
        await delivered(delivery)
    assert await sent.read(PARTITION, len(rows)) == rows


async def test_an_abandoned_delivery_does_not_stop_the_batch(sent: Sent) -> None:
    """A caller that is cancelled while it waits leaves the records on their way."""
    delivery = await sent.output.send_batch(batch_of(*ROWS), sent.topic, PARTITION)
    delivery.cancel()
    assert await sent.read(PARTITION, len(ROWS)) == ROWS
