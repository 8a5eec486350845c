"""Commits the offsets that the offset tracker permits, with what the attempt ledger says of the records behind them."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import structlog
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.types import TP

from streams.kafka.aiokafka_consumer import AiokafkaConsumer, TopicGoneError
from streams.kafka.attempt_ledger import AttemptLedger
from streams.kafka.commit_metadata import encode_metadata
from streams.kafka.offset_tracker import OffsetTracker, Partition

# Not `__name__`: Faust's services log under that name, and `streams/process/logs.py` hides that logger.
log = structlog.get_logger("streams.partitions")


class CommittingConsumer(AiokafkaConsumer):
    """Faust asks it for offsets each second, and before it stops; an attempt that begins commits in between."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        options = self.transport.options
        self.offsets = OffsetTracker()
        self._ledger = AttemptLedger(options.slice_max_records, options.max_outstanding)
        # An offset and its metadata belong together, so commits are one after the other.
        self._committing = asyncio.Lock()

    def pass_over_lost_records(self) -> None:
        """Count the records that were deleted unread. To be called before records are taken, which moves positions."""
        for partition, position in self.note_lost_records().items():
            self.offsets.pass_over(partition, position)

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return (
            TP(*tp)
            for tp in self.offsets.partitions()
            if topics is None or tp in topics or tp.topic in topics
        )

    def _new_offset(self, tp: TP) -> int | None:
        return self.offsets.committable(Partition(*tp))

    async def _commit_offsets(
        self,
        offsets: Mapping[TP, int],
        start_new_transaction: bool = True,  # noqa: ARG002  # the base class's signature
    ) -> bool:
        async with self._committing:
            return await self._commit_newer(offsets)

    async def commit_attempts(self, partitions: Iterable[Partition]) -> bool:
        """Commit what the ledger says of the partitions, and what of them is acknowledged."""
        async with self._committing:
            committed, committable = self._ledger.committed_offset, self.offsets.committable
            return await self._commit_newer(
                {TP(*each): max(committable(each) or 0, committed(each)) for each in partitions}
            )

    async def _commit_newer(self, offsets: Mapping[TP, int]) -> bool:
        """Commit the offsets of assigned partitions, except those before a committed one."""
        assigned = self.assignment()
        mine = {
            tp: offset
            for tp, offset in offsets.items()
            if tp in assigned
            and not self.topics.is_recreated(tp.topic)
            and self._ledger.may_commit(Partition(*tp), offset)
        }
        if not mine or not await self._commit(mine):
            return False
        self._committed_offset.update(mine)
        for tp, offset in mine.items():
            self._ledger.committed(Partition(*tp), offset)
        self._settle(mine)
        return True

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        try:
            await self.kafka.commit(
                {TopicPartition(*tp): self._with_metadata(tp, offset) for tp, offset in offsets.items()}
            )
        except (CommitFailedError, IllegalStateError) as error:
            # A rebalance came first: the partition's new owner reads the records again.
            self.log.info("Commit refused: %s", error)
            return False
        except TopicGoneError:
            self._settle(offsets)
            topics = sorted({tp.topic for tp in offsets})
            log.warning("topic is gone; its offsets are not committed", topics=topics)
            return False
        except KafkaError as error:
            if not error.retriable:
                await self.crash(error)
            self.log.warning("Commit failed, retrying in %s s: %r", self.commit_interval, error)
            return False
        return True

    def _with_metadata(self, tp: TP, offset: int) -> OffsetAndMetadata:
        metadata = self._ledger.metadata(Partition(*tp), offset, self.topics.id_of(tp.topic))
        return OffsetAndMetadata(offset, encode_metadata(metadata))

    def _settle(self, offsets: Mapping[TP, int]) -> None:
        for tp, offset in offsets.items():
            self.offsets.settle(Partition(*tp), offset)
