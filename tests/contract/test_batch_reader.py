"""streams/kafka/batch_reader.py on aiokafka's own buffers: every record once, in order, whatever its header names."""

import asyncio
import gc
import gzip
import struct
import time
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from aiokafka.codec import zstd_encode
from aiokafka.consumer.fetcher import Fetcher, FetchResult, PartitionRecords
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from streams.kafka import batch_reader
from streams.kafka.batch_parsing import UnreadableBatch
from streams.kafka.batch_reader import BatchReader, KeptRecords
from streams.kafka.offset_tracker import memory_of
from tests.support.kafka.raw_batches import HEADER_BYTES, packed, sealed, undated

PARTITION = TopicPartition("t", 0)
LIMIT = 1 << 20
CONTROL = 1 << 5
"""The bit of a batch that is a marker of a transaction, in the second byte of its attributes."""
ABORT = bytes(4)


class Assignment:
    """Stands for the consumer's: active, and at whatever position was consumed to."""

    active = True
    highwater = 10_000

    def __init__(self, position: int) -> None:
        self.position, self.paused = position, False

    def state_value(self, _: object) -> "Assignment":
        return self

    def consumed_to(self, position: int) -> None:
        self.position = position


def batch_of(
    first: int, count: int, *, compression: int = 0, names: tuple[str, ...] = (), key: bytes = b"k"
) -> bytearray:
    """A Kafka batch of records whose values are their offsets."""
    builder = BatchBuilder(1 << 20, compression)
    for offset in range(first, first + count):
        headers = [(name, b"1") for name in names]
        builder.append(timestamp=7, key=key, value=str(offset).encode(), headers=headers)
    raw = bytearray(builder._build())
    raw[0:8] = struct.pack(">q", first)
    return raw


def with_bad_name(raw: bytearray) -> bytearray:
    """The same batch with NAME replaced by bytes that are no UTF-8."""
    at = bytes(raw).index(b"NAME")
    raw[at : at + 4] = b"\xff\xfe\xff\xfe"
    return sealed(raw)


class Fetched:
    """Fetched buffers of partitions, behind aiokafka's own look at them."""

    fetched_records = Fetcher.fetched_records
    _subscriptions = SimpleNamespace(reassignment_in_progress=False, is_assigned=lambda _: True)
    _wait_consume_future = None

    def __init__(self, reader: BatchReader, results: dict[TopicPartition, FetchResult]) -> None:
        self._reader, self._records = reader, results

    def _notify(self, _: object) -> None:
        """Nobody waits."""

    def parts(self, limit: int) -> Iterator[dict[TopicPartition, list[Any]]]:
        """What one look after the other takes, until nothing is left."""
        with asyncio.Runner() as runner:
            while self._records:
                if found := runner.run(self._reader.fetched_records(self, (), limit)):
                    yield dict(found)
                elif self._records:
                    assert self._reader.large is not None
                    runner.run(self._reader.wait(self, 0))

    def drained(self, limit: int) -> list[list[Any]]:
        return [records for part in self.parts(limit) for records in part.values()]


def buffer_of(partition: TopicPartition, *batches: bytes | bytearray, position: int = 0) -> FetchResult:
    records = PartitionRecords(
        partition, KeptRecords(b"".join(batches)), [], position, None, None, True, "read_uncommitted"
    )
    return FetchResult(partition, assignment=Assignment(position), partition_records=records, backoff=0)


def fetched_of(
    *batches: bytes | bytearray, position: int = 0, reader: BatchReader | None = None
) -> tuple[Fetched, Assignment]:
    result = buffer_of(PARTITION, *batches, position=position)
    return Fetched(reader or BatchReader(LIMIT, 100 * LIMIT), {PARTITION: result}), result._assignment


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(1, 15), st.integers(0, 10))
def test_every_record_once_and_in_order(sizes: list[int], limit: int, position: int) -> None:
    """Batches of any size, parts of any size, a fetch that begins within the first batch."""
    starts = [sum(sizes[:at]) for at in range(len(sizes))]
    position = min(position, sizes[0] - 1)
    batches = [batch_of(start, size) for start, size in zip(starts, sizes, strict=True)]
    fetched, assignment = fetched_of(*batches, position=position)
    parts = fetched.drained(limit)
    assert [record.offset for part in parts for record in part] == list(range(position, sum(sizes)))
    assert all(1 <= len(part) <= limit for part in parts)
    assert assignment.position == sum(sizes)


