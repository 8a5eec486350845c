"""workers/calls/dispatch.py on simulated servers: a backlog is worked off with nothing failed, and at what rate.

The event loop's clock jumps to the next timer when nothing is ready, so the rates depend on no machine.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from schemas.errors import BackendTimeoutError
from schemas.events import JsonObject
from tests.support.models.served_versions import RecordingMeter, outcomes_of
from workers.calls.dispatch import Dispatcher

TIMEOUT_SECONDS = 2.0
OVERHEAD_SECONDS = 0.0003
ONNX_MAX_BATCH, ONNX_CALLS = 2048, 2
SERVER_MAX_BATCH, SERVER_CALLS = 256, 32
SLICE, SLICES = 2000, 8


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only by its timers."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]  # asyncio's own
            self._now = max(self._now, self._scheduled[0].when())  # type: ignore[attr-defined]  # asyncio's own
        super()._run_once()  # type: ignore[misc]  # asyncio's own


class SimulatedServer:
    """Executes `parallel` calls at once; further calls wait at the server, first in, first out."""

    takes_one = False

    def __init__(self, example_seconds: float, parallel: int, overhead_seconds: float) -> None:
        self._example_seconds = example_seconds
        self._overhead_seconds = overhead_seconds
        self._free = asyncio.Semaphore(parallel)
        self.is_slow = False

    async def infer(self, inputs: Sequence[JsonObject], *, timeout_seconds: float) -> list[Any]:
        try:
            async with asyncio.timeout(timeout_seconds), self._free:
                await asyncio.sleep(self._overhead_seconds + self._example_seconds * len(inputs))
        except TimeoutError:
            raise BackendTimeoutError("late") from None
        return [value["x"] for value in inputs]

    async def warm(self) -> None:
        """Nothing to warm."""

    async def close(self) -> None:
        """Nothing to close."""


def seconds_for(
    backlog: int,
    example_seconds: float,
    *,
    parallel: int = 1,
    max_batch: int = ONNX_MAX_BATCH,
    max_calls: int = ONNX_CALLS,
    overhead_seconds: float = OVERHEAD_SECONDS,
) -> float:
    """Work off a backlog, as many slices at once as a worker has; the simulated seconds that it takes."""
    meter = RecordingMeter()

    async def work_off() -> float:
        dispatcher = Dispatcher(
            SimulatedServer(example_seconds, parallel, overhead_seconds),
            name="m v1",
            max_batch=max_batch,
            max_calls=max_calls,
            timeout_seconds=TIMEOUT_SECONDS,
            meter=meter,
        )
        slots = asyncio.Semaphore(SLICES)

        async def ask(first: int) -> None:
            async with slots:
                numbers = range(first, min(first + SLICE, backlog))
                assert await outcomes_of(dispatcher, [{"x": number} for number in numbers]) == list(numbers)

        await asyncio.gather(*map(ask, range(0, backlog, SLICE)))
        await dispatcher.close()
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        seconds = runner.run(work_off())
    assert meter.opened == 0
    return seconds


@pytest.mark.parametrize(
    ("example_ms", "backlog"), [(0.001, 50_000), (0.1, 20_000), (1, 5000), (10, 5000), (100, 500)]
)
def test_a_backlog_before_a_model_in_this_process(example_ms: float, backlog: int) -> None:
    """The best batch loses the overhead of one call, at most."""
    best_seconds = backlog * example_ms / 1000
    assert seconds_for(backlog, example_ms / 1000) <= best_seconds / 0.9 + OVERHEAD_SECONDS * 30


@pytest.mark.parametrize("parallel", [1, 4, 32])
@pytest.mark.parametrize("example_ms", [500, 900, 1500])
def test_examples_that_take_much_of_the_timeout(example_ms: float, parallel: int) -> None:
    """Nothing fails, though two of them one after the other would take too long."""
    backlog = 200
    best_seconds = backlog * example_ms / 1000 / parallel
    taken = seconds_for(
        backlog, example_ms / 1000, parallel=parallel, max_batch=SERVER_MAX_BATCH, max_calls=SERVER_CALLS
    )
    # At first it learns, by timeouts of 2 s.
    assert taken <= best_seconds / 0.8 + 10


def test_a_call_that_takes_longer_than_a_quarter_of_the_timeout_whatever_its_size() -> None:
    """600 ms for a call: its inputs are not asked one by one after a timeout."""
    best_seconds = 5000 / ONNX_MAX_BATCH * (0.6 + ONNX_MAX_BATCH * 0.001)
    assert seconds_for(5000, 0.001, overhead_seconds=0.6) <= 8 * best_seconds


@pytest.mark.parametrize(
    ("example_ms", "backlog", "parallel"),
    [
        (0.1, 20_000, 1),
        (1, 5000, 1),
        (10, 5000, 1),
        (100, 500, 1),
        (1, 5000, 4),
        (10, 5000, 4),
        (100, 500, 4),
        (10, 20_000, 32),
        (100, 5000, 32),
    ],
)
def test_a_backlog_before_a_model_server(example_ms: float, backlog: int, parallel: int) -> None:
    """Nothing fails, and the server is used to at least 0.8 of what it executes at once."""
    best_seconds = backlog * example_ms / 1000 / parallel
    taken = seconds_for(
        backlog, example_ms / 1000, parallel=parallel, max_batch=SERVER_MAX_BATCH, max_calls=SERVER_CALLS
    )
    assert taken <= best_seconds / 0.8


def test_a_server_with_a_long_overhead_gets_large_batches() -> None:
    """100 ms for a call and 0.1 ms for an example: small batches would serve a fiftieth."""
    backlog = 20_000
    best_seconds = backlog * (0.1 / SERVER_MAX_BATCH + 0.0001)
    taken = seconds_for(
        backlog, 0.0001, overhead_seconds=0.1, max_batch=SERVER_MAX_BATCH, max_calls=SERVER_CALLS
    )
    assert taken <= best_seconds / 0.8
