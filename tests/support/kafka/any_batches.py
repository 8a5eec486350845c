"""Hypothesis strategies: batches as any client, or hand-made bytes, can bring them to a broker."""

import gzip
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiokafka.codec import lz4_encode, snappy_encode, zstd_encode
from hypothesis import strategies as st

from schemas.events import JsonObject
from tests.support.kafka.raw_batches import HEADER_BYTES, bomb, change_batch, packed, sealed
from tests.support.near_json import near

Headers = list[tuple[str, bytes | None]]

CODECS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "gzip": (1, gzip.compress),
    "snappy": (2, snappy_encode),
    "lz4": (3, lz4_encode),
    "zstd": (4, zstd_encode),
}
_ATTRIBUTES_AT, _TIMES_AT, _COUNT_AT = 21, 27, 57
_MIB = 1 << 20
_HEADER_NAMES = (
    "headrace-source",
    "headrace-error-code",
    "traceparent",
    "tracestate",
    "kafka_correlationId",
    "x",
    "é",
    "",
)


@dataclass(frozen=True)
class AnyRecord:
    """A record that every client can write."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int | None
    """None for now."""

    def __repr__(self) -> str:
        key, value = (each and each[:200] for each in (self.key, self.value))
        headers = [(name, text and text[:20]) for name, text in self.headers[:3]]
        return f"({key!r}, {value!r}, {len(self.headers)} headers {headers}, {self.timestamp_ms})"


@dataclass(frozen=True)
class AnyBatch:
    """Records, and what was done to the bytes of their batch; `kind` names it in statistics."""

    kind: str
    records: list[AnyRecord]
    change: Callable[[bytes], bytes | bytearray]

    @property
    def is_whole(self) -> bool:
        """True when each record is there as it was written."""
        return self.kind in ("plain", *CODECS)

    def build(self, producer: Any) -> Any:
        """The batch for `AIOKafkaProducer.send_batch`."""
        batch = producer.create_batch()
        now_ms = int(time.time() * 1000)
        for record in self.records:
            at_ms = now_ms if record.timestamp_ms is None else record.timestamp_ms
            batch.append(key=record.key, value=record.value, timestamp=at_ms, headers=record.headers)
        return change_batch(batch, self.change)

    def __repr__(self) -> str:
        return f"{self.kind} {self.records}"


def _filled(byte: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from([1 << 16, _MIB, 2 * _MIB]).map(lambda size: byte * size)


@st.composite
def _records(draw: st.DrawFn, document: JsonObject) -> AnyRecord:
    value = st.one_of(
        near(document), near(document), st.none(), st.binary(max_size=30), _filled(b" "), _filled(b"[")
    )
    key = st.none() | st.binary(max_size=10) | _filled(b"k")
    header = st.tuples(
        st.sampled_from(_HEADER_NAMES),
        st.none() | st.binary(max_size=10) | st.just(b"h" * 5000),
    )
    # The place of a request makes a response one that can be logged.
    place = st.tuples(st.just("headrace-source"), st.integers(0, 99).map(lambda n: b"requests/0/%d" % n))
    headers = draw(st.lists(header | place, max_size=3))
    return AnyRecord(
        key=draw(key),
        value=draw(value),
        headers=headers * draw(st.sampled_from([1, 1, 1, 1000])),
        timestamp_ms=draw(st.sampled_from([None, None, None, 0, 1, 2**31, 2**53, 2**63 - 1])),
    )


@st.composite
def any_batches(draw: st.DrawFn, document: JsonObject) -> AnyBatch:
    """A batch of records near `document`, whole or with its bytes changed."""
    records = draw(st.lists(_records(document), min_size=1, max_size=4))
    kinds = [
        "plain",
        "plain",
        *CODECS,
        "bytes",
        "bytes in a codec",
        "no codec's bytes",
        "bytes behind",
        "bomb",
        "header",
    ]
    kind = draw(st.sampled_from(kinds))
    codec, pack = draw(st.sampled_from(list(CODECS.values())))
    if kind in CODECS:
        codec, pack = CODECS[kind]
    places = draw(
        st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4)
    )
    junk = draw(st.binary(min_size=1, max_size=40))
    bomb_bytes = draw(st.sampled_from([8, 64, 300])) * _MIB
    field_at, field = draw(
        st.sampled_from(
            [(_ATTRIBUTES_AT, ">h"), (_TIMES_AT, ">q"), (_TIMES_AT + 8, ">q"), (_COUNT_AT, ">i"), (23, ">i")]
        )
    )
    number = draw(st.sampled_from([-1, 0, 1, 2, 5, 8, 1000, 2**15 - 1]))

    def mutated(raw: bytes) -> bytearray:
        changed = bytearray(raw)
        for place, byte in places:
            changed[HEADER_BYTES + int(place * (len(raw) - HEADER_BYTES))] = byte
        return changed

    def with_field(raw: bytes) -> bytearray:
        changed = bytearray(raw)
        struct.pack_into(field, changed, field_at, number)
        return sealed(changed)

    changes: dict[str, Callable[[bytes], bytes | bytearray]] = {
        "plain": bytes,
        **dict.fromkeys(CODECS, lambda raw: packed(raw, codec, pack)),
        "bytes": lambda raw: sealed(mutated(raw)),
        "bytes in a codec": lambda raw: packed(mutated(raw), codec, pack),
        "no codec's bytes": lambda raw: packed(raw, codec, lambda _: junk),
        "bytes behind": lambda raw: packed(raw, codec, lambda body: pack(body) + junk),
        "bomb": lambda raw: bomb(raw, bomb_bytes),
        "header": with_field,
    }
    return AnyBatch(kind, records[:1] if kind == "bomb" else records, changes[kind])
