"""PURE. What bytes look like that should be a JSON object and are not: for the dead letter of a record.

The commonest causes are a serializer that frames its records, a compression inside a record, and JSON that was encoded
once more. Only what was refused is looked at, so the cost concerns nobody else. Each form is known by its first bytes,
or by a check of the whole value; a value may look like something by chance, so the texts say "looks like".
"""

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any

import orjson

_ALONE = "send the JSON alone"
_PRODUCER = "set the compression of the producer (compression.type) instead"
_JSON = "send a JSON object in UTF-8"

# First bytes: the format, and what to do.
_PREFIXES: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "gzip", _PRODUCER),
    (b"\x28\xb5\x2f\xfd", "zstd", _PRODUCER),
    (b"\x04\x22\x4d\x18", "an LZ4 frame", _PRODUCER),
    (b"\xff\x06\x00\x00sNaPpY", "framed Snappy", _PRODUCER),
    (b"\x82SNAPPY\x00", "Snappy as Java writes it", _PRODUCER),
    (b"BZh", "bzip2", _PRODUCER),
    (b"\x78\x01", "zlib", _PRODUCER),
    (b"\x78\x9c", "zlib", _PRODUCER),
    (b"\x78\xda", "zlib", _PRODUCER),
    (b"PK\x03\x04", "a ZIP archive", _JSON),
    (b"Obj\x01", "an Avro file", _JSON),
    (b"\xc3\x01", "Avro with a schema fingerprint (single-object encoding)", _JSON),
    (b"PAR1", "Parquet", _JSON),
    (b"\xac\xed\x00\x05", "a serialized Java object", _JSON),
    (b"\x03\x00", "a record of the AWS Glue Schema Registry", _JSON),
    (b"\x03\x05", "a record of the AWS Glue Schema Registry", _JSON),
    (b"\xef\xbb\xbf", "text with a byte order mark", "send UTF-8 without it"),
    (b"\xff\xfe\x00\x00", "UTF-32", "send UTF-8"),
    (b"\x00\x00\xfe\xff", "UTF-32", "send UTF-8"),
    (b"\xff\xfe", "UTF-16", "send UTF-8"),
    (b"\xfe\xff", "UTF-16", "send UTF-8"),
    (b"{\x00", "UTF-16", "send UTF-8"),
    (b"\x00{", "UTF-16", "send UTF-8"),
)
_PICKLE = re.compile(rb"\x80[\x02-\x05].*\.\Z", re.DOTALL)
_CONFLUENT_BYTES, _APICURIO_BYTES = 5, 9
# A flood of large records must not become expensive by it.
MAX_LOOKED_AT_BYTES = 4 * 1024
_MAX_FIELDS = 64
# Registries number schemas from 1.
_MAX_SCHEMA_ID = 10_000_000
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{8,}={0,2}\Z")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_FORM = re.compile(rb"[\w.%+-]+=[^\s&{}]*(&[\w.%+-]+=[^\s&{}]*)*\Z")
# Fields in which other systems wrap a record's value.
ENVELOPE_FIELDS = ("payload", "data", "value", "after", "body", "message", "event")


def look(value: bytes) -> str:
    """What a value that is not a JSON object looks like, and what to do; "" when it looks like nothing known."""
    found = _framed(value)
    if found is None:
        found = next(((name, cure) for first, name, cure in _PREFIXES if value.startswith(first)), None)
    if found is None and len(value) <= MAX_LOOKED_AT_BYTES:
        found = next((known for check in _CHECKS if (known := check(value)) is not None), None)
    return "" if found is None else f"it looks like {found[0]}: {found[1]}"


def envelope(document: dict[str, Any], wanted: str) -> str | None:
    """The name of the field that holds an object with the field `wanted`, as Kafka Connect and CloudEvents wrap values."""
    for name in ENVELOPE_FIELDS:
        inner = document.get(name)
        if isinstance(inner, dict) and wanted in inner:
            return name
    return None


Found = tuple[str, str] | None


