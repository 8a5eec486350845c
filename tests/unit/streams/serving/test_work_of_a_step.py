"""No step of the event loop does much more for the worst records that are taken than for ordinary ones.

Work is counted, not timed: what runs in Python by its calls, and what runs in the library of schemas by the values
that it explains. The library makes all errors of a value, at some microseconds each, before it returns the first.
"""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest

from schemas.events import JsonObject
from schemas.json_schema import (
    MAX_COPIED_VALUES,
    MAX_EXPLAINED_VALUES,
    MAX_LEFT_OUT,
    Validator,
    compile_schema,
    details,
    type_errors,
)
from streams.checking.contradictions import misfits
from streams.serving.route_table import ServedVersion
from tests.support.models.served_versions import RecordingBackend, served_version
from tests.support.worker.pipeline_harness import Harness, request

ORDINARY = 2000
"""Records of a full slice."""
TIMES_ORDINARY = 10
"""A step with an ordinary slice takes less than 10 ms."""
NUMBERS: JsonObject = {
    "type": "object",
    "properties": {"x": {"type": "array", "items": {"type": "number"}}},
}
OUTPUTS: JsonObject = {"type": "array", "items": {"type": "number"}}
# One explanation may exceed the budget, and one whole value that has little beside its copy is validated again.
MOST_EXPLAINED = MAX_EXPLAINED_VALUES + MAX_COPIED_VALUES + MAX_LEFT_OUT


def count_of(value: Any) -> int:
    """The values in a JSON value."""
    if isinstance(value, dict | list):
        return 1 + sum(map(count_of, value.values() if isinstance(value, dict) else value))
    return 1


class Counting:
    """A validator that counts the values which it explains."""

    def __init__(self, validator: Validator) -> None:
        self._validator = validator
        self.is_valid = validator.is_valid
        self.explained = 0

    def iter_errors(self, instance: Any) -> Iterator[Any]:
        self.explained += count_of(instance)
        return self._validator.iter_errors(instance)

    def validate(self, instance: Any) -> None:
        # It stops at the first error.
        self._validator.validate(instance)


class Steps:
    """The calls that each step of the event loop makes, in Python and from it."""

    def __init__(self) -> None:
        self.most = self._calls = 0

    def profile(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is asyncio.Handle._run.__code__:
            self._calls = 0
        elif event in {"call", "c_call"}:
            self._calls += 1
            self.most = max(self.most, self._calls)


@contextmanager
def counted_steps() -> Iterator[Steps]:
    steps, before = Steps(), sys.getprofile()
    sys.setprofile(steps.profile)
    try:
        yield steps
    finally:
        sys.setprofile(before)


def counting(backend: RecordingBackend) -> tuple[ServedVersion, Counting, Counting]:
    """A version whose validators count."""
    version = served_version("m", "v1", backend, NUMBERS, output_schema=OUTPUTS)
    takes, gives = Counting(compile_schema(NUMBERS)), Counting(compile_schema(OUTPUTS))
    return replace(version, input_validator=takes, output_validator=gives), takes, gives


async def most_calls(harness: Harness, requests: list[JsonObject]) -> int:
    """Of one step, while a slice of these requests is answered."""
    with counted_steps() as steps:
        answers = await harness.answer(*requests)
    assert len(answers) == len(requests)
    return steps.most


@pytest.fixture(scope="module")
def ordinary() -> int:
    """The most calls of one step with a slice of valid requests."""

    async def most() -> int:
        version, _, _ = counting(RecordingBackend(lambda value: value["x"]))
        requests = [request(str(at), [1.0, 2.0, at]) for at in range(ORDINARY)]
        return await most_calls(Harness(version), requests)

    return asyncio.run(most())


WORST_INPUTS: dict[str, Callable[[], list[JsonObject]]] = {
    "records of 800 KB": lambda: [request(str(at), ["x"] * 200_000) for at in range(3)],
    "embeddings as strings": lambda: [request(str(at), ["0.123"] * 768) for at in range(500)],
    "objects in place of numbers": lambda: [request("r", [{"a": [{}] * 9}] * 20_000)],
    "long strings": lambda: [request(str(at), ["x" * 999] * 10) for at in range(80)],
}


@pytest.mark.parametrize("requests", WORST_INPUTS.values(), ids=WORST_INPUTS)
async def test_invalid_inputs(requests: Callable[[], list[JsonObject]], ordinary: int) -> None:
    version, takes, _ = counting(RecordingBackend())
    most = await most_calls(Harness(version), requests())
    assert 0 < takes.explained <= MOST_EXPLAINED
    assert most <= TIMES_ORDINARY * ordinary


@pytest.mark.parametrize("outputs", [["0.1"] * 768, ["x"] * 100_000], ids=["embeddings", "800 KB"])
async def test_invalid_outputs(outputs: list[str], ordinary: int) -> None:
    """A canary that predicts text: its whole slice fails."""
    version, _, gives = counting(RecordingBackend(lambda _: outputs))
    most = await most_calls(Harness(version), [request(str(at), [at]) for at in range(500)])
    assert 0 < gives.explained <= MOST_EXPLAINED
    assert most <= TIMES_ORDINARY * ordinary


@pytest.mark.parametrize(
    "explain",
    [
        lambda validator: details(validator, ["x"] * 200_000),
        lambda validator: type_errors(validator, ["x"] * 200_000),
        lambda validator: misfits("output_schema", LARGE_OUTPUTS, validator),
    ],
    ids=["details", "type errors", "headrace check"],
)
def test_an_explanation_reads_the_first_values(explain: Callable[[Validator], Any]) -> None:
    """Also of `headrace check`, for a model with a large output."""
    validator = Counting(compile_schema(OUTPUTS))
    assert 0 < len(explain(validator)) <= 10
    assert validator.explained <= MAX_COPIED_VALUES


LARGE_OUTPUTS: JsonObject = {
    "type": "array",
    "minItems": 3,
    "maxItems": 3,
    "items": {"type": "array", "minItems": 30_000, "maxItems": 30_000, "items": {"type": "number"}},
}
