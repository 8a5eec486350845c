"""PURE. Tracks the slices in flight and computes the offset that each partition may commit.

The slices of a partition are processed concurrently and may be acknowledged in any order. An offset is
committable only when every slice before it is acknowledged. A rebalance clears the tracker: Kafka delivers the
unacknowledged records again to the partition's new owner.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
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


class Partition(NamedTuple):
    """Compares equal to the topic-partition tuples of aiokafka and Faust, with the same hash."""

    topic: str
    partition: int


@dataclass(slots=True, eq=False)
class Slice:
    """Consecutive records of one partition that are processed and acknowledged as one unit."""

    partition: Partition
    records: Sequence[Record]
    generation: int
    """The consumer group's generation when the records were fetched."""
    received_at: float
    """`time.monotonic()` in seconds."""
    weight: int = FULL_SLICE_WEIGHT
    next_offset: int = -1
    """The offset to read next: larger than the last record's + 1 before a marker of a transaction."""
    acknowledged: bool = False

    @property
    def end(self) -> int:
        """The offset to commit when this slice and those before it are done."""
        return max(self.next_offset, self.records[-1].offset + 1)


def weight_of(records: Sequence[Record], whole_records: int, whole_bytes: int) -> int:
    """The larger of the shares of `whole_records` and `whole_bytes`, scaled to 1…`FULL_SLICE_WEIGHT`."""
    count = len(records)
    # Adding up the sizes of many records would cost more than the exact weight is worth.
    if 4 * count >= whole_records:
        return FULL_SLICE_WEIGHT
    size = sum([len(record.value or b"") for record in records])
    part = max(count / whole_records, size / whole_bytes)
    return max(1, min(FULL_SLICE_WEIGHT, math.ceil(FULL_SLICE_WEIGHT * part)))


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
        self._committable: dict[Partition, int] = {}
        self.outstanding = 0
        """The total weight of the unacknowledged slices."""
        self.acknowledged_total = 0
        """The number of slices that were ever acknowledged."""

    def track(self, fetched: Slice) -> None:
        """Add a slice; its offsets must follow those of the partition's earlier slices."""
        self._queues.setdefault(fetched.partition, deque()).append(fetched)
        self.outstanding += fetched.weight

    def acknowledge(self, done: Slice) -> None:
        """Mark a slice whose outputs are all delivered; ignores a slice that is acknowledged or not tracked."""
        queue = self._queues.get(done.partition)
        if done.acknowledged or queue is None or done not in queue:
            return
        done.acknowledged = True
        self.outstanding -= done.weight
        self.acknowledged_total += 1
        while queue and queue[0].acknowledged:
            self._committable[done.partition] = queue.popleft().end

    def pass_over(self, partition: Partition, offset: int) -> None:
        """There is nothing to handle from the end of the partition's last slice to `offset`."""
        queue = self._queues.get(partition)
        if queue:
            queue[-1].next_offset = max(queue[-1].next_offset, offset)
        else:
            self._committable[partition] = offset

    def committable(self, partition: Partition) -> int | None:
        """The offset after the last record of the acknowledged prefix; None when there is nothing to commit."""
        return self._committable.get(partition)

    def settle(self, partition: Partition, offset: int) -> None:
        """Forget a committable offset that needs no commit any more.

        Committing it again is not harmless: the topic may have been made anew since, and the offset is not one of the
        new topic.
        """
        if self._committable.get(partition) == offset:
            del self._committable[partition]

    def partitions(self) -> Iterable[Partition]:
        """The partitions that have a committable offset."""
        return list(self._committable)

    def oldest_ms(self) -> int | None:
        """The lowest timestamp, in ms, among the first records of the partitions' oldest unacknowledged slices.

        None when every slice is acknowledged.
        """
        return min((queue[0].records[0].timestamp for queue in self._queues.values() if queue), default=None)

    def clear(self) -> None:
        """Drop all slices and committable offsets, after a rebalance."""
        self._queues.clear()
        self._committable.clear()
        self.outstanding = 0
