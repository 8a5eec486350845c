"""PURE. Compare predictions with expected ones; fractions may differ by a tolerance."""

import math
from collections.abc import Iterator
from typing import Any

import orjson

from schemas.events import ErrorDetail
from schemas.validation import json_pointer
from schemas.wording import number_of

# Another processor, or a number written with four digits, changes a 32-bit result by less.
RELATIVE_TOLERANCE = 1e-3
ABSOLUTE_TOLERANCE = 1e-6


def differences(expected: Any, actual: Any, path: str = "") -> Iterator[ErrorDetail]:
    """Yield where two predictions differ, by JSON pointer (RFC 6901) below `path`.

    Integers, such as ids and classes, must be equal; other numbers may differ by the tolerance.
    """
    if isinstance(expected, dict) and isinstance(actual, dict):
        for key in expected | actual:
            step = path + json_pointer([key])
            if key not in actual:
                yield ErrorDetail(path=step, message="is missing")
            elif key not in expected:
                yield ErrorDetail(path=step, message="is not expected")
            else:
                yield from differences(expected[key], actual[key], step)
    elif isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            yield ErrorDetail(
                path=path, message=f"has {number_of(len(actual), 'value')}, not {len(expected):,}"
            )
            return
        for index, (one, other) in enumerate(zip(expected, actual, strict=True)):
            yield from differences(one, other, f"{path}/{index}")
    elif not _agree(expected, actual):
        yield ErrorDetail(path=path, message=f"is {_shown(actual)}, not {_shown(expected)}")


def _agree(expected: Any, actual: Any) -> bool:
    if isinstance(expected, bool) or isinstance(actual, bool):
        return expected is actual
    if isinstance(expected, float | int) and isinstance(actual, float | int):
        if isinstance(expected, int) and isinstance(actual, int):
            return expected == actual
        return math.isclose(expected, actual, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
    return bool(expected == actual)


def _shown(value: Any) -> str:
    """A value in at most 60 characters, for messages."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    shown = orjson.dumps(value).decode()
    return shown if len(shown) <= 60 else f"{shown[:59]}…"
