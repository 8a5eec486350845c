"""workers/backends/open_inference_messages.py: what goes over the wire, and what is believed of an answer."""

import math
from contextlib import suppress
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ArtifactError, BackendFailedError, NonFiniteResultError
from schemas.events import JsonObject
from workers.backends.open_inference_messages import (
    read_metadata,
    read_response,
    read_schema,
    write_request,
)
from workers.backends.responses import excerpt
from workers.backends.tensors import STRING, TensorSpec


def response(*outputs: Any, **more: Any) -> bytes:
    return orjson.dumps({"id": "7", "outputs": list(outputs), **more})


def output(data: Any, shape: Any, datatype: str = "INT64", name: str = "y") -> JsonObject:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def test_a_request_is_flat_and_typed() -> None:
    """Each input has its datatype, its shape with the batch, and its data in row-major order."""
    specs = [
        TensorSpec("m", np.dtype("float32"), (2, 2)),
        TensorSpec("s", STRING, (None,)),
        TensorSpec("b", np.dtype(bool), ()),
    ]
    inputs: list[JsonObject] = [
        {"m": [[1, 2], [3, 4.5]], "s": ["a"], "b": True},
        {"m": [[5, 6], [7, 8]], "s": ["b"], "b": False},
    ]
    assert orjson.loads(write_request("7", specs, inputs)) == {
        "id": "7",
        "inputs": [
            {"name": "m", "datatype": "FP32", "shape": [2, 2, 2], "data": [1, 2, 3, 4.5, 5, 6, 7, 8]},
            {"name": "s", "datatype": "BYTES", "shape": [2, 1], "data": ["a", "b"]},
            {"name": "b", "datatype": "BOOL", "shape": [2], "data": [True, False]},
        ],
    }


def test_content_types_are_parameters() -> None:
    """Of the request, and of the tensors that have one."""
    specs = [
        TensorSpec("a", np.dtype("float64"), ()),
        TensorSpec("b", STRING, (), content_type="str"),
    ]
    document = orjson.loads(write_request("7", specs, [{"a": 1, "b": "x"}], None, "pd"))
    assert document["parameters"] == {"content_type": "pd"}
    assert [tensor.get("parameters") for tensor in document["inputs"]] == [None, {"content_type": "str"}]


def nested_lists(shape: list[int], data: list[Any]) -> Any:
    return np.array(data, dtype=object).reshape(shape).tolist()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.data())
def test_values_come_back_in_their_shape(shape: list[int], data: st.DataObject) -> None:
    """Flat or nested data of any shape become one value for each example."""
    size = math.prod(shape)
    flat = data.draw(st.lists(st.floats(-1e9, 1e9), min_size=size, max_size=size))
    expected = nested_lists(shape, flat)
    for sent in (flat, expected):
        body = response(output(sent, shape, "FP64"))
        try:
            assert read_response(body, "7", shape[0]) == expected
        except BackendFailedError:
            # Refused on purpose: many lists of nothing.
            assert 0 in shape[1:]


def test_several_outputs_are_an_object() -> None:
    """By name; `id` may be missing, and unknown fields are ignored."""
    body = orjson.dumps(
        {
            "outputs": [output([1, 2], [2], name="a"), output(["x", "y"], [2], "BYTES", "b")],
            "parameters": {"anything": 1},
        }
    )
    assert read_response(body, "7", 2) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>busy</html>",
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe",
        b'{"id": "7", "outputs": [{"name": "y", "datatype": "FP64", "shape": [2], "data": [1.0, 1e999]}]}',
        response(),
        response(output([1, 2], [2]), id="8"),
        response(output([1, 2], [2]), output([1, 2], [2])),
        response([1, 2]),
        response({"datatype": "INT64", "shape": [2], "data": [1, 2]}),
        response({"name": "y", "datatype": "INT64", "shape": [2]}),
        response({"name": "y", "datatype": "INT64", "data": [1, 2]}),
        response(output([1, 2, 3], [3])),
        response(output([1], [1])),
        response(output([1, 2], [])),
        response(output([1, 2, 3], [2])),
        response(output([1, 2, 3], [2, 2])),
        response(output([1, 2], [2, -1])),
        response(output([1, 2], [2, 1.0])),
        response(output([1, 2], [True, 2])),
        response(output([1, 2], "2")),
        response(output("ab", [2])),
        response(output([[1], [2, 3]], [2, 1])),
        response(output([[1], [2, 3, 4]], [2, 2])),
        response(output([[1, 2], 3], [2, 2])),
        response(output([[1], [2]], [2])),
        response(output([], [2, 10**12, 0])),
        response(output([1, None], [2])),
        response(output([1, "2"], [2])),
        response(output([1, True], [2])),
        response(output([1, 0], [2], "BOOL")),
        response(output(["a", 1], [2], "BYTES")),
        response(output([{}, {}], [2], "FP32")),
    ],
)
def test_an_answer_that_is_not_whole_is_refused(body: bytes) -> None:
    """One of another request or batch, or with data that does not match its shape or type."""
    with pytest.raises(BackendFailedError):
        read_response(body, "7", 2)


