"""Inflates compressed Kafka batches within a limit in bytes, before memory is taken.

Kafka limits the size of a batch after compression only: 16 KB on the wire can be 500 MB of records. aiokafka inflates
a batch without a limit, and refuses a gzip stream with bytes behind it, which Kafka and other clients accept.
"""

import mmap
import zlib
from collections.abc import Callable

import cramjam

HEADER_BYTES = 61
"""The size of a batch's header, which is never compressed."""

_ATTRIBUTES_AT, _CODEC_MASK = 22, 0x07
_GZIP_WBITS, _GZIP_MAGIC = 31, b"\x1f\x8b"
_GZIP_CHUNK_BYTES = 1024 * 1024
_XERIAL_MAGIC, _XERIAL_HEADER_BYTES, _XERIAL_LENGTH_BYTES = b"\x82SNAPPY\x00", 16, 4
_ZSTD_MAGIC, _ZSTD_SINGLE_SEGMENT, _ZSTD_MIN_WINDOW_LOG = b"\x28\xb5\x2f\xfd", 0x20, 10
# Inflating a small batch reuses the pages of the one before; those of a large one go back to the system.
_KEPT_BYTES = 1024 * 1024


class InflationError(Exception):
    """The records of a batch cannot be inflated, or exceed the limit; the message says why."""


class Inflater:
    """Inflates one batch at a time, to at most `max_bytes` beside its header.

    It reserves addresses for the largest batch. Memory is taken only for what a batch inflates to.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._room: mmap.mmap | None = None
        self._used_bytes = 0

    def inflate(self, batch: memoryview, max_bytes: int | None = None) -> memoryview:
        """The batch with its records uncompressed, valid until the next call; `batch` itself when it is already so.

        `max_bytes` is a lower limit for this batch. Raises InflationError.
        """
        codec = batch[_ATTRIBUTES_AT] & _CODEC_MASK
        if not codec:
            return batch
        inflate = _CODECS.get(codec)
        if inflate is None:
            raise InflationError(f"unknown compression codec {codec}")
        packed = batch[HEADER_BYTES:]
        if inflate is _zstd and (window_bytes := _zstd_window_bytes(packed)) > self.max_bytes:
            raise InflationError(
                f"zstd: needs a window of {window_bytes} bytes; at most {self.max_bytes} are inflated"
            )
        limit = self.max_bytes if max_bytes is None else min(max_bytes, self.max_bytes)
        self._used_bytes = HEADER_BYTES + limit
        room = self._whole_room()[: self._used_bytes]
        try:
            size = inflate(packed, room[HEADER_BYTES:])
        except InflationError as error:
            raise InflationError(f"{inflate.__name__.strip('_')}: {error}") from None
        except (cramjam.DecompressionError, zlib.error, ValueError) as error:
            if str(error) == _CRAMJAM_FULL:
                raise InflationError(_too_large(limit)) from None
            raise InflationError(f"{inflate.__name__.strip('_')}: {error}") from None
        self._used_bytes = HEADER_BYTES + size
        room[:HEADER_BYTES] = batch[:HEADER_BYTES]
        room[_ATTRIBUTES_AT] &= ~_CODEC_MASK & 0xFF
        return room[: self._used_bytes]

    def release(self) -> None:
        """Give the memory of a large batch back; what `inflate` returned is not valid any more."""
        if self._room is not None and self._used_bytes > _KEPT_BYTES:
            self._room.madvise(mmap.MADV_DONTNEED)
        self._used_bytes = 0

    def _whole_room(self) -> memoryview:
        if self._room is None:
            # Zero pages until they are written, whereas a bytearray writes zeros into all of them.
            self._room = mmap.mmap(
                -1, HEADER_BYTES + self.max_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            )
        return memoryview(self._room)


_CRAMJAM_FULL = "failed to write whole buffer"


def _too_large(max_bytes: int) -> str:
    return f"inflates to more than {max_bytes} bytes"


def _gzip(packed: memoryview, room: memoryview) -> int:
    """Like Java's reader: members one after the other, and whatever is behind the last one is ignored."""
    size = 0
    rest: memoryview | bytes = packed
    while not size or bytes(rest[:2]) == _GZIP_MAGIC:
        member = zlib.decompressobj(_GZIP_WBITS)
        while not member.eof:
            chunk = member.decompress(rest, _GZIP_CHUNK_BYTES)
            if size + len(chunk) > len(room):
                raise InflationError(_too_large(len(room)))
            room[size : size + len(chunk)] = chunk
            size += len(chunk)
            rest = member.unconsumed_tail
            if not rest and not chunk and not member.eof:
                raise InflationError("the stream ends early")
        rest = member.unused_data
        if not size:
            raise InflationError("the stream is empty")
    return size


def _snappy(packed: memoryview, room: memoryview) -> int:
    """Blocks in the framing of the Java library (xerial), or one block without a frame."""
    if bytes(packed[: len(_XERIAL_MAGIC)]) != _XERIAL_MAGIC:
        return _snappy_block(packed, room)
    size, at = 0, _XERIAL_HEADER_BYTES
    while at < len(packed):
        begin = at + _XERIAL_LENGTH_BYTES
        length = int.from_bytes(packed[at:begin], signed=True)
        if length <= 0 or begin + length > len(packed):
            raise InflationError(f"a block of {length} bytes at {at} of {len(packed)}")
        at = begin + length
        size += _snappy_block(packed[begin:at], room[size:])
    return size


def _snappy_block(block: memoryview, room: memoryview) -> int:
    if cramjam.snappy.decompress_raw_len(block) > len(room):
        raise InflationError("inflates to more bytes than are left of the limit")
    return cramjam.snappy.decompress_raw_into(block, room)


def _lz4(packed: memoryview, room: memoryview) -> int:
    return cramjam.lz4.decompress_into(packed, room)


def _zstd(packed: memoryview, room: memoryview) -> int:
    return cramjam.zstd.decompress_into(packed, room)


def _zstd_window_bytes(packed: memoryview) -> int:
    """The window that the first frame declares (RFC 8878, 3.1.1.1.2); 0 when its content is its window.

    The decoder reserves the window of a later frame too, up to 128 MiB, and writes no more of it than it inflates.
    """
    if len(packed) < 6 or bytes(packed[:4]) != _ZSTD_MAGIC or packed[4] & _ZSTD_SINGLE_SEGMENT:
        return 0
    base = 1 << (_ZSTD_MIN_WINDOW_LOG + (packed[5] >> 3))
    return base + base // 8 * (packed[5] & 7)


_CODECS: dict[int, Callable[[memoryview, memoryview], int]] = {1: _gzip, 2: _snappy, 3: _lz4, 4: _zstd}