def test_positions_go_beyond_what_was_compacted_away() -> None:
    """The last offset of a batch counts although its record is gone."""
    raw = batch_of(0, 3)
    struct.pack_into(">i", raw, 23, 9)
    fetched, assignment = fetched_of(sealed(raw))
    assert [len(part) for part in fetched.drained(10)] == [3]
    assert assignment.position == 10


@pytest.mark.parametrize("compression", [0, 1])
def test_a_header_name_that_is_no_text_is_read(compression: int) -> None:
    """Its batch comes whole, with U+FFFD in the name, and those around it as they are."""
    if compression:
        raw = packed(with_bad_name(batch_of(3, 2, names=("NAME", "fine"))), 1, gzip.compress)
    else:
        raw = with_bad_name(batch_of(3, 2, names=("NAME", "fine")))
    fetched, assignment = fetched_of(batch_of(0, 3), raw, batch_of(5, 2))
    records = [record for part in fetched.drained(4) for record in part]
    assert [record.value for record in records] == [b"%d" % offset for offset in range(7)]
    assert [(record.offset, record.key, record.timestamp) for record in records][3] == (3, b"k", 7)
    assert [name for name, _ in records[3].headers] == ["\ufffd\ufffd\ufffd\ufffd", "fine"]
    assert assignment.position == 7


@pytest.mark.parametrize("compression", [0, 1])
def test_records_without_a_timestamp_have_the_time_of_reading(compression: int) -> None:
    """Those around them have their own."""
    before_ms = int(time.time() * 1000)
    fetched, _ = fetched_of(batch_of(0, 1), undated(batch_of(1, 2, compression=compression)), batch_of(3, 1))
    times = [record.timestamp for part in fetched.drained(10) for record in part]
    assert (times[0], times[3]) == (7, 7)
    assert all(before_ms <= each <= time.time() * 1000 for each in times[1:3])


def test_a_damaged_batch_is_fetched_once_more() -> None:
    """The network may have damaged it. At the second time it is stepped over, and the records behind it come."""
    raw = batch_of(3, 3)
    raw[-1] ^= 1
    reader = BatchReader(LIMIT, 100 * LIMIT)
    batches = batch_of(0, 3), raw, batch_of(6, 2)
    fetched, assignment = fetched_of(*batches, reader=reader)
    assert [len(part) for part in fetched.drained(10)] == [3]
    assert assignment.position == 3
    fetched, assignment = fetched_of(*batches, position=3, reader=reader)
    (unreadable,), behind = fetched.drained(10)
    assert (type(unreadable), unreadable.first_offset, unreadable.offset) == (UnreadableBatch, 3, 5)
    assert unreadable.reason == "it does not match its checksum"
    assert [record.offset for record in behind] == [6, 7]
    assert assignment.position == 8


def test_an_abandoned_batch_is_not_parsed() -> None:
    """Its part behind the position comes as one unreadable batch; the batch behind it is read."""
    reader = BatchReader(LIMIT, 100 * LIMIT)
    reader.parser.parse_on_loop = parse = Mock(wraps=reader.parser.parse_on_loop)  # type: ignore[method-assign]  # counts calls
    reader.abandon(PARTITION, "three processes ended")
    fetched, assignment = fetched_of(batch_of(0, 3), batch_of(3, 2), position=1, reader=reader)
    (unreadable,), behind = fetched.drained(10)
    assert (unreadable.first_offset, unreadable.offset) == (1, 2)
    assert unreadable.reason == "three processes ended"
    assert [record.offset for record in behind] == [3, 4]
    assert parse.call_count == 1
    assert assignment.position == 5


