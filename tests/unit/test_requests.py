"""streams/requests.py: from a record to a request, or to the refusal that names it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.errors import (
    DeadlineExceededError,
    HeadraceError,
    InvalidInputError,
    InvalidRequestError,
    MalformedRecordError,
    NoActiveVersionError,
    UnknownModelError,
)
from schemas.events import PredictRequest
from streams.requests import Work, admit, read
from streams.serving import ServingTable
from tests.serving import RecordingBackend, record_of, served_model, served_version

MAX_BYTES = 1024 * 1024
GOOD: dict[str, Any] = {"request_id": "r1", "model_name": "m", "user_id": "u", "input": {"x": 1}}


def read_of(**changes: Any) -> Work:
    document = {key: value for key, value in (GOOD | changes).items() if value is not ...}
    work = Work(record_of(json.dumps(document).encode()))
    read(work, MAX_BYTES)
    return work


def table_of(*, active: bool = True) -> ServingTable:
    version = served_version("m", "v1", RecordingBackend(), {"properties": {"x": {"type": "integer"}}})
    model = served_model("m", 4, version, active=active)
    return ServingTable(epoch=1, models={"m": model})


def test_reads_a_request() -> None:
    """All fields arrive; unknown ones are ignored; a deadline counts from the record's timestamp."""
    work = read_of(deadline_ms=250, something_new=[1])
    assert (work.request_id, work.model_name, work.user_id, work.input) == ("r1", "m", "u", {"x": 1})
    assert work.deadline_at_ms == work.record.timestamp + 250


@pytest.mark.parametrize(
    "request_id", [..., None, "", 7, ["r"], {"r": 1}, "x" * 129, "tab\there", "del\x7f", "c1\x85", True]
)
def test_without_a_usable_request_id_nobody_can_be_answered(request_id: Any) -> None:
    """The record is malformed, whatever else it holds."""
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
    """The refusal has the request's id and the field's pointer, and does not echo what is wrong."""
    with pytest.raises(InvalidRequestError) as caught:
        read_of(**{field: value})
    assert f"/{field}" in [detail.path for detail in caught.value.details]


def test_a_refusal_says_whom_it_refuses() -> None:
    """What could be read is there for the answer; what is wrong is not."""
    work = Work(record_of(json.dumps(GOOD | {"user_id": 5, "input": None}).encode()))
    with pytest.raises(InvalidRequestError) as caught:
        read(work, MAX_BYTES)
    assert (work.request_id, work.model_name, work.user_id) == ("r1", "m", "")
    assert sorted(detail.path for detail in caught.value.details) == ["/input", "/user_id"]


def test_admits_a_good_request() -> None:
    """It has its version, revision, digest and cache key."""
    work = read_of()
    admit(work, table_of(), now_ms=0)
    assert (work.model_version, work.revision) == ("v1", 4)
    assert work.cache_key == b"headrace:pred:m:v1:" + work.digest


def test_equal_inputs_share_a_key() -> None:
    """Key order does not matter; another value does."""
    keys = []
    for value in ({"x": 1, "y": 2}, {"y": 2, "x": 1}, {"x": 1, "y": 3}):
        work = read_of(input=value)
        admit(work, table_of(), now_ms=0)
        keys.append(work.cache_key)
    assert keys[0] == keys[1] != keys[2]


def test_refuses_what_cannot_be_served() -> None:
    """Unknown models, models without traffic, bad inputs and late requests each have their error."""
    with pytest.raises(UnknownModelError):
        admit(read_of(model_name="other"), table_of(), now_ms=0)
    with pytest.raises(NoActiveVersionError):
        admit(read_of(), table_of(active=False), now_ms=0)
    with pytest.raises(InvalidInputError) as caught:
        admit(read_of(input={"x": "text"}), table_of(), now_ms=0)
    assert [detail.path for detail in caught.value.details] == ["/x"]
    late = read_of(deadline_ms=5)
    with pytest.raises(DeadlineExceededError):
        admit(late, table_of(), now_ms=late.record.timestamp + 5)


def test_an_input_nested_too_deeply_is_refused() -> None:
    """It could be parsed but not digested: the one who sent it is told."""
    inner: Any = 1
    for _ in range(300):
        inner = [inner]
    with pytest.raises(InvalidRequestError, match="nested deeper"):
        admit(read_of(input={"x": inner}), table_of(), now_ms=0)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={name: ANYTHING | st.just(value) for name, value in (GOOD | {"deadline_ms": 250}).items()},
)


@given(DOCUMENTS)
def test_every_object_is_admitted_or_refused(document: dict[str, Any]) -> None:
    """No object makes anything but an admitted request or an error of the tree."""
    work = Work(record_of(json.dumps(document).encode()))
    try:
        read(work, MAX_BYTES)
        admit(work, table_of(), now_ms=0)
    except MalformedRecordError:
        assert not work.request_id
    except HeadraceError:
        assert work.request_id == document["request_id"]
    else:
        assert len(work.digest) == 32


@given(DOCUMENTS)
def test_the_schema_and_the_model_agree(document: dict[str, Any]) -> None:
    """What the published schema lets through is what the pydantic model lets through."""
    try:
        PredictRequest.model_validate(document)
        valid = True
    except ValidationError:
        valid = False
    work = Work(record_of(json.dumps(document).encode()))
    try:
        read(work, MAX_BYTES)
        assert valid
    except HeadraceError:
        assert not valid
