"""Records that may arrive in `predict-requests`, and what the contract says must become of each."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from schemas.events import JsonObject
from schemas.wire import MAX_INPUT_NESTING, MAX_RECORD_BYTES
from tests.support.models.served_model import LARGEST_OUTPUT

# Stands for the model in the table; as long as its name, so that sizes stay.
MODEL = "the-model-name"
IDLE_MODEL = "model-without-traffic"
REQUEST_ID = "the-request"

Headers = Sequence[tuple[str, bytes | None]]

TRACE: Headers = [
    ("traceparent", b"00-ab-cd-01"),
    ("tracestate", b"a=1"),
    ("kafka_correlationId", b"\x00\xff"),
]

NO_IDS: Sequence[Any] = (None, "", 7, 1.5, True, ["r"], {"r": 1}, "x" * 129, "a\nb", "\x00", "\x7f", "\x85")
NO_MODELS: Sequence[Any] = (..., None, "", 1, [], {}, True, "-m", "Upper", "a/b", "m" * 64, "m\n", "é")
NO_USERS: Sequence[Any] = (..., None, "", "u" * 257, 1, [], {}, False)
NO_INPUTS: Sequence[Any] = (..., None, "x", 1, [], [{"x": 1}], True)
NO_DEADLINES: Sequence[Any] = (0, -1, 600_001, 1.5, 250.0, 12345678901234567890, "250", True, [], {})


@dataclass(frozen=True)
class Case:
    """A record and what must become of it.

    `answer` is "ok" for predictions, an error code, or None when there is no response; `dead` is
    the code of its dead letter, None when there is none. `details` are the pointers of the error's
    details. `echo` is what the response says of the request where that is not what a good one says.
    """

    name: str
    value: bytes | None
    answer: str | None
    dead: str | None = None
    details: Sequence[str] = ()
    echo: JsonObject | None = None
    version: str = ""
    revision_known: bool = True
    key: bytes | None = b"u1"
    headers: Headers = ()
    carried: Headers = ()
    age_ms: int = 0


def document(**changes: Any) -> JsonObject:
    """A good request, changed; a field that is `...` is left out."""
    good = {"request_id": REQUEST_ID, "model_name": MODEL, "user_id": "u1", "input": {"x": 1}}
    return {name: value for name, value in (good | changes).items() if value is not ...}


def body(**changes: Any) -> bytes:
    return json.dumps(document(**changes), ensure_ascii=False).encode()


def raw(text: str | bytes, *, field: str = "input") -> bytes:
    """A good request in which one field's value is written as it is, whatever it is."""
    mark = b'"@"'
    content = text if isinstance(text, bytes) else text.encode()
    return body(**{field: "@"}).replace(mark, content)


def padded(size: int) -> bytes:
    """A valid request of exactly this many bytes."""
    short = body(padding="")
    return short.replace(b'"padding": ""', b'"padding": "%b"' % (b"x" * (size - len(short))))


def malformed(name: str, value: bytes | None, **fields: Any) -> Case:
    """Nobody can be answered."""
    return Case(name, value, answer=None, dead="MALFORMED_RECORD", **fields)


def fine(name: str, value: bytes, **fields: Any) -> Case:
    return Case(name, value, answer="ok", version="v1", **fields)


def wrong_field(field: str, value: Any) -> Case:
    """`request_id` can be read, so the sender gets an error; the error does not echo the wrong value."""
    shown = "absent" if value is ... else json.dumps(value)[:20]
    return Case(
        f"{field} {shown}",
        body(**{field: value}),
        answer="INVALID_REQUEST",
        details=[f"/{field}"],
        echo={field: ""} if field in ("model_name", "user_id") else None,
        revision_known=field != "model_name",
    )


def x_of(text: str) -> bytes:
    """A good request in which the input's `x` is written as it is."""
    return raw(f'{{"x": {text}}}')


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


