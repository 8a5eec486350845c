# ruff: noqa: SLF001  # part of the batched transport, which uses private names
"""Takes records from aiokafka's fetched buffers, one Kafka batch at a time.

aiokafka itself copies each record into a second object with eleven fields, inflates batches without a limit, and
raises for ever at a batch that it cannot read and at a header whose name is not UTF-8 (other clients can write one).
This reader returns the parsed records without a copy, within limits. It parses a batch with such a name again with
U+FFFD in its place. A batch that cannot be read, or exceeds a limit, comes as one `UnreadableBatch`.

One look takes records of all partitions until they fill `slice_max_bytes` of memory, and a batch is parsed when its
turn comes: so at most one parsed batch waits. A batch that would hold the event loop is parsed in a thread.
"""

import asyncio
import time
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import aiokafka.consumer.fetcher
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from schemas.errors import UnreadableBatchError
from streams.kafka.batch_parsing import BatchParser, ParsedBatch, UnreadableBatch, are_within
from streams.kafka.fetch_room import FetchRoom
from streams.kafka.inflation import HEADER_BYTES
from streams.kafka.offset_tracker import RECORD_OVERHEAD_BYTES, Record

_LENGTH_AT, _LENGTH_BYTES, _LOG_OVERHEAD_BYTES = 8, 4, 12
_MAGIC_AT, _MAGIC = 16, 2


class KeptRecords(MemoryRecords):  # type: ignore[misc]  # aiokafka is untyped
    """Fetched batches that keep the bytes from which they are parsed."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self.raw = raw


# The fetcher creates its buffers by this name. Other consumers of this process read KeptRecords as before.
aiokafka.consumer.fetcher.MemoryRecords = KeptRecords


class BatchReader:
    """Reads the fetched buffers of one consumer.

    A batch may inflate to `batch_max_bytes`, and its parsed records and headers may take as much again beside their
    bytes. `slice_max_bytes` bounds what one look takes, but for its first record.
    """

    def __init__(self, batch_max_bytes: int, slice_max_bytes: int) -> None:
        self.parser = BatchParser(batch_max_bytes)
        self._batch_max_bytes = batch_max_bytes
        self._slice_max_bytes = slice_max_bytes
        self.room = FetchRoom(slice_max_bytes)
        self.large: _Unread | None = None
        """The buffer whose next batch must be parsed in a thread first."""
        self._damaged: dict[TopicPartition, int] = {}
        self._passed_over: dict[TopicPartition, int] = {}
        self._abandoned: dict[TopicPartition, str] = {}

    def abandon(self, partition: TopicPartition, reason: str) -> None:
        """The next batch of the partition is not parsed: it comes as an `UnreadableBatch` with this reason."""
        self._abandoned[partition] = reason

    def abandoned(self, partition: TopicPartition) -> str | None:
        """The reason why the next batch is not parsed, once."""
        return self._abandoned.pop(partition, None)

    def forget(self) -> None:
        """Forget what is known of the partitions."""
        for known in (self._damaged, self._passed_over, self._abandoned):
            known.clear()

    async def fetched_records(
        self, fetcher: Any, partitions: Collection[Any], max_records: int | None
    ) -> Mapping[Any, list[Record]]:
        """The records that the fetcher has now; `partitions` empty means all. An unreadable batch comes alone."""
        self.room, self.large = FetchRoom(self._slice_max_bytes), None
        for fetched in fetcher._records.values():
            if type(fetched) is FetchResult:
                self.install(fetched)
        # With a timeout of 0 the fetcher returns only buffers that have the batch reader.
        records: Mapping[Any, list[Record]] = await fetcher.fetched_records(
            partitions, timeout=0, max_records=max_records
        )
        return records

    async def wait(self, fetcher: Any, timeout_seconds: float) -> None:
        """Wait until there may be records, or the timeout ends; raises the fetcher's error."""
        large, self.large = self.large, None
        if large is None:
            waiter = fetcher._create_fetch_waiter()
            await asyncio.wait([waiter], timeout=timeout_seconds)
            if waiter.done():
                waiter.result()
            else:
                waiter.cancel()
        else:
            # A parser of its own: if this is cancelled, the thread goes on.
            await large.parse_in_thread(BatchParser(self._batch_max_bytes))

    def install(self, fetched: FetchResult) -> None:
        """Replace `getall` of a fetch result by one that reads whole batches. Idempotent."""
        if "getall" in fetched.__dict__ or fetched._partition_records is None:
            return
        partition_records = fetched._partition_records
        # Breaks a reference cycle, so that the buffer is freed when it is used up and not at the next garbage
        # collection.
        partition_records._records_iterator = None
        unread = _Unread(self, partition_records)
        partition = fetched._topic_partition

        def getall(max_records: int | None) -> list[Record]:
            taken: list[Record] = []
            if fetched.check_assignment(partition) and fetched.has_more():
                state = fetched._assignment.state_value(partition)
                before = unread.next_offset
                taken = unread.take(partition, max_records, state.highwater)
                partition_records.next_fetch_offset = unread.next_offset
                fetched._update_position()
                if not taken and unread.next_offset > before:
                    self._passed_over[partition] = unread.next_offset
                if unread.exhausted:
                    fetched._partition_records = None
            if not fetched.has_more():
                del fetched.getall
            return taken

        fetched.getall = getall

    def passed_over(self) -> Mapping[TopicPartition, int]:
        """Where the consumer is now in partitions whose last fetches had no record for it, since the last call.

        They had markers of transactions, or records of aborted ones, or records that compaction had removed.
        """
        passed, self._passed_over = self._passed_over, {}
        return passed

    def damaged_before(self, partition: TopicPartition, offset: int) -> bool:
        """Whether the batch at `offset` failed its checksum in the fetch before too; remembers that it did now."""
        again = self._damaged.get(partition) == offset
        self._damaged[partition] = offset
        return again


