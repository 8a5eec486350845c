"""Records that may arrive in `model-promotions` and must be refused, each with its code.

They meet the registry that `LIFE` makes.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.events import JsonObject
from schemas.models import PromotionEvent
from schemas.wire import MAX_RECORD_BYTES
from tests.support.promotions.events import document, event, spec

LARGEST_EVENT_BYTES = 12 * 1024 * 1024
REVISION = 8

LIFE: Sequence[PromotionEvent] = (
    *(event("register", model=spec(version)) for version in ("old", "v1", "v2", "v3")),
    event("promote", version="old"),
    event("promote", version="v1"),
    event("canary", version="v2", weight=10),
    event("archive", version="v3"),
    event("register", "first", model=spec("v1")),
    event("promote", "first", version="v1"),
    event("register", "idle", model=spec("v1")),
)
"""`m`: v1 has 90%, v2 is its canary, old is the rollback target, v3 archived. `first` never had another
production. `idle` has no traffic."""


_CONTROLS = re.compile("[\0\n]")


@dataclass(frozen=True)
class Case:
    """A record, the code of its refusal, and what the result says of the event."""

    name: str
    value: bytes | None
    code: str
    echo: JsonObject = field(default_factory=dict)
    key: bytes | None = b"m"


def encoded(body: JsonObject) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()


def echo(body: JsonObject) -> JsonObject:
    """What a result repeats of an event: what is text, no more of it than an id may have, and no control character."""
    told = {name: body.get(name) for name in ("event_id", "model_name", "action", "actor")}
    return {
        name: _CONTROLS.sub("\ufffd", value[:128]) if isinstance(value, str) else ""
        for name, value in told.items()
    }


def unreadable(name: str, value: bytes | str | None, **fields: Any) -> Case:
    """Nothing can be said of the event."""
    content = value.encode() if isinstance(value, str) else value
    return Case(name, content, "INVALID_EVENT", echo({}), **fields)


def refused(code: str, action: Any, **fields: Any) -> Case:
    """An event that differs from a good one by what its name shows."""
    shown = ", ".join(f"{name} {_shown(value)}" for name, value in fields.items())
    body = document(action, **fields)
    return Case(f"{_shown(action)} {shown}"[:90], encoded(body), code, echo(body))


def _shown(value: Any) -> str:
    return "absent" if value is ... else json.dumps(value)[:30]


def raw(text: str | bytes, *, name: str = "reason") -> bytes:
    """A good event in which one field's value is written as it is, whatever it is."""
    content = text if isinstance(text, bytes) else text.encode()
    return encoded(document("rollback", **{name: "@"})).replace(b'"@"', content)


def padded(size: int) -> bytes:
    """A valid event of exactly this many bytes."""
    short = encoded(document("rollback", reason=""))
    return short.replace(b'"reason": ""', b'"reason": "%b"' % (b"x" * (size - len(short))))


def nested(levels: int) -> JsonObject:
    schema: JsonObject = {}
    for _ in range(levels):
        schema = {"not": schema}
    return schema


GOOD = encoded(document("rollback"))

MALFORMED = [
    unreadable("no value", None),
    unreadable("neither key nor value", None, key=None),
    unreadable("an empty value", b"", key=None),
    unreadable("white space", b" \n"),
    unreadable("no JSON", b"rollback m"),
    unreadable("invalid UTF-8", raw(b'"\xff\xfe"')),
    unreadable("an overlong encoding", raw(b'"\xc0\xaf"')),
    unreadable("a surrogate in bytes", raw(b'"\xed\xa0\x80"')),
    unreadable("a lone surrogate", raw('"\\ud800"')),
    unreadable("a lone surrogate in the id", raw('"\\udfff"', name="event_id")),
    unreadable("UTF-16", GOOD.decode().encode("utf-16")),
    unreadable("a byte order mark", b"\xef\xbb\xbf" + GOOD),
    unreadable("a NUL byte", raw(b'"\x00"')),
    *(unreadable(f"weight {text}", raw(text, name="weight")) for text in ("NaN", "-Infinity", "1e400", "05")),
    *(unreadable(f"cut at {size}", GOOD[:size]) for size in (1, 20, len(GOOD) - 1)),
    unreadable("something behind it", GOOD + b"x"),
    unreadable("two events", GOOD + GOOD),
    unreadable("a comment", b"/**/" + GOOD),
    unreadable("an array of events", b"[%b]" % GOOD),
    *(unreadable(f"the JSON value {text}", text) for text in ("null", "true", "5", '"rollback"', "[]")),
    unreadable("100,000 arrays", "[" * 100_000 + "]" * 100_000),
    unreadable("100,000 arrays in a field", raw("[" * 100_000 + "]" * 100_000)),
    unreadable("100,000 objects", '{"a":' * 100_000 + "1" + "}" * 100_000),
    unreadable("10 MB", padded(10_000_000)),
    unreadable("one byte too many", padded(MAX_RECORD_BYTES + 1)),
    # What is said of a record must fit a result, however large the record's key is.
    unreadable("a key of 1 MB", b"{", key=b"k" * 1_048_500),
]