def many(count: int, headers: int = 0, value: bytes = b"") -> bytearray:
    builder = BatchBuilder(1 << 30, 0)
    for _ in range(count):
        builder.append(timestamp=7, key=None, value=value, headers=[("", b"")] * headers)
    return bytearray(builder._build())


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param(packed(many(1, value=b" " * LIMIT), 4, zstd_encode), "inflates to more than", id="bomb"),
        pytest.param(packed(many(1), 1, lambda body: gzip.compress(body)[:-3]), "gzip: ", id="cut"),
        pytest.param(packed(many(1), 1, lambda _: b"?" * 30), "gzip: ", id="not gzip"),
        pytest.param(packed(many(1), 2, lambda _: b"?" * 30), "snappy: ", id="not snappy"),
        pytest.param(packed(many(1), 3, lambda _: b"?" * 30), "lz4: ", id="not lz4"),
        pytest.param(packed(many(1), 4, lambda _: b"?" * 30), "zstd: ", id="not zstd"),
        pytest.param(packed(many(1), 7, bytes), "unknown compression codec 7", id="codec"),
        pytest.param(many(LIMIT // 200 + 1), "records; at most 5242 are read", id="records"),
        pytest.param(many(3, headers=6000), "has more than 10485 headers", id="headers"),
        pytest.param(many(2, value=b"x" * LIMIT), "at most 1048576 are read", id="size"),
        pytest.param(sealed(many(2) + b"x"), "is damaged: ", id="structure"),
        pytest.param(sealed(many(2)[:16] + b"\1" + many(2)[17:]), "message format", id="format"),
        pytest.param(sealed(many(2)[:40]), "message format", id="short"),
    ],
)
def test_a_batch_that_cannot_be_read_is_stepped_over(raw: bytearray, reason: str) -> None:
    """It comes alone, as what names its offsets and the reason; those around it come whole."""
    count = int.from_bytes(raw[57:61]) if len(raw) >= HEADER_BYTES else 0
    raw[0:8] = struct.pack(">q", 3)
    last = max(3, 3 + count - 1) if reason != "message format" else 3
    fetched, assignment = fetched_of(batch_of(0, 3), raw, batch_of(last + 1, 2))
    before, (unreadable,), behind = fetched.drained(10_000)
    assert [record.offset for record in before] == [0, 1, 2]
    assert (unreadable.first_offset, unreadable.offset) == (3, last)
    assert reason in unreadable.reason
    assert [record.offset for record in behind] == [last + 1, last + 2]
    assert assignment.position == last + 3


@pytest.mark.parametrize("delta", [10_000_000, -5])
def test_a_damaged_header_is_not_believed(delta: int) -> None:
    """An offset beyond the partition's end would start the consumer again at the first record."""
    raw = batch_of(0, 3)
    struct.pack_into(">i", raw, 23, delta)
    reader = BatchReader(LIMIT, 100 * LIMIT)
    fetched_of(raw, reader=reader)[0].drained(10)
    fetched, assignment = fetched_of(raw, reader=reader)
    ((unreadable,),) = fetched.drained(10)
    assert (unreadable.first_offset, unreadable.offset) == (0, 0)
    assert assignment.position == 1


@pytest.mark.parametrize("length", [-1, -100, 0, 5])
def test_a_length_that_cannot_be_is_stepped_over(length: int) -> None:
    """By one record: what follows is fetched again."""
    raw = batch_of(3, 3)
    struct.pack_into(">i", raw, 8, length)
    fetched, assignment = fetched_of(batch_of(0, 3), raw)
    parts = fetched.drained(10)
    assert [record.offset for record in parts[0]] == [0, 1, 2]
    assert parts[1][0].first_offset == 3
    assert assignment.position > 3