class _Unread:
    """The part of a fetched buffer that was not read yet."""

    def __init__(self, reader: BatchReader, partition_records: Any) -> None:
        self._reader = reader
        self._partition_records = partition_records
        next_offset: int = partition_records.next_fetch_offset
        self._raw = memoryview(partition_records._records.raw)
        self._next_batch = 0
        self._batch_end: int | None = None
        self._find_batch_end()
        self._parsed: ParsedBatch | UnreadableBatchError | None = None
        self._records: Sequence[Record] = ()
        self._memory_bytes: Sequence[int] = (0,)
        self._at = 0
        self._offset_after_batch = next_offset
        self.next_offset = next_offset

    @property
    def exhausted(self) -> bool:
        return self._batch_end is None and self._at == len(self._records)

    def take(self, partition: TopicPartition, limit: int | None, highwater: int | None) -> list[Record]:
        """Up to `limit` records, in order, as far as there is room; an unreadable batch comes alone."""
        taken: list[Record] = []
        reader = self._reader
        while (limit is None or len(taken) < limit) and not self.exhausted and not reader.room.is_full:
            if self._at == len(self._records):
                if not self._parse_next_batch(partition, highwater):
                    reader.large, reader.room.is_full = self, True
                    break
            else:
                if taken and type(self._records[self._at]) is UnreadableBatch:
                    return taken
                end = len(self._records)
                if limit is not None:
                    end = min(end, self._at + limit - len(taken))
                part = self._records[self._at : reader.room.take(self._memory_bytes, self._at, end)]
                if not part:
                    break
                taken += part
                self._at += len(part)
                self.next_offset = part[-1].offset + 1
            if self._at == len(self._records):
                # Larger than the last offset + 1 when compaction removed the records after it.
                self.next_offset = self._offset_after_batch
            if taken and type(taken[0]) is UnreadableBatch:
                return taken
        return taken

    def _find_batch_end(self) -> None:
        """Find where the next batch ends: None when it is not there, or only its beginning is."""
        begin = self._next_batch + _LENGTH_AT
        self._batch_end = None
        if begin + _LENGTH_BYTES <= len(self._raw):
            length = int.from_bytes(self._raw[begin : begin + _LENGTH_BYTES], signed=True)
            end = self._next_batch + _LOG_OVERHEAD_BYTES + length
            # A negative length is a damaged header: nothing behind it can be found.
            if length < 0 or end <= len(self._raw):
                self._batch_end = end

    async def parse_in_thread(self, parser: BatchParser) -> None:
        """Parse the next batch, for the next `take`."""
        raw = self._raw[self._next_batch : self._batch_end]
        try:
            self._parsed = await asyncio.to_thread(parser.parse, raw)
        except UnreadableBatchError as error:
            self._parsed = error

    def _parse_next_batch(self, partition: TopicPartition, highwater: int | None) -> bool:
        """Go to the next batch; returns False, and stays, when it must be parsed in a thread first."""
        assert self._batch_end is not None  # otherwise it is exhausted
        raw = self._raw[self._next_batch : self._batch_end]
        begin, end = self._next_batch, self._batch_end
        self._next_batch = self._batch_end
        self._find_batch_end()
        self._at, self._records = 0, ()
        if len(raw) < HEADER_BYTES or raw[_MAGIC_AT] != _MAGIC:
            if len(raw) < _LOG_OVERHEAD_BYTES:
                # The batch after it cannot be found. What follows in the buffer is fetched again.
                self._batch_end = None
                self._step_over(self.next_offset, "its header is damaged", highwater)
            else:
                last = int.from_bytes(raw[:_LENGTH_AT], signed=True)
                self._step_over(last, "it is not in the message format of Kafka 0.11 and later", highwater)
            return True
        batch = DefaultRecordBatch(raw)
        last = batch.next_offset - 1
        if not batch.validate_crc():
            if self._reader.damaged_before(partition, self.next_offset):
                self._step_over(last, "it does not match its checksum", highwater)
            else:
                # The network may have damaged it: the rest of the buffer is fetched again.
                self._batch_end = None
                self._offset_after_batch = self.next_offset
            return True
        if self._is_passed_over(batch):
            self._offset_after_batch = last + 1
            return True
        if reason := self._reader.abandoned(partition):
            self._offset_after_batch = last + 1
            self._step_over(last, reason, highwater)
            return True
        parsed, self._parsed = self._parsed, None
        try:
            parsed = parsed or self._reader.parser.parse_on_loop(raw)
        except UnreadableBatchError as error:
            parsed = error
        if parsed is None:
            self._next_batch, self._batch_end = begin, end
            return False
        self._offset_after_batch = last + 1
        if isinstance(parsed, UnreadableBatchError):
            self._step_over(last, str(parsed), highwater)
        else:
            self._use(parsed, batch.base_offset, last, highwater)
        return True

    def _use(self, parsed: ParsedBatch, first: int, last: int, highwater: int | None) -> None:
        records = parsed.records
        offsets = [record.offset for record in records]
        if not are_within(offsets, first, last):
            self._step_over(last, "the offsets of its records are damaged", highwater)
            return
        # A fetch from the middle of a batch returns the whole batch.
        begin = bisect_left(offsets, self.next_offset)
        self._records = records[begin:] if begin else records
        self._memory_bytes = parsed.memory_bytes[begin:]

    def _is_passed_over(self, batch: Any) -> bool:
        """Whether a batch is a marker of a transaction, or belongs to one that was aborted."""
        transactions = self._partition_records
        transactions._consume_aborted_up_to(batch.base_offset)
        if batch.is_control_batch:
            if transactions._contains_abort_marker(batch):
                transactions._aborted_producers.discard(batch.producer_id)
            return True
        return batch.is_transactional and batch.producer_id in transactions._aborted_producers

    def _step_over(self, last_offset: int, reason: str, highwater: int | None) -> None:
        """Put an UnreadableBatch in place of the records up to `last_offset`.

        A damaged header can name any offset. Beyond the end of the partition the consumer would start again at its
        first record, so an impossible offset makes a step of one record.
        """
        first = self.next_offset
        if last_offset < first or (highwater is not None and last_offset >= max(highwater, first + 1)):
            last_offset = first
        self._records = (UnreadableBatch(first, last_offset, reason, int(time.time() * 1000)),)
        self._memory_bytes = (0, RECORD_OVERHEAD_BYTES)
        self._offset_after_batch = last_offset + 1
