"""streams/checking/agreement.py: predictions agree within a tolerance, ids exactly."""

from typing import Any

import pytest

from streams.checking.agreement import differences


def sentences(expected: Any, actual: Any) -> list[str]:
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
def test_equal_values_and_close_fractions_agree(expected: Any, actual: Any) -> None:
    """Fractions within a thousandth; everything else exactly."""
    assert sentences(expected, actual) == []


@pytest.mark.parametrize(
    ("expected", "actual", "sentence"),
    [
        (0.81, 0.82, " is 0.82, not 0.81"),
        # Ids must be equal.
        ([100000], [100001], "/0 is 100001, not 100000"),
        (1, True, " is true, not 1"),
        ([1, 2], [1], " has 1 value, not 2"),
        ({"a/b": 1}, {}, "/a~1b is missing"),
        ({}, {"a": 1}, "/a is not expected"),
        ([1], {"0": 1}, " is an object, not a list"),
        (None, 0, " is 0, not null"),
        ("a" * 1000, "b", f' is "b", not "{"a" * 58}…'),
    ],
)
def test_a_difference_is_named_by_its_json_pointer(expected: Any, actual: Any, sentence: str) -> None:
    """Values are shortened in the message."""
    assert sentences(expected, actual) == [sentence]