@given(st.lists(st.tuples(st.integers(HEADER_BYTES, 140), st.integers(0, 255))), st.integers(1, 7))
def test_records_around_a_changed_batch_come(changes: list[tuple[int, int]], limit: int) -> None:
    """Whatever the bytes of its records are: its offsets are passed, and nothing raises."""
    raw = batch_of(3, 5, names=("a", "b"))
    for at, byte in changes:
        if at < len(raw):
            raw[at] = byte
    fetched, assignment = fetched_of(batch_of(0, 3), sealed(raw), batch_of(8, 2))
    parts = fetched.drained(limit)
    records = [record for part in parts for record in part]
    assert [record.offset for record in records if not 3 <= record.offset < 8] == [0, 1, 2, 8, 9]
    assert all(len(part) == 1 for part in parts if type(part[0]) is UnreadableBatch)
    assert assignment.position == 10


def memory_of_all(parts: dict[TopicPartition, list[Any]]) -> int:
    return sum(memory_of(record) for records in parts.values() for record in records)


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(lambda: packed(many(900, value=b"x" * 1000), 4, zstd_encode), id="inflated"),
        pytest.param(
            lambda: packed(many(2_000, value=b"x" * 1000), 4, zstd_encode), id="inflated in a thread"
        ),
        pytest.param(lambda: many(40, headers=250), id="headers"),
        pytest.param(lambda: many(3_000), id="records"),
        pytest.param(lambda: many(3, value=b"x" * 300_000), id="large records"),
    ],
)
def test_one_look_takes_bounded_memory_from_all_partitions(
    batch: Callable[[], bytearray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far batches inflate, and whatever takes the memory; and one parsed batch waits at most."""
    buffers: list[batch_reader._Unread] = []

    class Recorded(batch_reader._Unread):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            buffers.append(self)

    monkeypatch.setattr(batch_reader, "_Unread", Recorded)
    partitions = [TopicPartition("t", number) for number in range(4)]
    one = batch()
    count = int.from_bytes(one[57:61])
    results = {}
    for partition in partitions:
        second = bytearray(one)
        second[0:8] = struct.pack(">q", count)
        results[partition] = buffer_of(partition, one, second)
    fetched = Fetched(BatchReader(4 * LIMIT, LIMIT // 4), results)
    taken = []
    for part in fetched.parts(2_000):
        taken.append(part)
        records = sum(map(len, part.values()))
        assert records <= 2_000
        assert records == 1 or memory_of_all(part) <= LIMIT // 4
        assert sum(buffer._at < len(buffer._records) for buffer in buffers) <= 1
    for partition in partitions:
        offsets = [record.offset for part in taken for record in part.get(partition, [])]
        assert offsets == list(range(2 * count))


def test_nothing_is_taken_from_a_partition_that_is_gone() -> None:
    """After a rebalance, or a seek, what was fetched before is not handed out."""
    fetched, assignment = fetched_of(batch_of(0, 3))
    assignment.position = 2
    assert fetched.drained(10) == []


def test_what_is_used_up_goes_without_the_collector() -> None:
    """Nothing refers to itself in a circle: a fetched megabyte is freed when its last record is taken."""
    gc.collect()
    gc.disable()
    try:
        fetched, _ = fetched_of(batch_of(0, 3), batch_of(3, 3))
        unread = weakref.ref(fetched._records[PARTITION]._partition_records)
        fetched.drained(4)
        assert unread() is None
    finally:
        gc.enable()


def test_a_fetch_without_a_record_is_passed_over() -> None:
    """The consumer is behind it then; a fetch with records says so itself."""
    reader = BatchReader(LIMIT, 100 * LIMIT)
    marker = batch_of(4, 1, key=ABORT)
    marker[22] |= CONTROL
    fetched, assignment = fetched_of(batch_of(0, 4), sealed(marker), reader=reader)
    looks = fetched.parts(4)
    assert len(next(looks)[PARTITION]) == 4
    assert reader.passed_over() == {}
    assert list(looks) == []
    assert reader.passed_over() == {PARTITION: 5}
    assert reader.passed_over() == {}
    assert assignment.position == 5
