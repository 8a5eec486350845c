"""Reads strict JSON; writes canonical JSON and its digest.

Limits of the reader beyond RFC 8259: UTF-8 only; no NaN, no Infinity, no number that overflows a double; no lone
surrogates; at most 1024 levels of nesting. The last one of duplicate keys counts. Integers beyond 64 bits are
read as floating-point numbers.
"""

import hashlib
from binascii import hexlify
from collections.abc import Iterable
from typing import Any

import orjson

from schemas.errors import MalformedRecordError
from schemas.events import JsonObject
from schemas.misframed import look

MAX_RECORD_BYTES = 1024 * 1024
# orjson writes fewer levels than it reads; `canonical` raises beyond this.
MAX_INPUT_NESTING = 254

# A form of this size has a buffer of a few kilobytes.
_SMALL_FORM_BYTES = 256
_dumps, _SORT_KEYS = orjson.dumps, orjson.OPT_SORT_KEYS
# The copy of a hash costs half of a new one.
_new_hash = hashlib.blake2b(digest_size=16).copy


def read_object(value: bytes | None, max_bytes: int = MAX_RECORD_BYTES) -> JsonObject:
    """Read a record's value as a JSON object.

    Raises MalformedRecordError for an empty or null value, for more than `max_bytes` (checked before parsing),
    and for JSON beyond the limits that the module's docstring lists. The message says what the value looks like.
    """
    if not value:
        raise MalformedRecordError("the record has no value; send a JSON object")
    if len(value) > max_bytes:
        raise MalformedRecordError(f"the record has {len(value)} bytes; at most {max_bytes} are accepted")
    try:
        document = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise _malformed(f"not valid JSON: {error}", value) from None
    if type(document) is not dict:
        raise _malformed(f"a JSON object is needed, not {_json_type(document)}", value)
    return document


def object_or_none(value: bytes | None) -> JsonObject | None:
    """The JSON object of a record that is passed over when it is not one."""
    try:
        return read_object(value)
    except MalformedRecordError:
        return None


def encode(value: Any, option: int | None = None) -> bytes:
    """JSON in memory of its own size, for bytes that are kept; `option` is orjson's. Raises orjson.JSONEncodeError.

    orjson's own result keeps the buffer that it was written to: 8 MiB for 200 KB of numbers.
    """
    form = _dumps(value, None, option)
    return form if len(form) <= _SMALL_FORM_BYTES else bytes(memoryview(form))


def canonical(value: Any) -> bytes:
    """The same bytes for equal JSON values: sorted keys, no white space, shortest numbers.

    Raises ValueError when `value` is nested deeper than `MAX_INPUT_NESTING` levels.
    """
    try:
        return _dumps(value, None, _SORT_KEYS)
    except orjson.JSONEncodeError as error:
        raise ValueError(str(error)) from None


def digest(canonical_form: bytes) -> bytes:
    """BLAKE2b-128 of a canonical form, in hexadecimal (RFC 7693)."""
    hashed = _new_hash()
    hashed.update(canonical_form)
    return hexlify(hashed.digest())


def digests(values: Iterable[Any]) -> list[bytes]:
    """The digest of each value's canonical form, without a call for each; empty for a value that has no such form."""
    dumps, sort_keys, new_hash = _dumps, _SORT_KEYS, _new_hash
    hexadecimal: list[bytes] = []
    for value in values:
        hashed = new_hash()
        try:
            # orjson takes a kilobyte for each form and gives most of it back: one that is dropped at once is in the
            # processor's cache for the next one.
            hashed.update(dumps(value, None, sort_keys))
        except orjson.JSONEncodeError:
            hexadecimal.append(b"")
        else:
            hexadecimal.append(hexlify(hashed.digest()))
    return hexadecimal


def _malformed(reason: str, value: bytes) -> MalformedRecordError:
    seen = look(value)
    return MalformedRecordError(f"{reason}; {seen}" if seen else reason)


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    return "a string" if isinstance(value, str) else "an array"
