# ruff: noqa: SLF001  # a batch with unusual header names is parsed through private names of aiokafka
"""Parses the records of one Kafka batch, within limits in bytes, records and headers."""

from functools import partial
from typing import Any

from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchPy
from aiokafka.record.util import decode_varint_py

from schemas.errors import UnreadableBatchError
from streams.kafka.inflation import HEADER_BYTES, Inflater, InflationError
from streams.kafka.offset_tracker import Record

_RECORD_COUNT_AT = 57
# Upper bounds of what a parsed record and a parsed header take beside their bytes.
_RECORD_BYTES, _HEADER_BYTES = 200, 100
# A header takes at least two bytes of a batch, and the smallest ones take 32 times their bytes.
_SMALLEST_HEADER_FACTOR = 32
_VARINT_BITS = 70


class BatchParser:
    """A batch may inflate to `max_bytes`; its parsed records and headers may each take as much beside their bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._inflater = Inflater(max_bytes)

    def parse(self, raw: memoryview) -> list[Record]:
        """The records of a batch in message format 2; raises UnreadableBatchError."""
        count = int.from_bytes(raw[_RECORD_COUNT_AT:HEADER_BYTES], signed=True)
        limit = self._inflater.max_bytes
        if count * _RECORD_BYTES > limit:
            raise UnreadableBatchError(f"has {count} records; at most {limit // _RECORD_BYTES} are read")
        if len(raw) - HEADER_BYTES > limit:
            raise UnreadableBatchError(f"has {len(raw)} bytes; at most {limit} are read")
        try:
            inflated = self._inflater.inflate(raw)
            size = len(inflated) - HEADER_BYTES
            if size * _SMALLEST_HEADER_FACTOR > limit:
                _check_headers(inflated[HEADER_BYTES:], count, limit // _HEADER_BYTES)
            try:
                return list(DefaultRecordBatch(inflated))
            except UnicodeDecodeError:
                return list(_with_any_header_names(inflated))
        except InflationError as error:
            raise UnreadableBatchError(str(error)) from None
        except (UnreadableBatchError, MemoryError):
            # Without memory this process reads nothing; that says little about the batch.
            raise
        except Exception as error:
            raise UnreadableBatchError(f"is damaged: {error!r}") from error
        finally:
            self._inflater.release()


def _check_headers(records: memoryview, count: int, max_headers: int) -> None:
    """Raise UnreadableBatchError when the records of a batch have more headers together.

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


def _with_any_header_names(inflated: memoryview) -> Any:
    batch = _DefaultRecordBatchPy(inflated)
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
