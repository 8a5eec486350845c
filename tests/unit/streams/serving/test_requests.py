"""streams/serving/requests.py: from a record to a request with its version, or to an error."""

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from schemas.errors import (
    DeadlineExceededError,
    HeadraceError,
    InvalidInputError,
    InvalidRequestError,
    MalformedRecordError,
    NoActiveVersionError,
    UnknownModelError,
)
from schemas.json_schema import Explanations
from streams.serving.requests import RequestContext, parse, route_and_validate
from streams.serving.route_table import ServingTable
from tests.support.models.served_versions import RecordingBackend, record_of, served_model, served_version

MAX_BYTES = 1024 * 1024
KNOWN = {"m"}
GOOD: dict[str, Any] = {"request_id": "r1", "model_name": "m", "user_id": "u", "input": {"x": 1}}


def read_of(**changes: Any) -> RequestContext:
    document = {key: value for key, value in (GOOD | changes).items() if value is not ...}
    context = RequestContext(record_of(json.dumps(document).encode()))
    parse(context, KNOWN, MAX_BYTES)
    return context


def table_of(*, active: bool = True, input_schema: Any = None) -> ServingTable:
    schema = {"properties": {"x": {"type": "integer"}}} if input_schema is None else input_schema
    version = served_version("m", "v1", RecordingBackend(), schema)
    model = served_model("m", 4, version, active=active)
    return ServingTable(epoch=1, models={"m": model})


def test_reads_a_request() -> None:
    """All fields arrive; unknown ones are ignored; a deadline counts from the record's timestamp."""
    context = read_of(deadline_ms=250, something_new=[1])
    assert (context.request_id, context.model_name, context.user_id, context.input) == (
        "r1",
        "m",
        "u",
        {"x": 1},
    )
    assert context.deadline_unix_ms == context.record.timestamp + 250


@pytest.mark.parametrize(
    "request_id", [..., None, "", 7, ["r"], {"r": 1}, "x" * 129, "tab\there", "del\x7f", "c1\x85", True]
)
def test_without_a_usable_request_id_the_record_is_malformed(request_id: Any) -> None:
    """Whatever its other fields are."""
    with pytest.raises(MalformedRecordError, match="request_id"):
        read_of(request_id=request_id)


WRONG: dict[str, list[Any]] = {
    "model_name": [..., None, "", "-m", "M", "m/n", "m" * 64, 1, []],
    "user_id": [..., None, "", "u" * 257, 1, {}],
    "input": [..., None, [], "x", 1],
    "deadline_ms": [0, -1, 600_001, 1.5, 250.0, "250", True, []],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in WRONG.items() for value in values]
)
def test_a_wrong_field_is_named(field: str, value: Any) -> None:
    """The error has the JSON pointer of the field."""
    with pytest.raises(InvalidRequestError) as caught:
        read_of(**{field: value})
    assert f"/{field}" in [detail.path for detail in caught.value.details]


def test_an_invalid_request_keeps_its_valid_fields() -> None:
    """For the response; the invalid fields stay empty."""
    context = RequestContext(record_of(json.dumps(GOOD | {"user_id": 5, "input": None}).encode()))
    with pytest.raises(InvalidRequestError) as caught:
        parse(context, KNOWN, MAX_BYTES)
    assert (context.request_id, context.model_name, context.user_id) == ("r1", "m", "")
    assert sorted(detail.path for detail in caught.value.details) == ["/input", "/user_id"]


def test_routes_a_valid_request() -> None:
    """It has its version, revision and digest."""
    context = read_of()
    route_and_validate(context, table_of(), now_unix_ms=0, stale=False, explanations=Explanations())
    assert (context.model_version, context.revision) == ("v1", 4)
    assert len(context.digest) == 32


def test_equal_inputs_share_a_digest() -> None:
    """Key order does not matter; another value does."""
    keys = []
    for value in ({"x": 1, "y": 2}, {"y": 2, "x": 1}, {"x": 1, "y": 3}):
        context = read_of(input=value)
        route_and_validate(context, table_of(), now_unix_ms=0, stale=False, explanations=Explanations())
        keys.append(context.digest)
    assert keys[0] == keys[1] != keys[2]


def test_refuses_what_cannot_be_served() -> None:
    """Unknown models, models without traffic, bad inputs and late requests each have their error."""
    with pytest.raises(UnknownModelError):
        route_and_validate(
            read_of(model_name="other"), table_of(), now_unix_ms=0, stale=False, explanations=Explanations()
        )
    with pytest.raises(NoActiveVersionError):
        route_and_validate(
            read_of(), table_of(active=False), now_unix_ms=0, stale=False, explanations=Explanations()
        )
    with pytest.raises(InvalidInputError) as caught:
        route_and_validate(
            read_of(input={"x": "text"}), table_of(), now_unix_ms=0, stale=False, explanations=Explanations()
        )
    assert [detail.path for detail in caught.value.details] == ["/x"]
    late = read_of(deadline_ms=5)
    with pytest.raises(DeadlineExceededError):
        route_and_validate(
            late, table_of(), now_unix_ms=late.record.timestamp + 5, stale=False, explanations=Explanations()
        )


