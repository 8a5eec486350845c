"""PURE. Which slices were handed out, which are done, and how far an offset may be committed.

Slices of one partition are worked on at the same time and may be done in any order; an offset is
committed only when all before it are done. Whatever was handed out under an earlier assignment
counts for nothing: its records come again, to whoever holds the partition then.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Record(Protocol):
    """What the pipeline needs of a Kafka record; `timestamp` is in milliseconds."""

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


WHOLE = 256
"""What a slice weighs that has all the records or bytes that one may have."""


class Partition(NamedTuple):
    """Equal to, and hashed like, the topic-partition tuples of aiokafka and Faust."""

    topic: str
    partition: int


@dataclass(slots=True, eq=False)
class Slice:
    """Consecutive records of one partition that are worked on as one."""

    partition: Partition
    records: Sequence[Record]
    generation: int
    received_at: float
    """Monotonic seconds."""
    weight: int = WHOLE
    acknowledged: bool = False


def weight_of(records: Sequence[Record], whole_records: int, whole_bytes: int) -> int:
    """How much of a whole slice these are, from 1 to `WHOLE`, by their number or their bytes."""
    count = len(records)
    # To look at many records costs more than it tells.
    if 4 * count >= whole_records:
        return WHOLE
    size = sum([len(record.value or b"") for record in records])
    part = max(count / whole_records, size / whole_bytes)
    return max(1, min(WHOLE, math.ceil(WHOLE * part)))


class Ledger:
    """A queue of slices for each partition, in the order of their offsets."""

    def __init__(self) -> None:
        self._queues: dict[Partition, deque[Slice]] = {}
        self._committable: dict[Partition, int] = {}
        self.outstanding = 0
        """The weight of the slices that were handed out and are not acknowledged."""
        self.acknowledged_total = 0

    def hand_out(self, handed: Slice) -> None:
        """Note a slice; its offsets follow those of the partition's slices before it."""
        self._queues.setdefault(handed.partition, deque()).append(handed)
        self.outstanding += handed.weight

    def acknowledge(self, done: Slice) -> None:
        """Note that all outputs of a slice are delivered. Repeats and forgotten slices do nothing."""
        queue = self._queues.get(done.partition)
        if done.acknowledged or queue is None or done not in queue:
            return
        done.acknowledged = True
        self.outstanding -= done.weight
        self.acknowledged_total += 1
        while queue and queue[0].acknowledged:
            self._committable[done.partition] = queue.popleft().records[-1].offset + 1

    def committable(self, partition: Partition) -> int | None:
        """The offset up to which every record is done, or None when none is."""
        return self._committable.get(partition)

    def partitions(self) -> Iterable[Partition]:
        """The partitions with something to commit."""
        return list(self._committable)

    def oldest_ms(self) -> int | None:
        """The least timestamp of the first records that are not done, one in each partition; None without any."""
        return min((queue[0].records[0].timestamp for queue in self._queues.values() if queue), default=None)

    def forget(self) -> None:
        """Forget everything: the assignment changed."""
        self._queues.clear()
        self._committable.clear()
        self.outstanding = 0
