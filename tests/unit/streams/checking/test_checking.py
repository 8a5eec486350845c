"""streams/checking: the pure parts of `headrace check`."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import JsonObject
from schemas.json_schema import compile_schema
from schemas.mapping import Datatype, Mapping
from streams.checking.agreement import differences
from streams.checking.call_latency import Latency
from streams.checking.contradictions import contradictions, misfits, misnamed
from streams.checking.samples import MAX_ELEMENTS, sample_of
from workers.backends.description import DescribedTensor, ModelDescription

# --- samples


@pytest.mark.parametrize(
    ("schema", "sample"),
    [
        ({"type": "object", "properties": {"x": {"type": "number"}}}, {"x": 0}),
        ({"properties": {"x": {"type": "integer", "minimum": 3}}}, {"x": 3}),
        ({"properties": {"x": {"type": "integer", "exclusiveMinimum": 0}}}, {"x": 1}),
        ({"properties": {"x": {"type": "integer", "maximum": -2}}}, {"x": -2}),
        ({"properties": {"x": {"type": "number", "exclusiveMaximum": 0}}}, {"x": -0.5}),
        ({"properties": {"x": {"type": ["null", "string"], "minLength": 3.0}}}, {"x": "aaa"}),
        ({"properties": {"x": {"enum": ["b", "a"]}}}, {"x": "b"}),
        ({"properties": {"x": {"const": 7}, "y": {"default": False}}}, {"x": 7, "y": False}),
        ({"properties": {"x": {"examples": [4], "type": "integer"}}}, {"x": 4}),
        ({"properties": {"x": {"type": "array", "items": {"type": "boolean"}}}}, {"x": [False]}),
        (
            {"properties": {"x": {"type": "array", "items": {"type": "number"}, "minItems": 2.0}}},
            {"x": [0, 0]},
        ),
        ({"examples": [{"a": 1}]}, {"a": 1}),
        ({"type": "object"}, {}),
        ({"type": "number"}, 0),
    ],
)
def test_a_sample_of_a_simple_schema(schema: JsonObject, sample: JsonObject) -> None:
    """All properties, numbers next to zero, lists as short as they may be but not empty."""
    assert sample_of(schema) == sample


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"properties": {"x": True}},
        {"properties": {"x": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"type": "number"}}},
        {"properties": {"x": {"type": "string", "pattern": "^[0-9]{4}$"}}},
        {"properties": {"x": {"type": "integer", "multipleOf": 7, "minimum": 1}}},
        {"properties": {"x": {"type": "array"}}},
        {"properties": {"x": {"type": "array", "items": {"type": "null"}, "minItems": 10**12}}},
        {"properties": {"x": {"type": "string", "minLength": 10**12}}},
        {"type": "object", "required": ["y"]},
    ],
)
def test_no_sample_of_what_is_not_simple(schema: JsonObject) -> None:
    """Nothing is guessed, and nothing is made that fills the memory."""
    assert sample_of(schema) is None


def test_a_sample_is_never_large() -> None:
    """Lists in lists count together."""
    schema: JsonObject = {"type": "number"}
    for _ in range(3):
        schema = {"type": "array", "items": schema, "minItems": 100}
    assert MAX_ELEMENTS < 100**3
    assert sample_of(schema) is None
    assert sample_of(schema["items"]) == [[0] * 100] * 100


SHAPES = st.lists(st.integers(1, 3) | st.none(), max_size=3).map(tuple)
TENSORS = st.builds(
    DescribedTensor, st.sampled_from("abc"), st.just("t"), st.sampled_from(list(Datatype)), SHAPES
)


@given(st.lists(TENSORS, min_size=1, max_size=3, unique_by=lambda tensor: tensor.key))
def test_every_model_has_a_sample(tensors: list[DescribedTensor]) -> None:
    """What follows from tensors is simple, and contradicts itself nowhere."""
    schema = ModelDescription(tensors, []).input_schema()
    sample = sample_of(schema)
    assert sample.keys() == {tensor.key for tensor in tensors}
    assert contradictions(schema, compile_schema(schema), sample) == []


# --- contradictions

NEEDED: JsonObject = ModelDescription(
    [
        DescribedTensor("user", "user", Datatype.INT32, ()),
        DescribedTensor("history", "history", Datatype.FP32, (2,)),
        DescribedTensor("name", "name", Datatype.BYTES, ()),
    ],
    [],
).input_schema()
BASE = {"user": 3, "history": [0.5, 1], "name": "ann"}


def found(input_schema: JsonObject, base: JsonObject | None = None) -> list[str]:
    return contradictions(NEEDED, compile_schema(input_schema), base or BASE)


def test_a_schema_that_is_as_narrow_contradicts_nothing() -> None:
    """It may be narrower, say the same in other words, and speak of more."""
    assert found(NEEDED) == []
    narrower = NEEDED["properties"] | {"user": {"enum": [1, 2, 3]}, "more": {"type": "null"}}
    assert found({"allOf": [{"$ref": "#/$defs/n"}], "$defs": {"n": NEEDED | {"properties": narrower}}}) == []


def test_what_a_schema_lets_through_is_told_by_key() -> None:
    """What is missing, of another type, fractional, out of range, of another length."""
    missing, user, history, name = found(
        {
            "required": ["history", "name"],
            "properties": {
                "user": {"type": ["number", "null"]},
                "history": {"type": "array", "items": {"type": "number"}},
                "name": {},
            },
        }
    )
    assert missing == "input_schema does not require 'user', which the model needs; add it to `required`"
    assert user == (
        "input_schema lets through null, fractions, integers below -2147483648, integers above 2147483647 at "
        "'user', which the model cannot take; such requests are answered BACKEND_ERROR"
    )
    assert history.startswith("input_schema lets through a list of another length at 'history',")
    assert name.startswith("input_schema lets through null, a list, a number at 'name',")


def test_bounds_of_64_bits_are_nobody_s_business() -> None:
    """A plain `integer` is what everybody writes for INT64."""
    needed = ModelDescription([DescribedTensor("x", "x", Datatype.INT64, ())], []).input_schema()
    accepts = compile_schema({"required": ["x"], "properties": {"x": {"type": "integer"}}})
    assert contradictions(needed, accepts, {"x": 1}) == []
    unsigned = ModelDescription([DescribedTensor("x", "x", Datatype.UINT64, ())], []).input_schema()
    assert "integers below 0" in contradictions(unsigned, accepts, {"x": 1})[0]


def test_nothing_is_tried_from_what_does_not_fit_both() -> None:
    """An input that is wrong already shows nothing."""
    assert found({}, {"user": "u"}) == []
    assert contradictions(NEEDED, compile_schema({"maxProperties": 0}), BASE) == []
    assert contradictions(NEEDED, compile_schema({}), None) == []


def test_other_types_are_found_without_an_input() -> None:
    """By the types alone: a bound says nothing against a type."""
    schema = compile_schema(
        {
            "$ref": "#/$defs/i",
            "$defs": {"i": {"properties": {"user": {"type": "string"}}}},
            "minProperties": 9,
        }
    )
    (sentence,) = misfits("input_schema", NEEDED, schema)
    assert sentence.startswith(
        "input_schema does not fit what the model declares, at /user: 0 is not of type"
    )
    assert (
        misfits("output_schema", {"type": "number"}, compile_schema({"type": "number", "minimum": 5})) == []
    )
    assert "at its root" in misfits("output_schema", {"type": "number"}, compile_schema({"type": "array"}))[0]
    assert misfits("output_schema", {}, compile_schema({"type": "array"})) == []


def mapping(**tensors: JsonObject) -> Mapping:
    return Mapping.model_validate({"inputs": tensors})


def test_a_mapping_is_compared_with_what_the_server_declares() -> None:
    """By name, type and shape; a mapping may be narrower where the model leaves a size open."""
    described = ModelDescription(
        [
            DescribedTensor("tokens", "in_0", Datatype.INT64, (None,)),
            DescribedTensor("age", "age", Datatype.FP32, None),
        ],
        [],
    )
    tokens = {"tensor": "in_0", "datatype": "INT64", "shape": [16]}
    age = {"datatype": "FP32", "shape": [1]}
    assert misnamed(mapping(tokens=tokens, age=age), described) == []
    assert misnamed(mapping(tokens=tokens | {"datatype": "INT32"}, ages=age), described) == [
        "the mapping of 'tokens' is INT32, and the model declares INT64",
        "the mapping leaves out the input 'age' that the model declares",
        "the mapping of 'ages' names 'ages', which the model does not declare",
    ]
    assert misnamed(mapping(tokens=tokens | {"shape": []}, age=age), described) == [
        "the mapping of 'tokens' has shape [], and the model declares [-1] for one example"
    ]


# --- latency


def test_latency_of_the_times_of_calls() -> None:
    """Median and p99 are times that were measured; throughput counts examples, not calls."""
    latency = Latency.of(8, [0.001 * n for n in range(200, 0, -1)])
    assert (latency.calls, latency.median_ms, latency.p99_ms) == (200, 100.0, 198.0)
    assert latency.examples_per_second == pytest.approx(8 / 0.1005, abs=0.1)
    assert Latency.of(1, [0.25]) == Latency(1, 1, 250.0, 250.0, 4.0)


# --- agreement


def told(expected: Any, actual: Any) -> list[str]:
    return [f"{detail.path} {detail.message}" for detail in differences(expected, actual)]


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (0.8176, 0.8175744414329529),
        (0, 1e-7),
        (1, 1.0),
        ([1, [2.0001]], [1, [2.0]]),
        ({"a": "x", "b": None}, {"b": None, "a": "x"}),
        (True, True),
        (2**60, 2**60),
    ],
)
def test_what_agrees(expected: Any, actual: Any) -> None:
    """Numbers within a thousandth; everything else exactly."""
    assert told(expected, actual) == []


@pytest.mark.parametrize(
    ("expected", "actual", "sentence"),
    [
        (0.81, 0.82, " is 0.82, not 0.81"),
        # Ids that are near each other are no nearer for it.
        ([100000], [100001], "/0 is 100001, not 100000"),
        (1, True, " is true, not 1"),
        ([1, 2], [1], " has 1 values, not 2"),
        ({"a/b": 1}, {}, "/a~1b is missing"),
        ({}, {"a": 1}, "/a is not expected"),
        ([1], {"0": 1}, " is an object, not a list"),
        (None, 0, " is 0, not null"),
        ("a" * 1000, "b", f' is "b", not "{"a" * 58}…'),
    ],
)
def test_what_differs_is_told_with_its_place(expected: Any, actual: Any, sentence: str) -> None:
    """In few characters."""
    assert told(expected, actual) == [sentence]
