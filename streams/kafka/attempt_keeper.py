# ruff: noqa: SLF001  # part of the batched transport, which uses private names
"""Fetches what the attempt ledger permits, and commits how often records were begun before they are handled.

The reasons are in `streams/kafka/attempt_ledger.py`. Without earlier attempts this costs one commit for each window of
records that is reserved.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any, Protocol

import structlog
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition
from faust.types import TP

from streams.kafka.attempt_ledger import ATTEMPT_LIMIT, AttemptLedger, Permit
from streams.kafka.batch_parsing import UnreadableBatch
from streams.kafka.batch_reader import BatchReader
from streams.kafka.commit_metadata import CommitMetadata
from streams.kafka.offset_tracker import OffsetTracker, Partition, Record

log = structlog.get_logger("streams.partitions")

RETRY_SECONDS = 0.05
GIVE_BACK_SECONDS = 2.0

Records = Mapping[Any, list[Record]]


class AttemptConsumer(Protocol):
    """What the keeper needs of a SliceConsumer."""

    offsets: OffsetTracker
    taken_over: Mapping[TopicPartition, tuple[int, CommitMetadata]]

    @property
    def kafka(self) -> Any: ...
    def assignment(self) -> set[TP]: ...
    def position_of(self, tp: Any) -> int | None: ...
    def pass_over_lost_records(self) -> None: ...
    async def commit_attempts(self, partitions: Iterable[Partition]) -> bool: ...


class AttemptKeeper:
    """Keeps the ledger of one consumer from each assignment to the next."""

    def __init__(
        self,
        consumer: AttemptConsumer,
        ledger: AttemptLedger,
        reader: BatchReader,
        slice_max_records: int,
    ) -> None:
        self._consumer = consumer
        self._ledger = ledger
        self._reader = reader
        self._slice_max_records = slice_max_records
        self._is_open = False

    def close(self) -> None:
        """Forget the partitions; the next fetch takes over those that are assigned then."""
        self._ledger.clear()
        self._reader.forget()
        self._is_open = False

    async def fetched(self, fetcher: Any, active: Collection[Any]) -> Records | None:
        """The records that may be handled now, of the `active` partitions; None when a commit was not possible."""
        if not self._is_open and not await self._open():
            return None
        if not self._ledger.is_careful:
            return await self._first_attempts(fetcher, active)
        ready: dict[Partition, int] = {}
        for tp in active:
            position = self._consumer.position_of(tp)
            if position is not None and tp in fetcher._records:
                ready[Partition(*tp)] = position
        permit = self._ledger.permit(ready, outstanding=not self._consumer.offsets.is_idle)
        if permit is None:
            return {}
        if permit.careful is None:
            return await self._first_attempts(fetcher, list(permit.partitions))
        return await self._careful_slice(fetcher, permit, permit.careful, ready[permit.careful])

    async def wait(self, fetcher: Any, acknowledged: asyncio.Event, timeout_seconds: float) -> None:
        """Wait for a fetch or, with care, also for an acknowledgement, which may permit the next slice.

        Raises the fetcher's error.
        """
        if not self._ledger.is_careful or self._reader.large is not None:
            await self._reader.wait(fetcher, timeout_seconds)
            return
        acknowledged.clear()
        fetch = fetcher._create_fetch_waiter()
        acknowledgement = asyncio.ensure_future(acknowledged.wait())
        await asyncio.wait(
            [fetch, acknowledgement], timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        acknowledgement.cancel()
        if fetch.done():
            fetch.result()
        else:
            fetch.cancel()

    async def give_back(self) -> None:
        """Commit that nothing is in progress any more, for an orderly end or a hand-over."""
        if held := self._ledger.give_back():
            # Without the broker the next owner only takes more care than it must.
            with suppress(TimeoutError):
                await asyncio.wait_for(self._consumer.commit_attempts(held), GIVE_BACK_SECONDS)

    async def _open(self) -> bool:
        """Take over the assigned partitions; False when the broker did not tell where they end."""
        kafka, taken_over = self._consumer.kafka, self._consumer.taken_over
        assigned = self._consumer.assignment()
        begun = [tp for tp, (_, metadata) in taken_over.items() if metadata.begun]
        new = [TopicPartition(*tp) for tp in assigned if tp not in taken_over]
        try:
            ends = await kafka.end_offsets(begun) if begun else {}
            starts = await kafka.beginning_offsets(new) if new else {}
        except KafkaError as error:
            log.warning("ends of partitions not read", reason=str(error) or type(error).__name__)
            await asyncio.sleep(RETRY_SECONDS)
            return False
        if taken_over is not self._consumer.taken_over or assigned != self._consumer.assignment():
            # A rebalance came first.
            return False
        for tp in assigned:
            offset, metadata = taken_over.get(tp) or (starts[tp], CommitMetadata())
            self._ledger.open(Partition(*tp), offset, metadata, ends.get(tp, offset))
            if attempt := self._ledger.attempt(Partition(*tp), offset) - 1:
                log.warning(
                    "a process ended with records in progress; they are tried again with care",
                    topic=tp.topic,
                    partition=tp.partition,
                    first_offset=offset,
                    attempts=attempt,
                )
        for tp in new:
            # To be committed before a record is read: what is deleted before that then counts as lost.
            self._consumer.offsets.pass_over(Partition(*tp), starts[tp])
        self._is_open = True
        return True

    async def _first_attempts(self, fetcher: Any, partitions: Collection[Any]) -> Records | None:
        if self._ledger.unsettled and not await self._commit(()):
            return None
        if not await self._reserve(self._ledger.lacks_window(partitions)):
            return None
        if not partitions:
            # They were revoked meanwhile. The fetcher would return records of all partitions.
            return None
        records = await self._take(fetcher, partitions, self._slice_max_records)
        for tp, taken in records.items():
            self._ledger.took(tp, taken[-1].offset + 1)
        # Offsets with gaps may lead beyond the window.
        beyond = [tp for tp, taken in records.items() if not self._ledger.covers(tp, taken[-1].offset + 1)]
        if not await self._reserve(beyond):
            self._go_back(records)
            return None
        return records

    async def _take(self, fetcher: Any, partitions: Collection[Any], max_records: int) -> Records:
        # A position may have been lost and found during the wait for a commit.
        self._consumer.pass_over_lost_records()
        return await self._reader.fetched_records(fetcher, partitions, max_records)

    async def _reserve(self, partitions: Collection[Partition]) -> bool:
        if not partitions:
            return True
        self._ledger.reserve(partitions)
        return await self._commit(partitions)

    async def _careful_slice(
        self, fetcher: Any, permit: Permit, partition: Partition, position: int
    ) -> Records | None:
        ledger = self._ledger
        is_abandoned = ledger.batch_is_abandoned(partition)
        if is_abandoned:
            self._reader.abandon(partition, f"{ATTEMPT_LIMIT} processes ended while they read it")
        is_last = ledger.attempt(partition, position) >= ATTEMPT_LIMIT
        if not is_abandoned:
            ledger.begin(partition, position + permit.max_records, parses=is_last)
            if not await self._commit([partition]):
                return None
        records = await self._take(fetcher, (partition,), permit.max_records)
        if not records:
            # Markers of transactions only: the position moved on.
            return records
        end = records[partition][-1].offset + 1
        if not is_abandoned and (is_last or not ledger.covers(partition, end)):
            ledger.begin(partition, end)
            if not await self._commit([partition]):
                self._go_back(records)
                return None
        ledger.took(partition, end, careful=True, alone=is_last)
        return records

    async def _commit(self, partitions: Iterable[Partition]) -> bool:
        # With what is finished elsewhere: the end of this slice must not count for it.
        finished = self._consumer.offsets.partitions()
        # A new assignment may have come meanwhile.
        known = {*partitions, *finished, *self._ledger.unsettled}
        return await self._consumer.commit_attempts(known) and self._is_open

    def _go_back(self, records: Records) -> None:
        """Read the records again: they were taken, and their attempt could not be committed."""
        if not self._is_open:
            # A new assignment has its own position, which may be before these records.
            return
        assigned = self._consumer.assignment()
        for tp, taken in records.items():
            if tp in assigned:
                self._consumer.kafka.seek(TopicPartition(*tp), first_offset(taken[0]))


def first_offset(record: Record) -> int:
    """The offset of a record, or the first one of a batch that cannot be read."""
    return record.first_offset if isinstance(record, UnreadableBatch) else record.offset
