"""Counts the records that were deleted before a consumer read them.

A consumer that asks for an offset before the partition's first record is moved to that record. Offsets that are
missing between two records, by compaction or as markers of transactions, do not move it, and are not counted.
"""

from collections import Counter

import structlog

from streams.kafka.offset_tracker import Partition

log = structlog.get_logger("streams.partitions")


class LostRecords:
    """`total` has the number of lost records by topic.

    It counts offsets. The broker does not say which of the deleted offsets were markers of transactions or had been
    removed by compaction before.
    """

    def __init__(self) -> None:
        self.total: Counter[str] = Counter()
        self._refused: dict[Partition, int] = {}

    def refused(self, partition: Partition, offset: int) -> None:
        """The broker has no record at `offset`; the consumer asks for the first one that it has."""
        self._refused.setdefault(partition, offset)

    @property
    def waiting(self) -> list[Partition]:
        """The partitions whose consumer may not know its new position yet."""
        return list(self._refused)

    def moved(self, partition: Partition, position: int) -> None:
        """The consumer of a waiting partition continues at `position`."""
        offset = self._refused.pop(partition)
        lost = position - offset
        if lost > 0:
            self.total[partition.topic] += lost
            log.error(
                "records were deleted before they were read",
                topic=partition.topic,
                partition=partition.partition,
                lost=lost,
                first_offset=offset,
                next_offset=position,
            )
        elif lost < 0:
            log.error(
                "the partition ends before the position; it is read again from its first record",
                topic=partition.topic,
                partition=partition.partition,
                position=offset,
                next_offset=position,
            )

    def clear(self) -> None:
        """Forget the waiting partitions, after a rebalance: the next owner asks from the committed offset."""
        self._refused.clear()