NO_NAMES: Sequence[Any] = (..., None, "", 7, 1.5, True, [], {}, ["m"])
NO_IDS: Sequence[Any] = (*NO_NAMES, "x" * 129)
NO_MODELS: Sequence[Any] = (*NO_NAMES, "-m", "Upper", "a/b", "m" * 64, "m\n", "é", "\x00")
NO_ACTIONS: Sequence[Any] = (*NO_NAMES, "Promote", "delete", "promote ", "\x00")
NO_VERSIONS: Sequence[Any] = (*NO_NAMES, "-v", "v/1", "v" * 65, "v1\n", "\x00")
NO_WEIGHTS: Sequence[Any] = (..., None, "5", "NaN", True, [5], {"v2": 5})
NO_SPLITS: Sequence[Any] = (..., None, {}, [], "v2", 5, {"v2": "5"}, {"v2": None}, {"": 5}, {"v 2": 5})
NO_SALTS: Sequence[Any] = (*NO_NAMES, "s" * 129)
NO_REVISIONS: Sequence[Any] = (-1, 1.0, "8", True, [], 2**63, 2**70)
NO_ACTORS: Sequence[Any] = (None, 7, [], "\x00", "x" * 129)
NO_REASONS: Sequence[Any] = (None, 7, {}, "a\x00b", "x" * 1001)
NO_SECONDS: Sequence[Any] = (-1, 1.5, "300", 10**9)
NO_MILLISECONDS: Sequence[Any] = (0, -1, 600_001, 2.0)
BAD_WEIGHTS: Sequence[float] = (0, 100, -1, 120, 100.01, 5.001, 0.001, 1e-300, 1e300, 99.999)

SPEC = spec("v9")
NO_SPECS: Sequence[Any] = (
    *(..., None, "v9", 5, [], {}, [SPEC]),
    *({name: value for name, value in SPEC.items() if name != missing} for missing in SPEC),
    *(spec(version) for version in NO_VERSIONS if version is not ...),
    spec("v9", framework="pickle"),
    spec("v9", framework=None),
    spec("v9", framework="onnx"),
    spec("v9", framework="onnx", artifact_uri="file:///m.onnx", artifact_sha256="A" * 64),
    spec("v9", input_schema=True),
    spec("v9", input_schema=[]),
    spec("v9", input_schema={"type": "nonsense"}),
    spec("v9", output_schema={"$schema": "http://json-schema.org/draft-07/schema#"}),
    spec("v9", output_schema={"$schema": 7}),
    spec("v9", input_schema={"$ref": "https://example.org/schema.json"}),
    spec("v9", input_schema=nested(300)),
    spec("v9", metrics=[]),
    spec("v9", metrics={"accuracy": "\x00"}),
    *(spec("v9", cache_ttl_seconds=value) for value in NO_SECONDS),
    *(spec("v9", timeout_ms=value) for value in NO_MILLISECONDS),
    spec("v9", stale_policy="maybe"),
    *(spec("v9", max_batch=value) for value in (0, 4097, "8")),
    *(spec("v9", fallback=value) for value in ("v1", True)),
    *(spec("v9", server={"model": name}) for name in ("", "..", "a/b", "a?b", 7)),
    spec("v9", server={"version": "1"}),
    spec("v9", server={"max_calls": 0}),
    spec("v9", server={"form": "rows"}),
    spec("v9", mapping={"inputs": {}}),
    spec("v9", mapping={"inputs": {"x": {"datatype": "INT65"}}}),
    spec("v9", mapping={"inputs": {"x": {"datatype": "INT64", "shape": [-2]}}}),
    spec("v9", framework="torchserve", mapping={"inputs": {"x": {"datatype": "INT64"}}}),
    spec("v9", mapping={"inputs": {"x": {"datatype": "INT64"}}}, example={"input": {"x": "1"}}),
    spec("v9", example={"input": 7}),
    spec("v9", metrics={"note": "x" * 16_384}),
    spec("v9", created_by=7),
    spec("v9", created_by="x" * 129),
)

SHAPELESS = [
    *(refused("INVALID_EVENT", "rollback", event_id=value) for value in (*NO_IDS, "\x00", "a\x00b")),
    *(refused("INVALID_EVENT", "rollback", model_name=value) for value in NO_MODELS),
    *(refused("INVALID_EVENT", action) for action in NO_ACTIONS),
    *(refused("INVALID_EVENT", "promote", version=value) for value in NO_VERSIONS),
    *(refused("INVALID_EVENT", "canary", version="v2", weight=value) for value in NO_WEIGHTS),
    *(refused("INVALID_EVENT", "split", weights=value) for value in NO_SPLITS),
    *(refused("INVALID_EVENT", "reshuffle", salt=value) for value in (*NO_SALTS, "\x00")),
    *(refused("INVALID_EVENT", "register", model=value) for value in NO_SPECS),
    *(refused("INVALID_EVENT", "rollback", expected_revision=value) for value in NO_REVISIONS),
    *(refused("INVALID_EVENT", "rollback", actor=value) for value in NO_ACTORS),
    *(refused("INVALID_EVENT", "rollback", reason=value) for value in NO_REASONS),
]

