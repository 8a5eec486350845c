"""streams/serving/output_batching.py: rows in batches, each as full as it can be, and none that is refused."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.kafka.offset_tracker import Row
from streams.serving.output_batching import OutputBatcher, OutputTopic
from tests.support.worker.pipeline_harness import MemoryOutput

MAX_BYTES = 1000
# At most what Kafka's format adds to a record in a batch of its own.
FORMAT_BYTES = 100


def row(size: int) -> Row:
    return 1, b"k", b"v" * size, []


def without_value(large: Row) -> Row:
    return large[0], large[1], None, []


class Waiting(MemoryOutput):
    """Has a batch that waits to be sent, with room for some rows."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.joined: list[Row] = []

    def join(self, rows: Any, *_: object) -> tuple[int, Any]:  # type: ignore[override]  # it has a delivery
        self.joined += rows[: self.room]
        delivered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        delivered.set_result(None)
        return min(self.room, len(rows)), delivered


@given(st.lists(st.integers(0, 2 * MAX_BYTES), max_size=20), st.integers(0, 3))
async def test_every_row_is_sent_once_and_in_order(sizes: list[int], room: int) -> None:
    """Whole where the topic accepts it, shrunk where not, and behind the rows that joined a waiting batch."""
    output = Waiting(room)
    batcher = OutputBatcher(output, OutputTopic("t", MAX_BYTES), 3, (without_value,))
    batcher.add(row(size) for size in sizes)
    assert batcher.has_rows == bool(sizes)
    if sizes:
        await batcher.flush()
    assert not batcher.has_rows
    sent = [record.value for _, _, record in output.sent]
    assert [value for _, _, value, _ in output.joined] == [b"v" * size for size in sizes[:room]]
    for size, value in zip(sizes[room:], sent, strict=True):
        if value is None:
            assert size > MAX_BYTES - FORMAT_BYTES
        else:
            assert value == b"v" * size
            assert size < MAX_BYTES
    assert {(topic, partition) for topic, partition, _ in output.sent} <= {("t", 3)}
    await asyncio.gather(*batcher.take_deliveries())


async def test_small_rows_share_a_batch() -> None:
    """Until it is full: three of these fit."""
    output = MemoryOutput()
    batcher = OutputBatcher(output, OutputTopic("t", MAX_BYTES), 0, (without_value,))
    batcher.add(row(300) for _ in range(6))
    await batcher.flush()
    assert len(output.sent) == 6
    assert len(batcher.take_deliveries()) == 2


async def test_a_failed_delivery_is_seen() -> None:
    """Its future raises what the producer raised."""

    class Refusing(MemoryOutput):
        async def send_batch(self, *_: object) -> asyncio.Future[Any]:
            refused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            refused.set_exception(ConnectionError("gone"))
            return refused

    batcher = OutputBatcher(Refusing(), OutputTopic("t", MAX_BYTES), 0, (without_value,))
    batcher.add([row(1)])
    await batcher.flush()
    with pytest.raises(ConnectionError, match="gone"):
        await asyncio.gather(*batcher.take_deliveries())
