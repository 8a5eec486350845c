"""streams/checking/samples.py: samples of simple schemas, and of nothing else."""

import pytest

from schemas.events import JsonObject
from streams.checking.samples import MAX_ELEMENTS, sample_of


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
    """All properties, the numbers closest to zero, the shortest lists that are not empty."""
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
def test_no_sample_of_a_schema_that_is_not_simple(schema: JsonObject) -> None:
    """No value is guessed, and none fills the memory."""
    assert sample_of(schema) is None


def test_a_sample_is_never_large() -> None:
    """The elements of nested lists count together."""
    schema: JsonObject = {"type": "number"}
    for _ in range(3):
        schema = {"type": "array", "items": schema, "minItems": 100}
    assert MAX_ELEMENTS < 100**3
    assert sample_of(schema) is None
    assert sample_of(schema["items"]) == [[0] * 100] * 100