UNWANTED = [
    refused("INVALID_EVENT", "promote", version="v2", weight=5),
    refused("INVALID_EVENT", "promote", version="v2", salt="s"),
    refused("INVALID_EVENT", "canary", version="v2", weight=5, weights={"v2": 5}),
    refused("INVALID_EVENT", "split", weights={"v2": 5}, version="v2"),
    refused("INVALID_EVENT", "rollback", weight=0),
    refused("INVALID_EVENT", "archive", version="v2", model=SPEC),
    refused("INVALID_EVENT", "reshuffle", salt="s", version="v1"),
    refused("INVALID_EVENT", "register", model=SPEC, version="v9"),
]


def filled(code: str, field: str, build: Callable[[str], JsonObject]) -> Case:
    """An event of the largest size, which is nearly all one text."""
    padding = MAX_RECORD_BYTES - len(encoded(build("")))
    body = build("x" * padding)
    return Case(f"1 MB of {field}", encoded(body), code, echo(body))


LARGEST = [
    filled("INVALID_EVENT", "actor", lambda text: document("rollback", "nobody", actor=text)),
    filled("INVALID_EVENT", "event_id", lambda text: document("rollback", event_id=text)),
    filled("INVALID_EVENT", "model_name", lambda text: document("rollback", text)),
    filled("INVALID_EVENT", "action", document),
    filled("INVALID_EVENT", "weights", lambda text: document("split", weights={f"/{text}": "5"})),
    filled(
        "INVALID_EVENT",
        "dialect",
        lambda text: document("register", model=spec("v9", input_schema={"$schema": text})),
    ),
    filled(
        "INVALID_EVENT",
        "type",
        lambda text: document("register", model=spec("v9", output_schema={"type": text})),
    ),
]


ILL_TIMED: Mapping[str, Sequence[tuple[str, JsonObject]]] = {
    "UNKNOWN_MODEL": [
        ("promote", {"model_name": "nobody", "version": "v1"}),
        ("canary", {"model_name": "nobody", "version": "v1", "weight": 5}),
        ("split", {"model_name": "nobody", "weights": {"v1": 5}}),
        ("rollback", {"model_name": "nobody"}),
        ("archive", {"model_name": "nobody", "version": "v1"}),
        ("reshuffle", {"model_name": "nobody", "salt": "s"}),
    ],
    "UNKNOWN_VERSION": [
        ("promote", {"version": "v9"}),
        ("canary", {"version": "v9", "weight": 5}),
        ("split", {"weights": {"v2": 5, "v9": 5}}),
        ("rollback", {"version": "v9"}),
        ("archive", {"version": "v9"}),
    ],
    "VERSION_EXISTS": [
        ("register", {"model": spec("v1", timeout_ms=1)}),
        ("register", {"model": spec("old", timeout_ms=1)}),
    ],
    "BAD_WEIGHT": [
        *(("canary", {"version": "v2", "weight": weight}) for weight in BAD_WEIGHTS),
        *(("split", {"weights": {"v2": weight}}) for weight in BAD_WEIGHTS),
        ("split", {"weights": {"v1": 0, "v2": 100}}),
        ("split", {"weights": {"v1": 50, "v2": 40}}),
        ("split", {"weights": {"v1": 50, "v2": 60}}),
    ],
    "ILLEGAL_TRANSITION": [
        ("promote", {"version": "old"}),
        ("promote", {"version": "v1"}),
        ("canary", {"version": "old", "weight": 5}),
        ("canary", {"version": "v1", "weight": 5}),
        ("split", {"weights": {"v2": 5, "v3": 5}}),
        ("rollback", {"version": "v1"}),
        ("rollback", {"model_name": "first"}),
        ("rollback", {"model_name": "idle"}),
        ("rollback", {"model_name": "idle", "version": "v1"}),
        ("canary", {"model_name": "idle", "version": "v1", "weight": 5}),
        ("split", {"model_name": "idle", "weights": {"v1": 5}}),
        ("archive", {"version": "v1"}),
        ("archive", {"version": "v2"}),
        ("archive", {"version": "v3"}),
        ("reshuffle", {"salt": "m"}),
    ],
    "STALE_REVISION": [
        *(("rollback", {"expected_revision": at}) for at in (0, REVISION - 1, REVISION + 1, 2**63 - 1)),
        ("register", {"model_name": "new", "model": SPEC, "expected_revision": 1}),
    ],
}
"""Events as they should be, at the wrong time or of the wrong things."""

CASES = [
    *MALFORMED,
    *SHAPELESS,
    *UNWANTED,
    *LARGEST,
    *(refused(code, action, **fields) for code, events in ILL_TIMED.items() for action, fields in events),
]
