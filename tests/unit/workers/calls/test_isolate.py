"""workers/calls/isolate.py: bad examples fail alone, and failing has an end."""

import gc
import math
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import BackendFailedError, BackendTimeoutError, BackendUnavailableError
from schemas.events import JsonObject
from workers.calls.isolate import MAX_CALLS, SUSPICIOUS_CALLS, TRIED_ALONE, infer_each


class Doubler:
    """Predicts 2x; a batch with one of `bad` fails, and call number `lost_at` gets no answer."""

    takes_one = False

    def __init__(self, bad: set[int], lost_at: int | None = None) -> None:
        self.bad = bad
        self.lost_at = lost_at
        self.calls: list[int] = []
        self.longest_timeout_seconds = 0.0

    async def infer(self, inputs: Sequence[JsonObject], *, timeout_seconds: float) -> list[Any]:
        self.calls.append(len(inputs))
        self.longest_timeout_seconds = max(self.longest_timeout_seconds, timeout_seconds)
        if len(self.calls) == self.lost_at:
            raise BackendUnavailableError("lost")
        if any(example["x"] in self.bad for example in inputs):
            raise BackendFailedError("bad")
        return [2 * example["x"] for example in inputs]

    async def warm(self) -> None: ...

    async def close(self) -> None: ...


def batch(count: int) -> list[JsonObject]:
    return [{"x": number} for number in range(count)]


async def test_a_good_batch_is_one_call() -> None:
    """Only failed batches are halved."""
    backend = Doubler(bad=set())
    assert await infer_each(backend, batch(1000), timeout_seconds=5) == [2 * n for n in range(1000)]
    assert backend.calls == [1000]


@given(st.integers(1, 300), st.data())
async def test_exactly_the_bad_fail(count: int, data: st.DataObject) -> None:
    """Every good example gets its prediction, and the number of calls is logarithmic."""
    bad = data.draw(st.sets(st.integers(0, count - 1), max_size=5))
    backend = Doubler(bad)
    settled = await infer_each(backend, batch(count), timeout_seconds=60)
    for number, outcome in enumerate(settled):
        if number in bad:
            assert isinstance(outcome, BackendFailedError)
        else:
            assert outcome == 2 * number
    assert len(backend.calls) <= 1 + 2 * len(bad) * math.ceil(math.log2(count) if count > 1 else 0)


async def test_a_broken_backend_is_asked_a_bounded_number_of_times() -> None:
    """When all calls fail, the search ends early."""
    backend = Doubler(bad=set(range(1000)))
    settled = await infer_each(backend, batch(1000), timeout_seconds=60)
    assert all(isinstance(outcome, BackendFailedError) for outcome in settled)
    assert len(settled) == 1000
    assert len(backend.calls) == SUSPICIOUS_CALLS + TRIED_ALONE
    assert backend.longest_timeout_seconds == 60


async def test_many_bad_examples_are_no_broken_backend() -> None:
    """With a quarter bad, the good examples that are reached within `MAX_CALLS` get their predictions."""
    backend = Doubler(bad=set(range(0, 64, 4)))
    settled = await infer_each(backend, batch(64), timeout_seconds=60)
    assert [outcome for outcome in settled if not isinstance(outcome, BackendFailedError)] == [
        2 * number for number in range(64) if number % 4
    ]
    assert len(backend.calls) <= MAX_CALLS


async def test_examples_beyond_the_budget_are_left_to_the_dispatcher() -> None:
    """Their outcome is a timeout, so that each is tried in a call of its own; no good one fails for a bad one."""
    bad = set(range(0, 1024, 16))
    settled = await infer_each(Doubler(bad), batch(1024), timeout_seconds=60)
    assert any(isinstance(outcome, BackendTimeoutError) for outcome in settled)
    for number, outcome in enumerate(settled):
        if number in bad:
            assert isinstance(outcome, BackendFailedError | BackendTimeoutError)
        else:
            assert isinstance(outcome, BackendTimeoutError) or outcome == 2 * number


async def test_the_end_of_time_ends_it() -> None:
    """After twice the timeout no call is made, and every input has an outcome."""
    backend = Doubler(bad={0})
    settled = await infer_each(backend, batch(100), timeout_seconds=0)
    assert all(isinstance(outcome, BackendFailedError) for outcome in settled)
    assert backend.calls == [100]


@pytest.mark.parametrize("lost_at", [1, 2, 5])
async def test_a_backend_that_is_lost_is_not_asked_again(lost_at: int) -> None:
    """All inputs without an outcome fail then."""
    backend = Doubler(bad={3}, lost_at=lost_at)
    settled = await infer_each(backend, batch(64), timeout_seconds=60)
    assert len(backend.calls) == lost_at
    assert any(isinstance(outcome, BackendUnavailableError) for outcome in settled)
    for number, outcome in enumerate(settled):
        assert isinstance(outcome, BackendUnavailableError | BackendFailedError) or outcome == 2 * number


class Garbler(Doubler):
    """Reads invalid responses; `answers` has weak references to them."""

    class Answer(bytearray):
        """A response body."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__(bad=set())
        self._error = error
        self.answers: list[weakref.ref[Garbler.Answer]] = []

    async def infer(self, inputs: Sequence[JsonObject], *, timeout_seconds: float) -> list[Any]:
        assert timeout_seconds > 0
        body = self.Answer(b"garbage" * len(inputs))
        self.answers.append(weakref.ref(body))
        try:
            return [int(body)]
        except ValueError:
            raise self._error("garbage") from None


@pytest.mark.parametrize("error", [BackendUnavailableError, BackendFailedError])
async def test_an_error_holds_nothing_of_what_was_read(error: type[Exception]) -> None:
    """A kept error would keep large responses in memory until the next garbage collection."""
    backend = Garbler(error)
    gc.disable()
    try:
        outcomes = await infer_each(backend, batch(4), timeout_seconds=5)
        assert [type(outcome) for outcome in outcomes] == [error] * 4
        assert backend.answers
        assert all(answer() is None for answer in backend.answers)
    finally:
        gc.enable()
