"""workers/backends/tensorflow.py on the documented answers of TensorFlow Serving, whose program no package index has.

`tensorflow_serving.json` has them with their white space, each with the one request that it answers.
"""

import json
from asyncio import StreamWriter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import (
    ArtifactError,
    BackendFailedError,
    BackendUnavailableError,
    NonFiniteResultError,
    UnavailableError,
)
from schemas.events import JsonObject
from schemas.json_schema import compile_schema
from schemas.models import RequestForm
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.servers.http_server import HttpRequest, answer, http_server
from workers.backends.model_server import ModelServer
from workers.backends.tensorflow import TensorflowBackend
from workers.calls.isolate import infer_each
from workers.network.endpoints import Outbound

EXCHANGES = json.loads(Path(__file__).with_name("tensorflow_serving.json").read_text())
_NOT_RECORDED = 418

MakeBackend = Callable[..., TensorflowBackend]


async def replay(request: HttpRequest, writer: StreamWriter) -> None:
    """The answer to exactly this request; an unexpected status where there is none."""
    body = request.json() if request.body else None
    asked = f"{request.method} {request.path}"
    for exchange in EXCHANGES:
        if (exchange["request"], exchange["body"]) == (asked, body):
            recorded = exchange["answer"].encode()
            writer.write(answer(recorded, exchange["status"], "content-type: application/json\r\n"))
            return
    writer.write(answer({"error": f"not recorded: {asked} {body}"}, _NOT_RECORDED))


@pytest.fixture
async def backend() -> AsyncIterator[MakeBackend]:
    """What makes a backend for a model below `/v1/models/`."""
    made: list[TensorflowBackend] = []

    async with http_server(replay) as url:

        def make(model: str, **options: Any) -> TensorflowBackend:
            made.append(TensorflowBackend(ModelServer(f"{url}/v1/models/{model}", Outbound()), **options))
            return made[-1]

        yield make
        for each in made:
            await each.close()


async def infer(backend: TensorflowBackend, *numbers: Any) -> list[Any]:
    return await backend.infer([{"x": number} for number in numbers], timeout_seconds=DEADLINE_SECONDS)


@pytest.mark.parametrize("form", list(RequestForm))
async def test_each_form(backend: MakeBackend, form: RequestForm) -> None:
    """Rows of objects, rows of bare values, and columns come to the same."""
    doubler = backend("doubler", form=form)
    await doubler.warm()
    assert await infer(doubler, 1, 2, 3) == [2, 4, 6]


@pytest.mark.parametrize("form", [RequestForm.ROW, RequestForm.COLUMN])
async def test_several_outputs(backend: MakeBackend, form: RequestForm) -> None:
    """By name in both forms, which write them differently."""
    users = [{"user_idx": 0}, {"user_idx": 1}]
    predictions = await backend("recommender", form=form).infer(users, timeout_seconds=DEADLINE_SECONDS)
    assert predictions == [
        {"items": [1, 2], "scores": [0.5, 0.25]},
        {"items": [3, 4], "scores": [1.0, 0.5]},
    ]


async def test_what_a_model_says_of_itself(backend: MakeBackend) -> None:
    """Its signature, in which sizes are text, gives the schemas that its inputs and predictions fit."""
    description = await backend("recommender").describe()
    assert description is not None
    takes, gives = compile_schema(description.input_schema()), compile_schema(description.output_schema())
    assert takes.is_valid({"user_idx": 0})
    assert not takes.is_valid({"user_idx": 0.5})
    assert gives.is_valid({"items": [1, 2], "scores": [0.5, 0.25]})
    assert not gives.is_valid({"items": [1, 2, 3], "scores": [0.5, 0.25]})


async def test_a_version_of_the_server(backend: MakeBackend) -> None:
    """It is part of the model's URL."""
    older = backend("doubler/versions/1")
    await older.warm()
    assert await infer(older, 1) == [4]


async def test_a_signature(backend: MakeBackend) -> None:
    """It goes with each request; one that the model has not is the request's fault."""
    assert await infer(backend("doubler", signature_name="twice"), 1) == [4]
    with pytest.raises(BackendFailedError, match='answered 400: Serving signature name: "thrice" not found'):
        await infer(backend("doubler", signature_name="thrice"), 1)


@pytest.mark.parametrize("model", ["nothing", "doubler/versions/99"])
async def test_what_is_not_there_is_refused_when_it_is_loaded(backend: MakeBackend, model: str) -> None:
    """A model and a version alike, in the server's words."""
    with pytest.raises(ArtifactError, match="answered 404: Could not find"):
        await backend(model).warm()


async def test_what_is_loading_is_waited_for(backend: MakeBackend) -> None:
    """It is there, and cannot be asked yet."""
    with pytest.raises(UnavailableError, match="LOADING"):
        await backend("young").warm()


async def test_a_bad_example_fails_alone(backend: MakeBackend) -> None:
    """The server refuses the batch and names the example; the others are asked for again without it."""
    examples: list[JsonObject] = [{"x": 1}, {"x": "no number"}, {"x": 3}]
    first, bad, last = await infer_each(backend("doubler"), examples, timeout_seconds=DEADLINE_SECONDS)
    assert (first, last) == (2, 6)
    assert isinstance(bad, BackendFailedError)
    assert "answered 400: Failed to process element: 0 key: x" in str(bad)


async def test_an_input_that_the_model_has_not(backend: MakeBackend) -> None:
    """The server says which."""
    with pytest.raises(BackendFailedError, match="does not have named input: z"):
        await backend("doubler").infer([{"z": 1}], timeout_seconds=DEADLINE_SECONDS)


@pytest.mark.parametrize("model", ["gone", "full"])
async def test_nobody_works_on_it(backend: MakeBackend, model: str) -> None:
    """A model that was unloaded, and a batching queue that is full, are unavailable: no input is at fault."""
    with pytest.raises(BackendUnavailableError, match=r"answered (404: Servable|503: The batch)"):
        await infer(backend(model), 1)


async def test_nan_is_no_prediction(backend: MakeBackend) -> None:
    """The server writes it bare, which JSON does not allow: only this example fails."""
    (outcome,) = await infer(backend("infinite"), 1)
    assert isinstance(outcome, NonFiniteResultError)
