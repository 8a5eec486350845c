"""schemas/json_schema.py: the first faults of a value, at a cost that does not grow with it."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import ErrorDetail
from schemas.json_schema import (
    BEYOND,
    MAX_COPIED_VALUES,
    MAX_DETAILS,
    MAX_EXPLAINED_VALUES,
    CutCopy,
    Explanations,
    Validator,
    compile_schema,
    details,
)


class Counting:
    """A validator that counts the values that it makes errors of."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._validator = compile_schema(schema)
        self.explained = 0
        self.characters = 0
        self.whole = 0

    def is_valid(self, instance: Any) -> bool:
        return self._validator.is_valid(instance)

    def iter_errors(self, instance: Any) -> Iterator[Any]:
        values, characters = sizes(instance)
        self.explained += values
        self.characters += characters
        return self._validator.iter_errors(instance)

    def validate(self, instance: Any) -> None:
        self.whole += 1
        self._validator.validate(instance)


def sizes(value: Any) -> tuple[int, int]:
    """The number of values in a value, and of characters in its texts."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    found = [sizes(each) for each in inner]
    characters = len(value) if isinstance(value, str) else 0
    return 1 + sum(values for values, _ in found), characters + sum(each for _, each in found)


def deep(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = {"a": value, "b": [value] if levels < 12 else "x"}
    return value


NUMBERS = {"type": "object", "properties": {"x": {"items": {"type": "number"}}}}


@pytest.mark.parametrize(
    "value",
    [
        {"x": ["1.5"] * 200_000},
        {"x": [["1.5"] * 500] * 500},
        {"x": ["y" * 8000] * 100},
        {"x": "y" * 800_000},
        {"x": {str(number): "z" for number in range(100_000)}},
        {"x": [deep(11)] * 20},
        {"x": [deep(200)]},
    ],
    ids=["strings", "lists", "long strings", "one string", "an object", "a tree", "nested"],
)
@pytest.mark.parametrize(
    "schema",
    [
        NUMBERS,
        {"properties": {"x": {"type": "number"}}},
        {"not": {}},
        {
            "properties": {"x": {"$ref": "#/$defs/d"}},
            "$defs": {
                "d": {"anyOf": [{"type": "null"}, {"maxLength": 1, "maxItems": 1, "maxProperties": 1}]}
            },
        },
    ],
    ids=["items", "type", "not", "anyOf"],
)
def test_the_work_does_not_grow_with_the_value(schema: dict[str, Any], value: Any) -> None:
    """800 KB cost what the first values cost, and an answer has details of bounded size."""
    validator = Counting(schema)
    found = details(validator, value)
    assert validator.explained <= MAX_COPIED_VALUES + 10
    assert validator.characters <= 110_000
    assert validator.whole == 0
    assert 1 <= len(found) <= MAX_DETAILS
    assert all(len(detail.path) <= 200 and len(detail.message) <= 200 for detail in found)


def test_an_answer_has_the_first_faults() -> None:
    """By their places, and the same ones for a long list as for a short one."""
    validator = compile_schema(NUMBERS)
    short, long = (details(validator, {"x": ["1.5"] * count}) for count in (12, 50_000))
    assert [detail.path for detail in short] == [f"/x/{index}" for index in range(10)]
    assert short == long
    assert short[0].message == '"1.5" is not of type "number"'


@pytest.mark.parametrize(
    ("schema", "value", "found"),
    [
        # An embedding that is one number too short or too long.
        (
            {"minItems": 768, "maxItems": 768, "items": {"type": "number"}},
            [0.5] * 767,
            ["has less than 768 items"],
        ),
        (
            {"minItems": 768, "maxItems": 768, "items": {"type": "number"}},
            [0.5] * 769,
            ["has more than 768 items"],
        ),
        (
            {"minItems": 768, "items": {"type": "number"}},
            ["0.5"] * 768,
            ['"0.5" is not of type "number"'] * 10,
        ),
        ({"minLength": 3000}, "x" * 2999, ["shorter than 3000 characters"]),
        ({"items": {"type": "number"}}, [0.5] * 200 + ["x"], ['"x" is not of type "number"']),
        ({"items": {"type": "number"}}, [0.5] * 9000 + ["x"], [BEYOND]),
        ({"required": ["z"]}, {"a": [1] * 5000}, ['"z" is a required property']),
    ],
)
def test_the_cut_makes_no_faults_and_hides_few(schema: dict[str, Any], value: Any, found: list[str]) -> None:
    """What is left out of the copy is neither missed in it nor blamed on the sender."""
    messages = [detail.message for detail in details(compile_schema(schema), value)]
    assert len(messages) == len(found)
    for message, expected in zip(messages, found, strict=True):
        assert expected in message or message.endswith("…")


def test_explanations_end_with_their_budget() -> None:
    """A slice of 2,000 invalid records is explained as far as the budget goes."""
    validator = Counting(NUMBERS)
    explanations = Explanations()
    answers = [explanations.of(validator, {"x": ["1.5"] * 768}) for _ in range(2000)]
    explained = [answer for answer in answers if answer is not None]
    assert validator.explained <= MAX_EXPLAINED_VALUES + MAX_COPIED_VALUES
    assert answers == explained + [None] * (2000 - len(explained))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
)


@given(VALUES)
def test_a_small_value_is_copied_whole(value: Any) -> None:
    """Its details are those of the library."""
    copy = CutCopy(value)
    if copy.count < 100 and not copy.is_cut:
        assert copy.value == value
        validator: Validator = compile_schema({"type": "object", "additionalProperties": {"type": "integer"}})
        expected = [
            ErrorDetail(path="".join(f"/{step}" for step in error.instance_path), message=error.message)
            for error in validator.iter_errors(value)
        ]
        if expected:
            assert [each.message for each in details(validator, value)] == [
                each.message for each in expected[:MAX_DETAILS]
            ]
