"""PURE. Tracks the slices in flight and computes the offset that each partition may commit.

The slices of a partition are processed concurrently and may be acknowledged in any order, and so may the records of a
slice be answered. An offset is committable only when every record before it is answered. A rebalance clears the
tracker: Kafka delivers the unanswered records again to the partition's new owner.

A slice that is answered at once costs nothing for each record: its handler names the unanswered records only while
some of them wait.
"""

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Record(Protocol):
    """The fields of a Kafka record that Headrace reads; `timestamp` is Unix time in milliseconds."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


Row = tuple[int, bytes | None, bytes | None, list[tuple[str, bytes]]]
"""A record to be written: its timestamp in Unix milliseconds, key, value and headers."""

FULL_SLICE_WEIGHT = 256
"""The weight of a slice that has reached the limit of records or of bytes."""

RECORD_OVERHEAD_BYTES, HEADER_OVERHEAD_BYTES = 200, 100
"""Upper bounds of what a record and a header take in memory beside their bytes."""


class Partition(NamedTuple):
    """Compares equal to the topic-partition tuples of aiokafka and Faust, with the same hash."""

    topic: str
    partition: int


class SliceLimits(NamedTuple):
    """A slice of so many records or of so many bytes has the full weight."""

    records: int
    bytes: int


def weight_of(records: Sequence[Record], limits: SliceLimits) -> int:
    """The larger of the shares of both limits; `FULL_SLICE_WEIGHT` is a whole.

    It is at least 1, and more than a whole for a record of more bytes.
    """
    count = len(records)
    # Adding up the sizes of many records would cost more than the exact weight is worth.
    if 4 * count >= limits.records:
        return FULL_SLICE_WEIGHT
    part = max(count / limits.records, sum(map(memory_of, records)) / limits.bytes)
    return max(1, math.ceil(FULL_SLICE_WEIGHT * part))


def memory_of(record: Record) -> int:
    """An upper bound of the bytes of memory that a record takes."""
    headers = record.headers
    size = RECORD_OVERHEAD_BYTES + len(record.key or b"") + len(record.value or b"")
    if not headers:
        return size
    return size + sum([HEADER_OVERHEAD_BYTES + len(name) + len(value or b"") for name, value in headers])


class Slice:
    """Consecutive records of one partition that are fetched and handled together.

    A record is answered when the broker has all outputs of it. `records` has at least the unanswered records, in
    their order, and `weight` is theirs. A slice that is set aside has `weight_aside` in place of it. `generation` is
    the consumer group's when the records were fetched, `received_at` is `time.monotonic()` in seconds, and `end` is the
    offset to read after the slice: larger than the last record's + 1 before a marker of a transaction. `attempt` is how
    often the records were begun, with this time (`streams/kafka/attempt_ledger.py`). `topic_id` is empty when it is not known.
    """

    __slots__ = (
        "_limits",
        "_observers",
        "_unanswered",
        "acknowledged",
        "attempt",
        "end",
        "first_offset",
        "generation",
        "partition",
        "received_at",
        "records",
        "topic_id",
        "weight",
        "weight_aside",
    )

    def __init__(
        self,
        partition: Partition,
        records: Sequence[Record],
        generation: int,
        *,
        received_at: float,
        limits: SliceLimits,
        next_offset: int = -1,
        attempt: int = 1,
        topic_id: str = "",
    ) -> None:
        self.partition = partition
        self.records = records
        self.generation = generation
        self.received_at = received_at
        self.weight = weight_of(records, limits)
        self.weight_aside = 0
        self.first_offset = records[0].offset
        self.end = max(next_offset, records[-1].offset + 1)
        self.acknowledged = False
        self.attempt, self.topic_id = attempt, topic_id
        self._limits = limits
        self._unanswered: Callable[[], Iterable[int]] | None = None
        self._observers: list[Callable[[Slice, int], None]] = []

    def on_lighter(self, observer: Callable[["Slice", int], None]) -> None:
        """Call `observer` with the slice and the weight that it loses, each time that it becomes lighter."""
        self._observers.append(observer)

    def answered_but(self, unanswered: Callable[[], Iterable[int]], count: int) -> None:
        """Records with the offsets that `unanswered` returns, at most `count`, are not answered; all others are.

        To be called whenever more are answered. `unanswered` is called for each offset to commit, and returns the
        offsets of that moment. Records are dropped when at least half of them are answered, so all dropping costs
        no more than a few steps for each record of the slice.
        """
        self._unanswered = unanswered
        if 2 * count > len(self.records):
            return
        offsets = set(unanswered())
        self.records = [record for record in self.records if record.offset in offsets]
        weight = weight_of(self.records, self._limits)
        if self.weight_aside:
            self.weight_aside = weight
        else:
            self._become(weight)

    def set_aside(self) -> None:
        """Let what is unanswered weigh nothing from now on, but as `weight_aside`."""
        self.weight_aside = self.weight
        self._become(0)

    def _become(self, weight: int) -> None:
        lost, self.weight = self.weight - weight, weight
        if lost:
            for observer in self._observers:
                observer(self, lost)

    def acknowledge(self) -> None:
        """All records are answered. They are freed here: the slice may wait in its partition for those before it."""
        self.acknowledged = True
        self.records = ()
        # Refers to the slice; the garbage collector would find the circle after many slices.
        self._unanswered = None

    def first_unanswered(self) -> int:
        """The offset of the first record that is not answered, or `end`."""
        if self.acknowledged:
            return self.end
        if self._unanswered is None:
            return self.records[0].offset
        return min(self._unanswered(), default=self.end)

    def oldest_ms(self) -> int:
        """The timestamp, in ms, of the first record that is not answered, or of the last one."""
        at = bisect_left(self.records, self.first_unanswered(), key=lambda record: record.offset)
        return self.records[min(at, len(self.records) - 1)].timestamp


@dataclass(frozen=True, slots=True)
class GroupOffsets:
    """The committed offset of a consumer group in one partition, and the partition's end offset."""

    committed: int
    end: int

    @property
    def lag(self) -> int:
        """The number of records that the group has not committed yet."""
        return self.end - self.committed


