"""streams/kafka/batch_reader.py on aiokafka's own buffers: every record once, in order, whatever its header names."""

import gc
import struct
import weakref
from typing import Any

import pytest
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from streams.kafka.batch_reader import KeptRecords, install_batch_reader

PARTITION = TopicPartition("t", 0)


class Assignment:
    """Stands for the consumer's: active, and at whatever position was consumed to."""

    active = True

    def __init__(self, position: int) -> None:
        self.position, self.paused = position, False

    def state_value(self, _: object) -> "Assignment":
        return self

    def consumed_to(self, position: int) -> None:
        self.position = position


def batch_of(first: int, count: int, *, compression: int = 0, names: tuple[str, ...] = ()) -> bytearray:
    """A Kafka batch of records whose values are their offsets."""
    builder = BatchBuilder(1 << 20, compression)
    for offset in range(first, first + count):
        headers = [(name, b"1") for name in names]
        builder.append(timestamp=7, key=b"k", value=str(offset).encode(), headers=headers)
    raw = bytearray(builder._build())
    raw[0:8] = struct.pack(">q", first)
    return raw


def with_bad_name(raw: bytearray) -> bytearray:
    """The same batch with NAME replaced by bytes that are no UTF-8."""
    at = bytes(raw).index(b"NAME")
    raw[at : at + 4] = b"\xff\xfe\xff\xfe"
    struct.pack_into(">I", raw, 17, calc_crc32c(bytes(raw)[21:]))
    return raw


def fetched_of(*batches: bytearray, position: int = 0) -> tuple[FetchResult, Assignment]:
    assignment = Assignment(position)
    records = PartitionRecords(
        PARTITION, KeptRecords(b"".join(batches)), [], position, None, None, True, "read_uncommitted"
    )
    result = FetchResult(PARTITION, assignment=assignment, partition_records=records, backoff=0)
    install_batch_reader(result)
    install_batch_reader(result)
    return result, assignment


def drained(result: FetchResult, limit: int) -> list[list[Any]]:
    parts = []
    while result.has_more():
        parts.append(result.getall(limit))
    return parts


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(1, 15), st.integers(0, 10))
def test_every_record_once_and_in_order(sizes: list[int], limit: int, position: int) -> None:
    """Batches of any size, parts of any size, a fetch that begins within the first batch."""
    starts = [sum(sizes[:at]) for at in range(len(sizes))]
    position = min(position, sizes[0] - 1)
    batches = [batch_of(start, size) for start, size in zip(starts, sizes, strict=True)]
    result, assignment = fetched_of(*batches, position=position)
    parts = drained(result, limit)
    assert [record.offset for part in parts for record in part] == list(range(position, sum(sizes)))
    assert all(1 <= len(part) <= limit for part in parts)
    assert assignment.position == sum(sizes)


def test_positions_go_beyond_what_was_compacted_away() -> None:
    """The last offset of a batch counts although its record is gone."""
    raw = batch_of(0, 3)
    struct.pack_into(">i", raw, 23, 9)
    struct.pack_into(">I", raw, 17, calc_crc32c(bytes(raw)[21:]))
    result, assignment = fetched_of(raw)
    assert len(result.getall(10)) == 3
    assert assignment.position == 10


@pytest.mark.parametrize("compression", [0, 1])
def test_a_header_name_that_is_no_text_is_read(compression: int) -> None:
    """Its batch comes whole, with U+FFFD in the name, and those around it as they are."""
    if compression:
        raw = _gzipped(with_bad_name(batch_of(3, 2, names=("NAME", "fine"))))
    else:
        raw = with_bad_name(batch_of(3, 2, names=("NAME", "fine")))
    result, assignment = fetched_of(batch_of(0, 3), raw, batch_of(5, 2))
    records = [record for part in drained(result, 4) for record in part]
    assert [record.value for record in records] == [b"%d" % offset for offset in range(7)]
    assert [(record.offset, record.key, record.timestamp) for record in records][3] == (3, b"k", 7)
    assert [name for name, _ in records[3].headers] == ["\ufffd\ufffd\ufffd\ufffd", "fine"]
    assert assignment.position == 7


def test_a_damaged_batch_is_not_read() -> None:
    """Its checksum tells; the position stays before it, so that it is fetched again."""
    raw = batch_of(0, 3)
    raw[-1] ^= 1
    result, assignment = fetched_of(raw)
    with pytest.raises(CorruptRecordException):
        result.getall(10)
    assert assignment.position == 0


def test_nothing_is_taken_from_a_partition_that_is_gone() -> None:
    """After a rebalance, or a seek, what was fetched before is not handed out."""
    result, assignment = fetched_of(batch_of(0, 3))
    assignment.position = 2
    assert result.getall(10) == []
    assert not result.has_more()


def test_what_is_used_up_goes_without_the_collector() -> None:
    """Nothing refers to itself in a circle: a fetched megabyte is freed when its last record is taken."""
    gc.collect()
    gc.disable()
    try:
        result, _ = fetched_of(batch_of(0, 3), batch_of(3, 3))
        unread = weakref.ref(result._partition_records)
        drained(result, 4)
        result = None
        assert unread() is None
    finally:
        gc.enable()


def _gzipped(raw: bytearray) -> bytearray:
    """The batch with its records compressed, as a producer would have sent it."""
    import gzip

    packed = gzip.compress(bytes(raw[61:]))
    whole = bytearray(raw[:61]) + packed
    struct.pack_into(">h", whole, 21, 1)
    struct.pack_into(">i", whole, 8, len(whole) - 12)
    struct.pack_into(">I", whole, 17, calc_crc32c(bytes(whole)[21:]))
    return whole