def test_an_input_nested_too_deeply_is_refused() -> None:
    """The input can be parsed, but has no canonical form: the request is invalid."""
    inner: Any = 1
    for _ in range(300):
        inner = [inner]
    with pytest.raises(InvalidRequestError, match="nested deeper"):
        route_and_validate(
            read_of(input={"x": inner}), table_of(), now_unix_ms=0, stale=False, explanations=Explanations()
        )


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={name: ANYTHING | st.just(value) for name, value in (GOOD | {"deadline_ms": 250}).items()},
)


@given(DOCUMENTS)
def test_every_object_is_routed_or_refused(document: dict[str, Any]) -> None:
    """An object gives a valid request or an error of the tree, never another exception."""
    context = RequestContext(record_of(json.dumps(document).encode()))
    try:
        parse(context, KNOWN, MAX_BYTES)
        route_and_validate(context, table_of(), now_unix_ms=0, stale=False, explanations=Explanations())
    except MalformedRecordError:
        assert not context.request_id
    except HeadraceError:
        assert context.request_id == document["request_id"]
    else:
        assert len(context.digest) == 32


NUMBERS = ["18446744073709551615", "18446744073709551616", "-9223372036854775809", "1" + "0" * 400]
NUMBERS += ["1e400", "-0.0", "1E2", "0.1e-400", "NaN", "-Infinity", "01", "1.", "+1", "250", "250.0"]
TEXTS = [
    r'"\ud800"',
    r'"\udc00"',
    r'"\ud83d\ude00"',
    r'"\u0000"',
    r'"\u2028"',
    '"\x7f"',
    '"\u202e"',
    '"a\tb"',
]
PIECES = st.sampled_from([*NUMBERS, *TEXTS, "{}", "[]", "null", "true", '{"a": 1, "a": 2}', "[[[[1]]]]"])
FIELDS = st.sampled_from(["request_id", "model_name", "user_id", "input", "deadline_ms", "more"])


def outcome(value: bytes, known_models: set[str]) -> tuple[Any, ...]:
    """The request or the error of a record; without known models the strict reader reads it."""
    context = RequestContext(record_of(value, timestamp=0))
    try:
        parse(context, known_models, MAX_BYTES)
        route_and_validate(
            context, table_of(input_schema={}), now_unix_ms=0, stale=False, explanations=Explanations()
        )
    except HeadraceError as error:
        return type(error), str(error)
    return (
        context.request_id,
        context.model_name,
        context.user_id,
        context.input,
        context.deadline_unix_ms,
        context.digest,
    )


@given(
    st.lists(st.tuples(FIELDS, PIECES), max_size=3),
    st.one_of(PIECES.map(lambda piece: '{"x": ' + piece + "}"), PIECES),
    st.sampled_from(["", " ", "\n\t", "\ufeff", "}", "\x00"]),
)
def test_the_plain_reader_and_the_strict_one_agree(
    extra: list[tuple[str, str]], value: str, around: str
) -> None:
    """The plain reader accepts and refuses the same records, with the same result."""
    # A number that overflows and is replaced by a later key is refused by the strict reader only.
    assume(max(map(len, [value, *(piece for _, piece in extra)])) < 100 or "input" not in dict(extra))
    good = f'"request_id": "r1", "model_name": "m", "user_id": "u", "input": {value}'
    text = around + "{" + ", ".join([good, *(f'"{name}": {piece}' for name, piece in extra)]) + "}" + around
    assert outcome(text.encode("utf-8", "surrogatepass"), KNOWN) == outcome(text.encode(), set())


@given(st.integers(0, 200), st.binary(min_size=1, max_size=3), st.booleans())
def test_they_agree_on_damaged_bytes(position: int, damage: bytes, insert: bool) -> None:
    """A record with replaced or inserted bytes is read alike by both, or refused by both."""
    good = json.dumps(GOOD | {"input": {"x": 1, "ключ": ["ä", {"b": None}]}}, ensure_ascii=False).encode()
    at = position % len(good)
    damaged = good[:at] + damage + good[at if insert else at + len(damage) :]
    assert outcome(damaged, KNOWN) == outcome(damaged, set())


def test_integers_beyond_64_bits_are_read_as_the_contract_says() -> None:
    """The model sees the floating-point number that the strict reader makes of it."""
    context = read_of(input={"x": 99999999999999999999})
    route_and_validate(
        context, table_of(input_schema={}), now_unix_ms=0, stale=False, explanations=Explanations()
    )
    assert context.input == {"x": 1e20}
    assert type(context.input["x"]) is float
