"""The port of workers/backends/port.py: the same tests on each backend and on the one in memory.

The model is y = 2x. An x far above a million takes it longer than any test waits.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import BackendFailedError, BackendUnavailableError
from schemas.events import JsonObject
from schemas.models import RequestForm
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.backends import open_inference, tensorflow, torchserve
from tests.support.models.onnx_files import save_doubler
from tests.support.models.served_versions import RecordingBackend, RecordingMeter, outcomes_of
from tests.support.servers.http_server import http_server, serve_doubler
from workers.backends.onnx import OnnxBackend
from workers.backends.port import Backend
from workers.backends.torchserve import TorchServeBackend
from workers.calls.dispatch import Dispatcher
from workers.calls.isolate import infer_each

SLOW: JsonObject = {"x": 10**15}
BAD: JsonObject = {"x": "no number"}


KINDS = (
    "memory",
    "onnx",
    "open-inference",
    "tensorflow row",
    "tensorflow value",
    "tensorflow column",
    "torchserve",
)


class MemoryDoubler(RecordingBackend):
    """y = 2x in memory; its gate is closed to SLOW."""

    def __init__(self) -> None:
        super().__init__(double)

    async def infer(self, inputs: Sequence[JsonObject], *, timeout_seconds: float) -> list[Any]:
        if SLOW in inputs:
            self.gate.clear()
        else:
            self.gate.set()
        return await super().infer(inputs, timeout_seconds=timeout_seconds)


def double(value: JsonObject) -> Any:
    if value == BAD:
        raise BackendFailedError("x is not a number")
    return 2 * value["x"]


@asynccontextmanager
async def loaded(kind: str, folder: Path) -> AsyncIterator[Backend]:
    if kind == "memory":
        yield MemoryDoubler()
        return
    if kind == "onnx":
        yield await OnnxBackend.load(save_doubler(folder / "m.onnx"), threads=1)
        return
    async with http_server(serve_doubler) as url:
        if kind == "open-inference":
            yield open_inference(f"{url}/v2/models/doubler")
        elif kind == "torchserve":
            yield torchserve(f"{url}/predictions/doubler", {"x": 1})
        else:
            yield tensorflow(f"{url}/v1/models/doubler", RequestForm(kind.removeprefix("tensorflow ")))


@pytest.fixture(params=KINDS)
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    async with loaded(request.param, tmp_path) as made:
        yield made
        await made.close()


@pytest.fixture
async def warm_backend(backend: Backend) -> Backend:
    await backend.warm()
    await backend.warm()
    return backend


def batch(numbers: list[int]) -> list[JsonObject]:
    return [{"x": number} for number in numbers]


@pytest.mark.parametrize("count", [0, 1, 2, 99, 100, 101, 1000])
async def test_as_many_predictions_as_inputs_in_order(warm_backend: Backend, count: int) -> None:
    """Whatever the size of the batch."""
    numbers = random.Random(count).choices(range(-1000, 1000), k=count)
    predictions = await warm_backend.infer(batch(numbers), timeout_seconds=DEADLINE_SECONDS)
    assert predictions == [2 * number for number in numbers]


async def test_many_batches_at_once(warm_backend: Backend) -> None:
    """Batches in flight together get their own predictions."""
    batches = [[first + step for step in range(30)] for first in range(20)]
    answers = await asyncio.gather(
        *(warm_backend.infer(batch(numbers), timeout_seconds=DEADLINE_SECONDS) for numbers in batches)
    )
    assert answers == [[2 * number for number in numbers] for numbers in batches]


async def test_a_bad_example_fails_its_batch(warm_backend: Backend) -> None:
    """As a whole, with a Headrace error; the next batch gets its predictions."""
    with pytest.raises(BackendFailedError):
        await warm_backend.infer([{"x": 1}, BAD, {"x": 2}], timeout_seconds=DEADLINE_SECONDS)
    assert await warm_backend.infer([{"x": 1}], timeout_seconds=DEADLINE_SECONDS) == [2]


async def test_isolated_a_bad_example_fails_alone(warm_backend: Backend) -> None:
    """`infer_each` answers all others."""
    inputs = [*batch(list(range(300))), BAD]
    random.Random(0).shuffle(inputs)
    for example, outcome in zip(
        inputs, await infer_each(warm_backend, inputs, timeout_seconds=DEADLINE_SECONDS), strict=True
    ):
        if example == BAD:
            assert isinstance(outcome, BackendFailedError)
        else:
            assert outcome == 2 * example["x"]


async def test_the_timeout_is_kept(warm_backend: Backend) -> None:
    """A slow call ends with its timeout, and the next call gets its predictions."""
    with pytest.raises(BackendUnavailableError, match=r"within 0\.2 s"):
        await warm_backend.infer([SLOW], timeout_seconds=0.2)
    assert await warm_backend.infer([{"x": 1}], timeout_seconds=DEADLINE_SECONDS) == [2]


async def test_a_cancelled_call_affects_no_other(warm_backend: Backend) -> None:
    """The next call gets its predictions."""
    call = asyncio.create_task(warm_backend.infer([SLOW], timeout_seconds=DEADLINE_SECONDS))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await warm_backend.infer([{"x": 1}], timeout_seconds=DEADLINE_SECONDS) == [2]


@pytest.fixture
def dispatcher(warm_backend: Backend) -> Dispatcher:
    """A dispatcher with the worker's options: TorchServe batches calls itself."""
    return Dispatcher(
        warm_backend,
        name="m v1",
        max_batch=1 if isinstance(warm_backend, TorchServeBackend) else 64,
        max_calls=8,
        timeout_seconds=DEADLINE_SECONDS,
        meter=RecordingMeter(),
    )


async def test_dispatched_callers_get_their_own_predictions(dispatcher: Dispatcher) -> None:
    """Whatever batches their inputs were in; a bad example fails alone."""
    callers: list[list[JsonObject]] = [
        [{"x": first + step} for step in range(1 + first % 37)] for first in range(0, 2000, 50)
    ]
    callers[3].insert(1, BAD)
    answers = await asyncio.gather(*(outcomes_of(dispatcher, inputs) for inputs in callers))
    for inputs, outcomes in zip(callers, answers, strict=True):
        for example, outcome in zip(inputs, outcomes, strict=True):
            if example == BAD:
                assert isinstance(outcome, BackendFailedError)
            else:
                assert outcome == 2 * example["x"]


async def test_dispatched_a_deadline_ends_the_call(dispatcher: Dispatcher) -> None:
    """So does a cancelled caller; the next call gets its predictions."""
    loop = asyncio.get_running_loop()
    (outcome,) = await outcomes_of(dispatcher, [SLOW], deadline_loop_seconds=loop.time() + 0.2)
    assert isinstance(outcome, BackendUnavailableError)
    cancelled = asyncio.create_task(outcomes_of(dispatcher, [SLOW], deadline_loop_seconds=loop.time() + 1))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert await outcomes_of(dispatcher, [{"x": 1}]) == [2]


async def test_a_closed_backend_is_unavailable(backend: Backend) -> None:
    """Closing is idempotent."""
    await backend.warm()
    await backend.close()
    await backend.close()
    with pytest.raises(BackendUnavailableError):
        await backend.infer([{"x": 1}], timeout_seconds=DEADLINE_SECONDS)