def _framed(value: bytes) -> Found:
    """The bytes of a schema registry's serializer: a zero byte, and the number of a schema in 4 or 8 bytes."""
    if len(value) < _CONFLUENT_BYTES or value[0] != 0:
        return None
    for registry, size in (("Confluent", _CONFLUENT_BYTES), ("Apicurio", _APICURIO_BYTES)):
        schema_id = int.from_bytes(value[1:size])
        if len(value) >= size and 0 < schema_id <= _MAX_SCHEMA_ID:
            inner = value[size:]
            if inner.lstrip()[:1] in (b"{", b"["):
                kind, cure = "JSON", _ALONE
            else:
                kind, cure = "Avro or Protobuf", _JSON
            return (
                f"{kind} of a schema registry's serializer ({registry}: a zero byte and the schema id {schema_id} first)",
                cure,
            )
    return None


def _pickle(value: bytes) -> Found:
    return ("a Python pickle", _JSON) if _PICKLE.match(value) else None


def _text_without_utf8(value: bytes) -> Found:
    try:
        value.decode()
    except UnicodeDecodeError:
        # Every byte is a character of Latin-1.
        if _is_object(value.decode("latin-1").encode()):
            return "JSON in Latin-1 or Windows-1252", "send UTF-8"
    return None


def _encoded_twice(value: bytes) -> Found:
    try:
        inner = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    if isinstance(inner, str):
        if _is_object(inner.encode()):
            return "JSON that was encoded twice: a string that holds an object", "send the object"
        return _in_base64(inner.encode())
    return None


def _in_base64(value: bytes) -> Found:
    text = value.strip()
    if _BASE64.match(text) is None:
        return None
    padded = text.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    try:
        inner = base64.b64decode(padded + b"=" * (-len(padded) % 4))
    except binascii.Error:
        return None
    if _is_object(inner):
        return "JSON in Base64", _ALONE
    nested = next((name for first, name, _ in _PREFIXES if inner.startswith(first)), None)
    return None if nested is None else (f"{nested} in Base64", _JSON)


def _python_text(value: bytes) -> Found:
    if value.lstrip().startswith((b"{'", b'{u"', b"{u'")):
        return "a Python dict as text, with single quotes", "send json.dumps of it"
    return None


def _not_a_number(value: bytes) -> Found:
    replaced = re.sub(rb"(?<=[\[:,\s])-?(NaN|Infinity)(?=\s*[,\]}])", b"null", value)
    return (
        ("JSON with NaN or Infinity", "JSON has no such numbers")
        if replaced != value and _is_object(replaced)
        else None
    )


def _several(value: bytes) -> Found:
    lines = [line for line in value.split(b"\n") if line.strip()]
    if len(lines) > 1 and all(map(_is_object, lines)):
        return "several JSON objects, one a line", "send one object in a record"
    return None


def _markup(value: bytes) -> Found:
    return ("XML", _JSON) if value.lstrip().startswith(b"<") else None


def _form(value: bytes) -> Found:
    return ("a web form (a=1&b=2)", _JSON) if _FORM.match(value) else None


def _message_pack(value: bytes) -> Found:
    if 0x81 <= value[0] <= 0x8F and len(value) > 2 and 0xA1 <= value[1] <= 0xBF:
        return "MessagePack", _JSON
    if 0xA1 <= value[0] <= 0xB7 and len(value) > 2 and 0x61 <= value[1] <= 0x77:
        return "CBOR", _JSON
    return None


def _is_object(value: bytes) -> bool:
    try:
        return isinstance(orjson.loads(value), dict)
    except orjson.JSONDecodeError:
        return False


def _varint(value: bytes, at: int) -> tuple[int, int] | None:
    number = 0
    for shift in range(0, 64, 7):
        if at >= len(value):
            return None
        byte = value[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    return None


def _protobuf(value: bytes) -> Found:
    """The first fields are whole: each has a key, and a value of the key's type. Text is not looked at."""
    if value.isascii() and _CONTROL.search(value) is None:
        return None
    at = 0
    for _ in range(_MAX_FIELDS):
        if at >= len(value):
            break
        key = _varint(value, at)
        if key is None or not 0 < key[0] >> 3 <= 1000:
            return None
        kind, at = key[0] & 7, key[1]
        if kind in (0, 2):
            number = _varint(value, at)
            if number is None:
                return None
            at = number[1] + (number[0] if kind == 2 else 0)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            return None
    return ("Protobuf", _JSON) if at <= len(value) else None


_CHECKS: tuple[Callable[[bytes], Found], ...] = (
    _pickle,
    _encoded_twice,
    _in_base64,
    _python_text,
    _not_a_number,
    _several,
    _markup,
    _form,
    _text_without_utf8,
    _message_pack,
    _protobuf,
)
