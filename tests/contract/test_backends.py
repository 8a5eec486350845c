"""What every backend promises (`workers/backends/port.py`), on each of them with the same model: y = 2x.

What it is asked above a million takes it longer than any test waits.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from schemas.errors import BackendFailedError, BackendUnavailableError
from schemas.events import JsonObject
from schemas.models import RequestForm
from tests.support.models.backends import open_inference, tensorflow, torchserve
from tests.support.models.onnx_files import save_doubler
from tests.support.models.served_versions import RecordingMeter
from tests.support.servers.http_server import http_server, serve_doubler
from workers.backends.onnx import OnnxBackend
from workers.backends.port import Backend
from workers.backends.torchserve import TorchServeBackend
from workers.calls.dispatch import Dispatcher
from workers.calls.isolate import infer_each

SLOW: JsonObject = {"x": 10**15}
BAD: JsonObject = {"x": "no number"}


KINDS = "onnx", "open-inference", "tensorflow row", "tensorflow value", "tensorflow column", "torchserve"


@asynccontextmanager
async def loaded(kind: str, folder: Path) -> AsyncIterator[Backend]:
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
    predictions = await warm_backend.infer(batch(numbers), timeout_seconds=30)
    assert predictions == [2 * number for number in numbers]


async def test_many_batches_at_once(warm_backend: Backend) -> None:
    """Batches in flight together get their own predictions."""
    batches = [[first + step for step in range(150)] for first in range(20)]
    answers = await asyncio.gather(
        *(warm_backend.infer(batch(numbers), timeout_seconds=30) for numbers in batches)
    )
    assert answers == [[2 * number for number in numbers] for numbers in batches]


async def test_a_bad_example_fails_its_batch(warm_backend: Backend) -> None:
    """As a whole, with an error of the tree, and the next batch is answered."""
    with pytest.raises(BackendFailedError):
        await warm_backend.infer([{"x": 1}, BAD, {"x": 2}], timeout_seconds=30)
    assert await warm_backend.infer([{"x": 1}], timeout_seconds=30) == [2]


async def test_isolated_a_bad_example_fails_alone(warm_backend: Backend) -> None:
    """`infer_each` answers all others."""
    inputs = [*batch(list(range(300))), BAD]
    random.Random(0).shuffle(inputs)
    for example, outcome in zip(
        inputs, await infer_each(warm_backend, inputs, timeout_seconds=30), strict=True
    ):
        if example == BAD:
            assert isinstance(outcome, BackendFailedError)
        else:
            assert outcome == 2 * example["x"]


async def test_the_timeout_is_kept(warm_backend: Backend) -> None:
    """A call that takes too long ends by its timeout, and the next one is answered."""
    with pytest.raises(BackendUnavailableError, match=r"within 0\.2 s"):
        await warm_backend.infer([SLOW], timeout_seconds=0.2)
    assert await warm_backend.infer([{"x": 1}], timeout_seconds=30) == [2]


async def test_a_cancelled_call_hurts_nobody(warm_backend: Backend) -> None:
    """The next call is answered."""
    call = asyncio.create_task(warm_backend.infer([SLOW], timeout_seconds=60))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await warm_backend.infer([{"x": 1}], timeout_seconds=30) == [2]


@pytest.fixture
def dispatcher(warm_backend: Backend) -> Dispatcher:
    """As a worker makes it: TorchServe makes its own batches."""
    return Dispatcher(
        warm_backend,
        name="m v1",
        max_batch=1 if isinstance(warm_backend, TorchServeBackend) else 64,
        max_calls=8,
        timeout_seconds=30,
        meter=RecordingMeter(),
    )


async def test_dispatched_callers_get_their_own_predictions(dispatcher: Dispatcher) -> None:
    """However their inputs were mixed into batches; a bad one fails alone."""
    callers: list[list[JsonObject]] = [
        [{"x": first + step} for step in range(1 + first % 37)] for first in range(0, 2000, 50)
    ]
    callers[3].insert(1, BAD)
    answers = await asyncio.gather(*(dispatcher.infer(inputs) for inputs in callers))
    for inputs, outcomes in zip(callers, answers, strict=True):
        for example, outcome in zip(inputs, outcomes, strict=True):
            if example == BAD:
                assert isinstance(outcome, BackendFailedError)
            else:
                assert outcome == 2 * example["x"]


async def test_dispatched_a_deadline_is_the_calls(dispatcher: Dispatcher) -> None:
    """It ends the call, and the next one is answered; so does a caller that goes."""
    loop = asyncio.get_running_loop()
    (outcome,) = await dispatcher.infer([SLOW], deadline_loop_seconds=loop.time() + 0.2)
    assert isinstance(outcome, BackendUnavailableError)
    gone = asyncio.create_task(dispatcher.infer([SLOW], deadline_loop_seconds=loop.time() + 1))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert await dispatcher.infer([{"x": 1}]) == [2]


async def test_closed_it_fails_and_can_be_closed_again(backend: Backend) -> None:
    """Closing is idempotent; a closed backend is not available."""
    await backend.warm()
    await backend.close()
    await backend.close()
    with pytest.raises(BackendUnavailableError):
        await backend.infer([{"x": 1}], timeout_seconds=30)
