"""Kafka batches as bytes, changed by hand as no producer would write them."""

import struct
from collections.abc import Callable
from typing import Any

import cramjam
from aiokafka.record.util import calc_crc32c, encode_varint

HEADER_BYTES = 61
_ZSTD, _CHUNK_BYTES = 4, 1 << 20
_LENGTH_AT, _CRC_AT, _ATTRIBUTES_AT, _TIMESTAMPS_AT = 8, 17, 21, 27


def sealed(raw: bytes | bytearray) -> bytearray:
    """A batch whose length and checksum fit its bytes."""
    batch = bytearray(raw)
    struct.pack_into(">i", batch, _LENGTH_AT, len(batch) - 12)
    struct.pack_into(">I", batch, _CRC_AT, calc_crc32c(bytes(batch[_ATTRIBUTES_AT:])))
    return batch


def packed(raw: bytes | bytearray, codec: int, pack: Callable[[bytes], bytes]) -> bytearray:
    """An uncompressed batch with its records as `pack` returns them, and the number of their codec."""
    batch = bytearray(raw[:HEADER_BYTES]) + pack(bytes(raw[HEADER_BYTES:]))
    struct.pack_into(">h", batch, _ATTRIBUTES_AT, codec)
    return sealed(batch)


def undated(raw: bytes | bytearray) -> bytearray:
    """The batch without timestamps: Kafka has -1 in place of the first and of the largest one."""
    batch = bytearray(raw)
    struct.pack_into(">qq", batch, _TIMESTAMPS_AT, -1, -1)
    return sealed(batch)


def change_batch(batch: Any, change: Callable[[bytes], bytes | bytearray]) -> Any:
    """A batch of `AIOKafkaProducer.create_batch` that is sent as `change` returns its uncompressed bytes."""
    batch.close()
    batch._buffer = bytearray(change(bytes(batch._builder.build())))
    return batch


def bomb(raw: bytes | bytearray, value_bytes: int) -> bytearray:
    """The batch with one record of blanks instead of its own: some kilobytes that inflate to `value_bytes`."""
    size = bytearray()
    encode_varint(value_bytes, size.append)
    # Attributes, timestamp, offset, no key; the value; no headers.
    before, after = b"\x00\x00\x00\x01" + size, b"\x00"
    length = bytearray()
    encode_varint(len(before) + value_bytes + len(after), length.append)
    compressor = cramjam.zstd.Compressor()
    compressor.compress(bytes(length) + before)
    blanks = b" " * _CHUNK_BYTES
    for _ in range(value_bytes // _CHUNK_BYTES):
        compressor.compress(blanks)
    compressor.compress(after)
    return packed(raw, _ZSTD, lambda _: bytes(compressor.finish()))
