# ruff: noqa: SLF001  # part of the batched transport, which uses private names
"""Takes records from aiokafka's fetched buffers, one Kafka batch at a time.

aiokafka itself copies each record into a second object with eleven fields, and a header whose name is not UTF-8
(other clients can write one) makes its fetcher raise for ever. This reader returns the parsed records without a
copy, and parses a batch with such a name again with U+FFFD in its place.
"""

from typing import Any

import aiokafka.consumer.fetcher
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

from streams.kafka.offset_tracker import Record

_LENGTH_AT, _LENGTH_BYTES, _LOG_OVERHEAD_BYTES = 8, 4, 12


class KeptRecords(MemoryRecords):  # type: ignore[misc]  # aiokafka is untyped
    """Fetched batches that keep the bytes from which they are parsed."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self.raw = raw


# The fetcher creates its buffers by this name. Other consumers of this process get KeptRecords too: they read them as
# before, and the raw bytes stay in memory as long as the buffer.
aiokafka.consumer.fetcher.MemoryRecords = KeptRecords


class _Unread:
    """The part of a fetched buffer that was not read yet."""

    def __init__(self, kept: KeptRecords, next_offset: int) -> None:
        self._kept = kept
        self._batches = 0
        self._records: list[Record] = []
        self._at = 0
        self._offset_after_batch = next_offset
        self.next_offset = next_offset

    @property
    def exhausted(self) -> bool:
        return self._at == len(self._records) and not self._kept.has_next()

    def take(self, limit: int) -> list[Record]:
        """Up to `limit` records, in order; raises CorruptRecordException."""
        taken: list[Record] = []
        while len(taken) < limit and not self.exhausted:
            if self._at == len(self._records):
                self._parse_next_batch()
            else:
                part = self._records[self._at : self._at + limit - len(taken)]
                taken += part
                self._at += len(part)
                self.next_offset = part[-1].offset + 1
            if self._at == len(self._records):
                # Larger than the last offset + 1 when compaction removed the records after it.
                self.next_offset = self._offset_after_batch
        return taken

    def _parse_next_batch(self) -> None:
        batch = self._kept.next_batch()
        self._batches += 1
        if not batch.validate_crc():
            raise CorruptRecordException("a fetched batch does not match its checksum")
        self._at = 0
        self._offset_after_batch = batch.next_offset
        if batch.is_control_batch:
            self._records = []
            return
        try:
            records = list(batch)
        except UnicodeDecodeError:
            records = list(_with_any_header_names(_nth_batch(self._kept.raw, self._batches - 1)))
        # A fetch from the middle of a batch returns the whole batch.
        self._records = [record for record in records if record.offset >= self.next_offset]


def install_batch_reader(fetched: FetchResult) -> None:
    """Replace `getall` of a fetch result by one that reads whole batches. Idempotent."""
    if "getall" in fetched.__dict__ or fetched._partition_records is None:
        return
    partition_records = fetched._partition_records
    # Breaks a reference cycle, so that the buffer is freed when it is used up and not at the next garbage collection.
    partition_records._records_iterator = None
    unread = _Unread(partition_records._records, partition_records.next_fetch_offset)

    def getall(max_records: int) -> list[Record]:
        taken: list[Record] = []
        if fetched.check_assignment(fetched._topic_partition) and fetched.has_more():
            taken = unread.take(max_records)
            partition_records.next_fetch_offset = unread.next_offset
            fetched._update_position()
            if unread.exhausted:
                fetched._partition_records = None
        if not fetched.has_more():
            del fetched.getall
        return taken

    fetched.getall = getall


def _nth_batch(raw: bytes, index: int) -> bytes:
    start = end = 0
    for _ in range(index + 1):
        start = end
        length = int.from_bytes(raw[start + _LENGTH_AT : start + _LENGTH_AT + _LENGTH_BYTES])
        end = start + _LOG_OVERHEAD_BYTES + length
    return raw[start:end]


def _with_any_header_names(raw: bytes) -> Any:
    batch = _DefaultRecordBatchPy(raw)
    batch._maybe_uncompress()
    batch._buffer = _LenientText(batch._buffer)
    return batch


class _LenientText(bytearray):
    """Bytes whose slices decode to text without raising."""

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        return _LenientText(part) if isinstance(key, slice) else part

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:  # noqa: ARG002  # never strict
        return super().decode(encoding, "replace")
