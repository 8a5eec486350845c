"""schemas/wire.py: what is read, what is refused, and one digest for equal values."""

import contextlib
import json
import random
import tracemalloc
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import MalformedRecordError
from schemas.wire import MAX_INPUT_NESTING, canonical, digest, digests, encode, read_object

NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.text() | NUMBERS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no value"),
        (b"", "no value"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"a": "\xc3\x28"}', "not valid JSON"),
        (b'{"a": NaN}', "not valid JSON"),
        (b'{"a": Infinity}', "not valid JSON"),
        (b'{"a": 1e999}', "not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"a": "\\ud800"}', "not valid JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "not valid JSON"),
        (b'{"a": 1', "not valid JSON"),
        (b'{"a": 1} x', "not valid JSON"),
        (b"[1]", "not an array"),
        (b'"text"', "not a string"),
        (b"17", "not a number"),
        (b"true", "not a boolean"),
        (b"null", "not null"),
        (b'{"a": "' + b"x" * (1024 * 1024) + b'"}', "at most 1048576 are accepted"),
    ],
)
def test_refuses_what_is_no_strict_json_object(value: bytes | None, reason: str) -> None:
    """Each is refused with a reason, and with no other error."""
    with pytest.raises(MalformedRecordError, match=reason):
        read_object(value)


def test_the_last_of_duplicate_keys_counts() -> None:
    """As the contract says."""
    assert read_object(b'{"a": 1, "a": 2}') == {"a": 2}


def test_integers_beyond_64_bits_are_floating_point() -> None:
    """A 20-digit integer is read, inexactly."""
    assert read_object(b'{"a": 99999999999999999999}') == {"a": 1e20}


def test_exactly_the_limit_is_read() -> None:
    """A record of 1 MiB is read, one byte more is not."""
    value = b'{"a": "' + b"x" * (1024 * 1024 - 9) + b'"}'
    assert len(value) == 1024 * 1024
    assert read_object(value)["a"].startswith("x")


def test_nesting_up_to_the_limits() -> None:
    """What is documented as the limit is read and digested, the next level is not."""

    def nested(levels: int) -> bytes:
        return b'{"a":' * levels + b"1" + b"}" * levels

    assert read_object(nested(1024))
    with pytest.raises(MalformedRecordError):
        read_object(nested(1025))
    assert canonical(read_object(nested(MAX_INPUT_NESTING)))
    with pytest.raises(ValueError, match="ecursion"):
        canonical(read_object(nested(MAX_INPUT_NESTING + 1)))


@given(
    st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
def test_any_bytes_are_an_object_or_malformed(value: bytes) -> None:
    """Nothing but an object comes out, and nothing but MalformedRecordError is raised."""
    with contextlib.suppress(MalformedRecordError):
        assert type(read_object(value)) is dict


@given(st.dictionaries(st.text(), JSON, max_size=6), st.randoms(use_true_random=False))
def test_key_order_and_white_space_do_not_matter(value: dict[str, Any], chance: random.Random) -> None:
    """Equal objects, written differently, have one digest."""

    def shuffled(part: Any) -> Any:
        if isinstance(part, list):
            return [shuffled(item) for item in part]
        if isinstance(part, dict):
            items = list(part.items())
            chance.shuffle(items)
            return {key: shuffled(item) for key, item in items}
        return part

    one = read_object(json.dumps(value).encode())
    other = read_object(json.dumps(shuffled(value), indent=3, ensure_ascii=False).encode())
    assert digest(canonical(one)) == digest(canonical(other))


def test_different_values_differ() -> None:
    """Values that a schema may tell apart have digests of their own."""
    forms = [{"a": 1}, {"a": 1.5}, {"a": "1"}, {"a": True}, {"a": None}, {"a": [1]}, {"b": 1}, {}]
    assert len({digest(canonical(form)) for form in forms}) == len(forms)


@given(st.lists(JSON))
def test_many_digests_are_those_of_one_value_each(values: list[Any]) -> None:
    """A value without a canonical form has an empty one."""
    assert digests([*values, {"x": 2**64}]) == [*(digest(canonical(value)) for value in values), b""]


@given(JSON)
def test_what_is_encoded_is_what_orjson_writes(value: Any) -> None:
    """In every size."""
    assert encode(value) == orjson.dumps(value)
    assert encode([value] * 50) == orjson.dumps([value] * 50)


@pytest.mark.parametrize(
    "value",
    [
        [1000] * 40_000,
        [0.1] * 4000,
        [{"a": 1}] * 4000,
        {str(key): 1 for key in range(4000)},
        "a" * 4000,
        [[]] * 100,
    ],
    ids=["integers", "floats", "objects", "keys", "text", "small"],
)
def test_what_is_encoded_takes_memory_of_its_own_size(value: Any) -> None:
    """Predictions are kept until the broker has their responses."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        form = encode(value)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken < len(form) + 1000
