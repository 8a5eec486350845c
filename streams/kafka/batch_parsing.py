# ruff: noqa: SLF001  # a batch with unusual header names is parsed through private names of aiokafka
"""Parses the records of one Kafka batch, within limits in bytes, records and headers."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain, islice, pairwise
from typing import Any, NamedTuple

from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchPy
from aiokafka.record.util import decode_varint_py

from schemas.errors import UnreadableBatchError
from schemas.wording import number_of
from streams.kafka.inflation import HEADER_BYTES, Inflater, InflationError
from streams.kafka.offset_tracker import HEADER_OVERHEAD_BYTES, RECORD_OVERHEAD_BYTES, Record, memory_of

_FIRST_TIMESTAMP_AT, _TIMESTAMP_BYTES, _RECORD_COUNT_AT = 27, 8, 57
# What the event loop may parse: at worst, a mebibyte of empty headers, it takes 50 ms.
LOOP_BYTES, _LOOP_RECORDS = 1024 * 1024, 20_000
# The interpreter changes between threads after this many records; aiokafka's compiled code never gives it away.
_RECORDS_AT_ONCE = 1000
_COMPILED_HEADERS = 20_000
# A header takes at least two bytes of a batch, and the smallest ones take 32 times their bytes.
_SMALLEST_HEADER_FACTOR = 32
_VARINT_BITS = 70


@dataclass(frozen=True, slots=True)
class UnreadableBatch:
    """Stands for the records of a batch that cannot be read, as the only record of its slice."""

    first_offset: int
    offset: int
    """The last offset of the batch."""
    reason: str
    timestamp: int
    key: None = None
    value: None = None
    headers: Sequence[tuple[str, bytes]] = ()


class ParsedBatch(NamedTuple):
    """The records of a batch, and the memory in bytes that the first 0, 1, 2 … of them take."""

    records: Sequence[Record]
    memory_bytes: Sequence[int] | range


class BatchParser:
    """A batch may inflate to `max_bytes`; its parsed records and headers may each take as much beside their bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._inflater = Inflater(max_bytes)

    def parse_on_loop(self, raw: memoryview) -> ParsedBatch | None:
        """Like `parse`; None for a batch that takes more time than the event loop may be held, or may be damaged."""
        limit = self._inflater.max_bytes
        if _record_count(raw) > min(_LOOP_RECORDS, limit // RECORD_OVERHEAD_BYTES):
            return None
        if len(raw) - HEADER_BYTES > min(LOOP_BYTES, limit):
            return None
        try:
            return self._parse(raw, min(LOOP_BYTES, limit))
        except InflationError:
            return None
        finally:
            self._inflater.release()

    def parse(self, raw: memoryview) -> ParsedBatch:
        """The records of a batch in message format 2; raises UnreadableBatchError.

        It takes seconds at worst. In a thread it gives the interpreter away every few milliseconds.
        """
        count, limit = _record_count(raw), self._inflater.max_bytes
        if count * RECORD_OVERHEAD_BYTES > limit:
            raise UnreadableBatchError(
                f"has {number_of(count, 'record')}; at most {limit // RECORD_OVERHEAD_BYTES} are read"
            )
        if len(raw) - HEADER_BYTES > limit:
            raise UnreadableBatchError(f"has {len(raw)} bytes; at most {limit} are read")
        try:
            return self._parse(raw, limit)
        except InflationError as error:
            raise UnreadableBatchError(str(error)) from None
        finally:
            self._inflater.release()

    def _parse(self, raw: memoryview, max_bytes: int) -> ParsedBatch:
        try:
            inflated = self._inflater.inflate(_dated(raw), max_bytes)
            size = len(inflated) - HEADER_BYTES
            is_large = size > LOOP_BYTES
            headers = 0
            if size * _SMALLEST_HEADER_FACTOR > self._inflater.max_bytes:
                headers = _check_headers(
                    inflated[HEADER_BYTES:],
                    _record_count(raw),
                    self._inflater.max_bytes // HEADER_OVERHEAD_BYTES,
                )
            try:
                if is_large and headers > _COMPILED_HEADERS:
                    records = _taken(_interpreted(inflated), is_large=is_large)
                else:
                    records = _taken(DefaultRecordBatch(inflated), is_large=is_large)
            except UnicodeDecodeError:
                records = _taken(_interpreted(inflated, any_header_names=True), is_large=is_large)
        except (InflationError, UnreadableBatchError, MemoryError):
            # Without memory this process reads nothing; that says little about the batch.
            raise
        except Exception as error:
            raise UnreadableBatchError(f"is damaged: {error!r}") from error
        if is_large:
            return ParsedBatch(records, [0, *accumulate(map(memory_of, records))])
        # Each record counts as much as any other: the sizes of the records of a small batch do not matter.
        headers = sum([len(record.headers) for record in records])
        share = 0
        if records:
            total = size + RECORD_OVERHEAD_BYTES * len(records) + HEADER_OVERHEAD_BYTES * headers
            share = -(-total // len(records))
        return ParsedBatch(records, range(0, (len(records) + 1) * share, share) if share else (0,))


def are_within(offsets: list[int], first: int, last: int) -> bool:
    """Whether the offsets rise from `first` or later to `last` or earlier; compaction leaves gaps."""
    if offsets == list(range(first, last + 1)):
        return True
    return all(before < after for before, after in pairwise([first - 1, *offsets, last + 1]))


def _dated(raw: memoryview) -> memoryview:
    """The batch, with the time of now where its producer gave its records none.

    Kafka has -1 in its place: taken for a time it is a request that has waited since 1970, whose deadline has passed.
    """
    end = _FIRST_TIMESTAMP_AT + _TIMESTAMP_BYTES
    if int.from_bytes(raw[_FIRST_TIMESTAMP_AT:end], signed=True) >= 0:
        return raw
    dated = bytearray(raw)
    dated[_FIRST_TIMESTAMP_AT:end] = int(time.time() * 1000).to_bytes(_TIMESTAMP_BYTES)
    return memoryview(dated)


def _record_count(raw: memoryview) -> int:
    return int.from_bytes(raw[_RECORD_COUNT_AT:HEADER_BYTES], signed=True)


def _taken(batch: Iterable[Record], *, is_large: bool) -> list[Record]:
    if not is_large:
        return list(batch)
    # `chain`, because aiokafka's iterator can be asked for only once, and not beyond its end.
    left, records = chain(batch), list[Record]()
    while part := list(islice(left, _RECORDS_AT_ONCE)):
        records += part
    return records


def _check_headers(records: memoryview, count: int, max_headers: int) -> int:
    """The number of headers of all records of a batch; raises UnreadableBatchError when there are more.

    Only for large batches: in a small one they take little memory, and this takes about 2 µs for each record.
    """
    at = headers = 0
    for _ in range(count):
        length, at = _varint(records, at)
        end = at + length
        at += 1  # attributes
        _, at = _varint(records, at)  # timestamp
        _, at = _varint(records, at)  # offset
        for _ in range(2):  # key, value
            size, at = _varint(records, at)
            at += max(size, 0)
        number, _ = _varint(records, at)
        headers += number
        if number < 0 or length < 0 or headers > max_headers:
            raise UnreadableBatchError(f"has more than {max_headers} headers, or a damaged record")
        at = end
    return headers


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A zigzag varint of Protocol Buffers, and where it ends; raises IndexError at the end of the data."""
    byte = data[at]
    at += 1
    value = byte & 0x7F
    shift = 7
    while byte & 0x80:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if shift > _VARINT_BITS:
            raise UnreadableBatchError("has a damaged record")
    return (value >> 1) ^ -(value & 1), at


def _interpreted(inflated: memoryview, *, any_header_names: bool = False) -> Any:
    """The records by aiokafka's interpreted reader; bytes in a header's name that are not UTF-8 become U+FFFD."""
    batch = _DefaultRecordBatchPy(inflated)
    if any_header_names:
        batch._buffer = _LenientText(batch._buffer)
    # Its compiled varint decoder reads beyond the end of the buffer, which can end the process.
    batch._read_msg = partial(batch._read_msg, decode_varint_py)
    return batch


class _LenientText(bytearray):
    """Bytes whose slices decode to text without raising."""

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        return _LenientText(part) if isinstance(key, slice) else part

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:  # noqa: ARG002  # never strict
        return super().decode(encoding, "replace")