UNREADABLE = [
    malformed("no value", None),
    malformed("neither key nor value", None, key=None),
    malformed("an empty value", b""),
    malformed("white space", b" \n"),
    malformed("invalid UTF-8", raw(b'{"x": 1, "s": "\xff\xfe"}')),
    malformed("an overlong encoding", raw(b'{"x": 1, "s": "\xc0\xaf"}')),
    malformed("a surrogate in bytes", raw(b'{"x": 1, "s": "\xed\xa0\x80"}')),
    malformed("a lone surrogate", raw('"\\ud800"', field="request_id")),
    malformed("a lone surrogate in the input", raw('{"x": 1, "s": "\\udfff"}')),
    malformed("a lone surrogate as a name", raw('{"x": 1, "\\ud800": 1}')),
    malformed("UTF-16", body().decode().encode("utf-16")),
    malformed("a byte order mark", b"\xef\xbb\xbf" + body()),
    malformed("NaN", x_of("NaN")),
    malformed("Infinity", x_of("Infinity")),
    malformed("minus Infinity", x_of("-Infinity")),
    malformed("a number beyond a double", x_of("1e999")),
    malformed("an integer of 5,000 digits", x_of("9" * 5000)),
    malformed("100,000 nested arrays", nested(100_000).encode()),
    malformed("100,000 nested arrays in the input", x_of(nested(100_000))),
    malformed("100,000 brackets that never close", raw("[" * 100_000)),
    malformed("100,000 nested objects", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    malformed("an array", b"[" + body() + b"]"),
    malformed("a string", b'"text"'),
    malformed("a number", b"12"),
    malformed("null", b"null"),
    malformed("true", b"true"),
    malformed("half a request", body()[:-5]),
    malformed("two requests", body() + body()),
    malformed("a comma too many", raw('{"x": 1,}')),
    malformed("single quotes", b"{'request_id': 'r'}"),
    malformed("a control character in a string", raw(b'"a\x01"', field="user_id")),
    malformed("an empty object", b"{}"),
    malformed("1 MiB and a byte", padded(MAX_RECORD_BYTES + 1)),
    malformed("1.9 MiB", padded(MAX_RECORD_BYTES * 19 // 10)),
    malformed("a key of 1 MiB", b"{", key=b"k" * MAX_RECORD_BYTES),
    malformed("headers of its own", b"{", headers=[("mine", b"1"), ("mine", b"2"), ("none", None), *TRACE]),
    malformed("headers of a dead letter", b"{", headers=[("headrace-source", b"before"), ("h", b"")]),
    malformed("a header of 900 KB and no key", b"{", key=None, headers=[("huge", b"h" * 900_000)]),
    *[malformed(f"request_id {json.dumps(wrong)[:20]}", body(request_id=wrong)) for wrong in NO_IDS],
    malformed("no request_id", body(request_id=...)),
    malformed("a duplicate request_id, the last one wrong", b'{"request_id": "r", "request_id": 5}'),
]

WRONG = [
    *[wrong_field("model_name", wrong) for wrong in NO_MODELS],
    *[wrong_field("user_id", wrong) for wrong in NO_USERS],
    *[wrong_field("input", wrong) for wrong in NO_INPUTS],
    *[wrong_field("deadline_ms", wrong) for wrong in NO_DEADLINES],
    Case(
        "everything wrong but request_id",
        body(model_name=1, user_id=None, input=[], deadline_ms="soon"),
        answer="INVALID_REQUEST",
        details=["/deadline_ms", "/input", "/model_name", "/user_id"],
        echo={"model_name": "", "user_id": ""},
        revision_known=False,
    ),
    Case(
        "300 nested arrays as model_name",
        raw(nested(300), field="model_name"),
        answer="INVALID_REQUEST",
        details=["/model_name"],
        echo={"model_name": ""},
        revision_known=False,
    ),
    Case(
        "300 nested levels in the input",
        x_of(nested(300)),
        answer="INVALID_REQUEST",
        version="v1",
    ),
    Case(
        "1,000 nested levels in the input",
        x_of(nested(1000)),
        answer="INVALID_REQUEST",
        version="v1",
    ),
    Case(
        "an unknown model",
        body(model_name="nobody-knows-me"),
        answer="UNKNOWN_MODEL",
        echo={"model_name": "nobody-knows-me"},
        revision_known=False,
    ),
    Case(
        "a model without active version",
        body(model_name=IDLE_MODEL),
        answer="NO_ACTIVE_VERSION",
        echo={"model_name": IDLE_MODEL},
    ),
    Case(
        "a deadline that has passed",
        body(deadline_ms=100),
        answer="DEADLINE_EXCEEDED",
        age_ms=5000,
    ),
]


def bad_input(name: str, value: JsonObject | bytes, *details: str) -> Case:
    record = value if isinstance(value, bytes) else body(input=value)
    return Case(name, record, answer="INVALID_INPUT", details=details, version="v1")


REFUSED_BY_SCHEMA = [
    bad_input("an empty input", {}, ""),
    bad_input("a string for an integer", {"x": "1"}, "/x"),
    bad_input("true for an integer", {"x": True}, "/x"),
    bad_input("null for an integer", {"x": None}, "/x"),
    bad_input("a fraction for an integer", {"x": 1.5}, "/x"),
    bad_input("below the minimum", {"x": -1}, "/x"),
    bad_input("an integer of 20 digits", {"x": 12345678901234567890}, "/x"),
    bad_input("an integer of 300 digits", x_of("1" + "0" * 300), "/x"),
    bad_input(f"{MAX_INPUT_NESTING - 1} nested levels", x_of(nested(MAX_INPUT_NESTING - 1)), "/x"),
    bad_input("a pointer that needs escapes", {"x": 1, "a/b~c": [1, "no"]}, "/a~1b~0c/1"),
    bad_input(
        "more faults than are told", {"x": 1, "a/b~c": ["no"] * 20}, *[f"/a~1b~0c/{at}" for at in range(10)]
    ),
    bad_input("a duplicate name, the last one wrong", raw('{"x": 1, "x": "1"}'), "/x"),
    bad_input("a long text", {"x": "é" * 100_000}, "/x"),
]

ODD_BUT_FINE = [
    fine("a record without key", body(), key=None),
    fine("an empty key", body(), key=b""),
    fine("a key that is no text", body(), key=b"\xff\x00"),
    fine("a key of 1 MiB", body(), key=b"k" * MAX_RECORD_BYTES),
    fine("exactly 1 MiB", padded(MAX_RECORD_BYTES)),
    fine("unknown fields", body(new_field={"a": [1]}, predictions=[9], error="no")),
    fine("unknown headers", body(), headers=[("other", b"1"), ("none", None), ("", b""), ("é", b"\xff")]),
    fine("headers that are carried over", body(), headers=[*TRACE, ("other", b"1")], carried=TRACE),
    fine("a carried header without value", body(), headers=[("traceparent", None)]),
    fine("a header of 900 KB", body(), headers=[("huge", b"h" * 900_000), *TRACE], carried=TRACE),
    fine("a carried header of 900 KB", body(), headers=[("tracestate", b"h" * 900_000)]),
    fine("10,000 headers", body(), headers=[(f"h{at}", b"1") for at in range(10_000)]),
    fine("duplicate names, the last ones good", b'{"request_id": 5, "input": [], %b' % body()[1:]),
    fine("a duplicate name in the input", raw('{"x": 9, "x": 1}')),
    fine("an integer written as a fraction", x_of("1.0")),
    fine("an integer of 20 digits in an unknown field", raw("12345678901234567890", field="more")),
    fine("300 nested levels in an unknown field", raw(nested(300), field="more")),
    fine("1,000 nested levels in an unknown field", raw(nested(1000), field="more")),
    fine("names and white space in any order", b'\n{ "input" : {"x":1}, ' + body(input=...)[1:-1] + b" } \t"),
    fine("escapes", body().replace(b"u1", rb"\u0075\u0031")),
    fine(
        "a request_id of 128 characters",
        body(request_id="é" * 127 + "😀"),
        echo={"request_id": "é" * 127 + "😀"},
    ),
    fine("a user_id of 256 characters", body(user_id="😀" * 256), echo={"user_id": "😀" * 256}),
    fine("a NUL in the user_id", raw('"a\\u0000b"', field="user_id"), echo={"user_id": "a\x00b"}),
    fine("no deadline", body(deadline_ms=None)),
    fine("a deadline to come", body(deadline_ms=600_000)),
    fine("a record from long ago", body(), age_ms=10 * 365 * 86_400_000),
    fine("a record from the future", body(), age_ms=-600_000),
    Case(
        "an output that fails its schema",
        body(input={"x": LARGEST_OUTPUT // 3 + 1}),
        answer="INVALID_OUTPUT",
        dead="INVALID_OUTPUT",
        details=["/2"],
        version="v1",
        headers=[("mine", b"1"), *TRACE],
        carried=TRACE,
    ),
]

CASES = [*UNREADABLE, *WRONG, *REFUSED_BY_SCHEMA, *ODD_BUT_FINE]
