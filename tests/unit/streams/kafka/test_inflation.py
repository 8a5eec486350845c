"""streams/kafka/inflation.py: what it inflates is what was packed, and never more than the limit."""

import contextlib
import gzip
import struct
from collections.abc import Callable

import cramjam
import pytest
from aiokafka import codec as aiokafka_codec
from hypothesis import example, given
from hypothesis import strategies as st

from streams.kafka.inflation import HEADER_BYTES, Inflater, InflationError

LIMIT = 10_000

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4

PACKERS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "gzip": (GZIP, gzip.compress),
    "gzip with bytes behind it": (GZIP, lambda body: gzip.compress(body) + b"xx"),
    "gzip in two members": (GZIP, lambda body: gzip.compress(body[:100]) + gzip.compress(body[100:])),
    "snappy as Java frames it": (
        SNAPPY,
        lambda body: aiokafka_codec.snappy_encode(body, xerial_blocksize=999),
    ),
    "snappy without a frame": (SNAPPY, lambda body: bytes(cramjam.snappy.compress_raw(body))),
    "lz4": (LZ4, aiokafka_codec.lz4_encode),
    "zstd": (ZSTD, aiokafka_codec.zstd_encode),
    "zstd in two frames": (
        ZSTD,
        lambda body: aiokafka_codec.zstd_encode(body[:100]) + aiokafka_codec.zstd_encode(body[100:]),
    ),
}


def batch(codec: int, packed: bytes) -> memoryview:
    header = bytearray(range(HEADER_BYTES))
    header[21:23] = struct.pack(">h", 0x10 | codec)
    return memoryview(bytes(header) + packed)


@pytest.mark.parametrize("packer", PACKERS)
@given(body=st.binary(min_size=1, max_size=500), times=st.integers(1, 60))
@example(body=b" ", times=LIMIT)
@example(body=b" ", times=LIMIT + 1)
def test_what_was_packed_is_inflated_up_to_the_limit(packer: str, body: bytes, times: int) -> None:
    """The header stays, but for its codec; one byte more than the limit is refused."""
    codec, pack = PACKERS[packer]
    body *= times
    inflater = Inflater(LIMIT)
    given_batch = batch(codec, pack(body))
    if len(body) > LIMIT:
        with pytest.raises(InflationError, match=r"inflates to more|needs a window"):
            inflater.inflate(given_batch)
    else:
        inflated = bytes(inflater.inflate(given_batch))
        assert inflated[HEADER_BYTES:] == body
        assert inflated[:22] == bytes(given_batch[:22])
        assert inflated[22] == 0x10
        assert inflated[23:HEADER_BYTES] == bytes(given_batch[23:HEADER_BYTES])
    inflater.release()


@given(st.integers(1, 7), st.sampled_from(list(PACKERS)), st.binary(max_size=300), st.data())
def test_any_bytes_are_inflated_or_refused(
    codec: int, packer: str, noise: bytes, data: st.DataObject
) -> None:
    """Random bytes, and packed ones that are cut or changed, end in bytes within the limit or in InflationError."""
    _, pack = PACKERS[packer]
    whole = pack(b"some records " * 50)
    at = data.draw(st.integers(0, len(whole)))
    for changed in (noise, whole[:at] + noise, whole[:at] + noise + whole[at + len(noise) :]):
        inflater = Inflater(LIMIT)
        with contextlib.suppress(InflationError):
            assert len(inflater.inflate(batch(codec, changed))) <= HEADER_BYTES + LIMIT
        inflater.release()


def test_a_batch_that_is_not_compressed_is_not_copied() -> None:
    """It comes back as it is."""
    plain = batch(0, b"records")
    assert Inflater(LIMIT).inflate(plain) is plain


def test_a_window_beyond_the_limit_is_refused() -> None:
    """A frame of a few bytes may ask the decoder for a window of gigabytes."""
    frame = b"\x28\xb5\x2f\xfd" + bytes([0, 21 << 3]) + b"\x01\x00\x00"
    with pytest.raises(InflationError, match="needs a window of 2147483648 bytes"):
        Inflater(LIMIT).inflate(batch(ZSTD, frame))


def test_a_block_with_a_negative_length_ends() -> None:
    """The reader of aiokafka goes round for ever at one."""
    framed = bytearray(aiokafka_codec.snappy_encode(b"x" * 100))
    framed[16:20] = struct.pack(">i", -4)
    with pytest.raises(InflationError, match="a block of -4 bytes"):
        Inflater(LIMIT).inflate(batch(SNAPPY, bytes(framed)))


def test_the_room_is_used_again() -> None:
    """Small and large batches one after the other, each as it is."""
    inflater = Inflater(4 << 20)
    for body in (b"a" * (3 << 20), b"b" * 10, b"c" * (2 << 20)):
        inflated = inflater.inflate(batch(ZSTD, aiokafka_codec.zstd_encode(body)))
        assert bytes(inflated[HEADER_BYTES:]) == body
        inflater.release()
