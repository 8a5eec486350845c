"""A Hypothesis strategy: JSON near a valid document, as somebody may write it to a topic by mistake or on purpose."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

from schemas.events import JsonObject

HOSTILE: list[Any] = [
    None,
    True,
    "",
    [],
    {},
    -1,
    0,
    2**31,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64,
    20_000_000_000_000_000_000,
    10**400,
    -(2**63),
    -0.0,
    5e-324,
    1e-300,
    1.5,
    1e308,
    float("nan"),
    float("inf"),
    "\0",
    "a\0b",
    "\x1b[1A\x1b[2K",
    "\u202e",
    "\u2028",
    "\ufffe",
    "\ud800",
    "É" * 127,
    "x" * 129,
    "x" * 3000,
    "x" * 100_000,
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "1969-12-31T23:59:59Z",
    "2026-11-25T12:00:00",
    {"x": 1},
    {"0": 1},
    {"-2048": 1, "4096": 2**63 - 1},
    {"4097": 1},
    {"-2049": 1},
    {"01": 1, "-0": 1},
    {str(number): 1 for number in range(2048)},
    {str(number): 1 for number in range(2049)},
    {"INTERNAL": 2**63 - 1, "MALFORMED_RECORD": 1},
    {"NO_SUCH_CODE": 1},
    {"INTERNAL\0": 1},
    "[" * 300,
]
_VALUES = st.sampled_from(HOSTILE) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)
_KEYS = st.text(max_size=10) | st.sampled_from(["a\0b", "\x1b[2K", "x" * 500, "1e5", "-1"])


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Each object or array in a value, with each of its keys."""
    keys = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    return [(value, key) for key in keys] + [place for key in keys for place in _places(value[key])]


@st.composite
def near(draw: st.DrawFn, document: JsonObject) -> bytes:
    """The bytes of `document` with up to three changes; sometimes of any other bytes."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=50) | st.sampled_from([b"", b"null", b"[" * 100_000, b'{"a":' * 5000]))
    changed = copy.deepcopy(document)
    for _ in range(draw(st.integers(0, 3))):
        places = _places(changed)
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(["replace", "replace", "replace", "add", "remove"])):
            case "replace":
                holder[key] = copy.deepcopy(draw(_VALUES))
            case "add" if isinstance(holder, dict):
                holder[draw(_KEYS)] = copy.deepcopy(draw(_VALUES))
            case _:
                del holder[key]
    return json.dumps(changed).encode()