@given(
    st.recursive(st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=2), st.lists, max_leaves=8)
)
def test_no_answer_raises_anything_else(junk: Any) -> None:
    """Any content of an output gives predictions or a Headrace error."""
    for body in (
        response(output(junk, [2])),
        response(output([1, 2], junk)),
        response(output([1, 2], [2], junk)),
        response(junk),
        orjson.dumps({"id": "7", "outputs": junk}),
        orjson.dumps(junk),
    ):
        with suppress(BackendFailedError):
            assert len(read_response(body, "7", 2)) == 2


def test_metadata_tells_the_inputs() -> None:
    """The first size is the batch; negative sizes are open."""
    body = orjson.dumps(
        {
            "name": "m",
            "inputs": [
                {"name": "x", "datatype": "FP32", "shape": [-1, 3, -1]},
                {"name": "s", "datatype": "BYTES", "shape": [8]},
            ],
        }
    )
    assert read_metadata(body, {}) == [
        TensorSpec("x", np.dtype("float32"), (3, None)),
        TensorSpec("s", STRING, ()),
    ]


@pytest.mark.parametrize(
    "inputs",
    [
        [{"name": "x", "datatype": "BF16", "shape": [-1]}],
        [{"name": "x", "datatype": "INT64"}],
        [{"datatype": "INT64", "shape": [-1]}],
        ["x"],
        [{"name": "x", "datatype": "INT64", "shape": [-1, "N"]}],
        [{"name": "x", "datatype": [], "shape": [-1]}],
    ],
)
def test_metadata_that_cannot_be_read_is_refused(inputs: Any) -> None:
    """The schema is no substitute for invalid metadata."""
    with pytest.raises(ArtifactError, match="metadata cannot be read"):
        read_metadata(orjson.dumps({"inputs": inputs}), {"properties": {"x": {"type": "integer"}}})


@pytest.mark.parametrize("body", [b"{}", b'{"inputs": []}', b'{"inputs": null}', b"no JSON", b"[]"])
def test_without_metadata_the_schema_tells(body: bytes) -> None:
    """Types come from the properties, ranks from nested arrays, and all sizes are open."""
    schema = {
        "properties": {
            "i": {"type": "integer"},
            "n": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
            "s": {"type": "array", "items": {"type": "string"}},
            "b": {"type": "boolean"},
        }
    }
    assert read_metadata(body, schema) == [
        TensorSpec("i", np.dtype("int64"), ()),
        TensorSpec("n", np.dtype("float64"), (None, None)),
        TensorSpec("s", STRING, (None,)),
        TensorSpec("b", np.dtype(bool), ()),
    ]


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"properties": {}},
        {"properties": {"x": {}}},
        {"properties": {"x": True}},
        {"properties": {"x": {"type": "object"}}},
        {"properties": {"x": {"type": ["number", "null"]}}},
        {"properties": {"x": {"type": "array"}}},
    ],
)
def test_a_schema_without_types_tells_nothing(schema: JsonObject) -> None:
    """The message names the missing type."""
    with pytest.raises(ArtifactError, match="the model server does not describe its inputs"):
        read_schema(schema)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": "no such model"}', "no such model"),
        (b'{"detail": [{"loc": ["x"]}]}', "[{'loc': ['x']}]"),
        (b"Internal\r\n\x1b[31mServer Error", "Internal[31mServer Error"),
        (b"\xff" + b"x" * 5000, "\N{REPLACEMENT CHARACTER}" + "x" * 199),
        (b"", ""),
    ],
)
def test_an_excerpt_is_short_and_printable(body: bytes, words: str) -> None:
    """At most 200 characters, without terminal control sequences."""
    assert excerpt(body) == words


@pytest.mark.parametrize("bad", [b"NaN", b"-Infinity", b"null"])
def test_a_value_that_json_has_not_fails_its_example(bad: bytes) -> None:
    """The other examples have their predictions; some servers write NaN as null."""
    body = (
        b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [3, 2], "data": [1, 2, 3, %b, 5, 6]}]}'
        % bad
    )
    first, failed, last = read_response(body, "7", 3)
    assert (first, last) == ([1, 2], [5, 6])
    assert isinstance(failed, NonFiniteResultError)
