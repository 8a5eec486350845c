"""schemas/misframed.py: what bytes look like that should be a JSON object."""

import base64
import bz2
import gzip
import json
import pickle
import zlib

import cramjam
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.misframed import MAX_LOOKED_AT_BYTES, envelope, look

OBJECT = b'{"request_id": "r", "model_name": "m", "user_id": "u", "input": {"a": 1}}'
TEXT = OBJECT.decode()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (
            b"\x00\x00\x00\x00\x2a" + OBJECT,
            "JSON of a schema registry's serializer (Confluent: a zero byte and the schema id 42",
        ),
        (b"\x00\x00\x00\x00\x2a\x02r", "Avro or Protobuf of a schema registry's serializer (Confluent"),
        (b"\x00" + (42).to_bytes(8) + OBJECT, "(Apicurio: a zero byte and the schema id 42 first)"),
        (b"\x03\x00" + bytes(16) + OBJECT, "AWS Glue"),
        (gzip.compress(OBJECT), "gzip"),
        (zlib.compress(OBJECT), "zlib"),
        (bz2.compress(OBJECT), "bzip2"),
        (bytes(cramjam.zstd.compress(OBJECT)), "zstd"),
        (bytes(cramjam.lz4.compress(OBJECT)), "an LZ4 frame"),
        (bytes(cramjam.snappy.compress(OBJECT)), "framed Snappy"),
        (b"Obj\x01\x04", "an Avro file"),
        (b"\xc3\x01" + bytes(8), "single-object encoding"),
        (b"\x0a\x02m1\x12\x01u", "Protobuf"),
        (msgspec.msgpack.encode({"request_id": "r"}), "MessagePack"),
        (b"\xa1\x62ab\x01", "CBOR"),
        (pickle.dumps({"request_id": "r"}), "a Python pickle"),
        (base64.b64encode(OBJECT), "JSON in Base64"),
        (base64.urlsafe_b64encode(OBJECT).rstrip(b"="), "JSON in Base64"),
        (json.dumps(base64.b64encode(OBJECT).decode()).encode(), "JSON in Base64"),
        (base64.b64encode(gzip.compress(OBJECT)), "gzip in Base64"),
        (json.dumps(TEXT).encode(), "encoded twice"),
        (TEXT.encode("utf-16"), "UTF-16"),
        (TEXT.encode("utf-16-le"), "UTF-16"),
        (TEXT.encode("utf-16-be"), "UTF-16"),
        (TEXT.encode("utf-32"), "UTF-32"),
        (TEXT.encode("utf-8-sig"), "a byte order mark"),
        ('{"name": "é"}'.encode("latin-1"), "Latin-1"),
        (str({"a": 1}).encode(), "a Python dict as text"),
        (b'{"a": NaN, "b": [-Infinity]}', "NaN or Infinity"),
        (OBJECT + b"\n" + OBJECT + b"\n", "several JSON objects"),
        (b"<request/>", "XML"),
        (b"request_id=r&user_id=u", "a web form"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_known_forms_are_named(value: bytes, told: str) -> None:
    """With what to do."""
    seen = look(value)
    assert seen.startswith("it looks like ")
    assert told in seen
    assert ": " in seen.split(told)[-1]


@pytest.mark.parametrize(
    "value",
    [b"plain text", b'{"a": 1', b'{"a": "NaN, "}', b"[1]", b"7", b"null", bytes(20), b"\xff" * 9, b"\x00"],
)
def test_other_values_are_not_guessed_at(value: bytes) -> None:
    assert look(value) == ""


@given(st.binary(min_size=1, max_size=200))
def test_any_bytes_have_a_text(value: bytes) -> None:
    assert len(look(value)) < 300


def test_of_a_large_value_only_its_beginning_is_looked_at() -> None:
    """A flood of large records must not become expensive."""
    assert look(base64.b64encode(b'{"a": "' + b"x" * MAX_LOOKED_AT_BYTES + b'"}')) == ""
    assert "gzip" in look(gzip.compress(OBJECT) + bytes(MAX_LOOKED_AT_BYTES))


def test_an_envelope_is_found_by_what_is_in_it() -> None:
    """Kafka Connect's converter with schemas, and CloudEvents."""
    assert envelope({"schema": {}, "payload": json.loads(OBJECT)}, "request_id") == "payload"
    assert envelope({"specversion": "1.0", "data": json.loads(OBJECT)}, "request_id") == "data"
    assert envelope({"payload": {"other": 1}, "data": "request_id"}, "request_id") is None