class OffsetTracker:
    """One queue of slices per partition, ordered by offset."""

    def __init__(self) -> None:
        self._queues: dict[Partition, deque[Slice]] = {}
        self._tracked: set[Slice] = set()
        # The end of the acknowledged slices of each partition, and the offset that needs no commit any more.
        self._acknowledged: dict[Partition, int] = {}
        self._settled: dict[Partition, int] = {}
        self.outstanding = 0
        """The total weight of the unacknowledged slices that are not set aside."""
        self.acknowledged_total = 0
        """The number of slices that were ever acknowledged."""

    def track(self, fetched: Slice) -> None:
        """Add a slice; its offsets must follow those of the partition's earlier slices."""
        self._queues.setdefault(fetched.partition, deque()).append(fetched)
        self._tracked.add(fetched)
        self.outstanding += fetched.weight
        fetched.on_lighter(self._lighter)

    @property
    def is_idle(self) -> bool:
        """True when every slice is acknowledged."""
        return not self._tracked

    @property
    def set_aside(self) -> int:
        """The total weight of the slices that are set aside."""
        return sum(tracked.weight_aside for tracked in self._tracked)

    def is_tracked(self, fetched: Slice) -> bool:
        """False for a slice that is acknowledged, and for one of an earlier assignment."""
        return fetched in self._tracked

    def acknowledge(self, done: Slice) -> None:
        """Mark a slice whose outputs are all delivered; ignores a slice that is acknowledged or not tracked."""
        if not self.is_tracked(done):
            return
        done.acknowledge()
        self._tracked.discard(done)
        self.outstanding -= done.weight
        self.acknowledged_total += 1
        queue = self._queues[done.partition]
        while queue and queue[0].acknowledged:
            self._acknowledged[done.partition] = queue.popleft().end

    def pass_over(self, partition: Partition, offset: int) -> None:
        """There is nothing to handle from the end of the partition's last slice to `offset`."""
        queue = self._queues.get(partition)
        if queue:
            queue[-1].end = max(queue[-1].end, offset)
        else:
            self._acknowledged[partition] = offset

    def committable(self, partition: Partition) -> int | None:
        """The offset after the last record before which all are answered; None when there is nothing to commit."""
        offset = self._acknowledged.get(partition, -1)
        queue = self._queues.get(partition)
        if queue:
            first = queue[0]
            unanswered = first.first_unanswered()
            # The offsets before a slice may be missing, so its first one says nothing about them.
            if unanswered > first.first_offset:
                offset = unanswered
        return None if offset in (-1, self._settled.get(partition)) else offset

    def settle(self, partition: Partition, offset: int) -> None:
        """Remember an offset that needs no commit any more.

        Committing it again is not harmless: the topic may have been made anew since, and the offset is not one of the
        new topic.
        """
        self._settled[partition] = offset

    def partitions(self) -> Iterable[Partition]:
        """The partitions that have a committable offset."""
        known = self._acknowledged.keys() | self._queues.keys()
        return [partition for partition in known if self.committable(partition) is not None]

    def oldest_ms(self) -> int | None:
        """The lowest timestamp, in ms, among the first unanswered records of the partitions.

        None when every slice is acknowledged.
        """
        return min((queue[0].oldest_ms() for queue in self._queues.values() if queue), default=None)

    def clear(self) -> None:
        """Drop all slices and offsets, after a rebalance."""
        self._queues.clear()
        self._tracked.clear()
        self._acknowledged.clear()
        self._settled.clear()
        self.outstanding = 0

    def _lighter(self, lighter: Slice, lost: int) -> None:
        if lighter in self._tracked:
            self.outstanding -= lost
