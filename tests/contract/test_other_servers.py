"""workers/backends/tensorflow.py and workers/backends/torchserve.py: what only they do. The rest is in test_backend_port.py."""

import asyncio
from asyncio import StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from schemas.errors import (
    ArtifactError,
    BackendBrokenError,
    BackendFailedError,
    NonFiniteResultError,
    UnavailableError,
)
from schemas.events import JsonObject
from schemas.models import RequestForm
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.backends import open_inference, tensorflow, torchserve
from tests.support.models.served_versions import RecordingMeter, outcomes_of
from tests.support.servers.http_server import (
    METADATA,
    HttpRequest,
    answer,
    asked,
    doubled,
    http_server,
    predicted,
)
from workers.backends.port import Backend
from workers.calls.dispatch import Dispatcher

STATE = "model_version_status"


@asynccontextmanager
async def answering(response: bytes) -> AsyncIterator[tuple[str, list[HttpRequest]]]:
    """The URL of a server with a constant response, and its requests."""
    requests: list[HttpRequest] = []

    async def handle(request: HttpRequest, writer: StreamWriter) -> None:
        requests.append(request)
        writer.write(response)

    async with http_server(handle) as url:
        yield url, requests


@pytest.mark.parametrize(
    ("status", "body", "error", "told"),
    [
        (
            404,
            {"error": "Servable not found"},
            ArtifactError,
            "not a model of its server.*Servable not found",
        ),
        (200, {STATE: [{"state": "LOADING"}]}, UnavailableError, "is not served yet: its state is LOADING"),
        (200, {"name": "m", "ready": "False"}, UnavailableError, "is not served yet: it is not ready"),
        (503, {"error": "later"}, UnavailableError, "answered 503: later"),
        (500, {"error": "crash"}, UnavailableError, "cannot be served.*answered 500: crash"),
        (400, {"error": "no"}, ArtifactError, "not a model of its server.*answered 400: no"),
        (401, {"error": "who"}, ArtifactError, "not a model of its server.*answered 401: who"),
        (403, {"error": "you"}, ArtifactError, "not a model of its server.*answered 403: you"),
    ],
)
async def test_tensorflows_state_is_asked_before_it_serves(
    status: int, body: JsonObject, error: type[Exception], told: str
) -> None:
    """A missing model needs an operator; one that is not ready is temporary."""
    async with answering(answer(body, status)) as (url, requests):
        backend = tensorflow(f"{url}/v1/models/m")
        with pytest.raises(error, match=told):
            await backend.warm()
        await backend.close()
    assert {(request.method, request.path) for request in requests} == {("GET", "/v1/models/m")}


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, {STATE: [{"state": "AVAILABLE"}]}), (200, b"fine"), (405, b""), (501, b"")],
)
async def test_a_server_that_tells_no_state_is_asked(status: int, body: Any) -> None:
    """Not every server with this REST interface reports a state."""
    async with answering(answer(body, status)) as (url, _):
        backend = tensorflow(f"{url}/v1/models/m")
        await backend.warm()
        await backend.close()


@pytest.mark.parametrize(
    ("form", "sent"),
    [
        (RequestForm.ROW, {"instances": [{"x": 1}, {"x": 2}]}),
        (RequestForm.VALUE, {"instances": [1, 2]}),
        (RequestForm.COLUMN, {"inputs": {"x": [1, 2]}}),
    ],
)
async def test_what_tensorflow_is_sent(form: RequestForm, sent: JsonObject) -> None:
    """One POST to the model's URL with `:predict`, in the version's form."""
    requests: list[HttpRequest] = []

    async def handle(request: HttpRequest, writer: StreamWriter) -> None:
        requests.append(request)
        writer.write(answer(doubled(request)))

    async with http_server(handle) as url:
        backend = tensorflow(f"{url}/v1/models/m/versions/3", form, options={"signature_name": "s"})
        assert await backend.infer([{"x": 1}, {"x": 2}], timeout_seconds=DEADLINE_SECONDS) == [2, 4]
        await backend.close()
    (request,) = requests
    assert (request.method, request.path) == ("POST", "/v1/models/m/versions/3:predict")
    assert request.json() == {"signature_name": "s", **sent}


@pytest.mark.parametrize(
    ("status", "error", "told"),
    [
        (404, ArtifactError, "not a model of its server.*in its own words"),
        (400, ArtifactError, "not a model of its server.*in its own words"),
        (401, ArtifactError, "not a model of its server.*in its own words"),
        (403, ArtifactError, "not a model of its server.*in its own words"),
        (500, UnavailableError, "cannot be served.*in its own words"),
        (503, UnavailableError, "answered 503: in its own words"),
    ],
)
async def test_torchserve_is_asked_its_example(status: int, error: type[Exception], told: str) -> None:
    """Without an example no request is made, since any other input may fail."""
    body = {"code": status, "type": "SomeException", "message": "in its own words"}
    async with answering(answer(body, status)) as (url, requests):
        backend = torchserve(f"{url}/predictions/m", {"x": 1})
        with pytest.raises(error, match=told):
            await backend.warm()
        await backend.close()
        assert {(request.method, request.path, request.body) for request in requests} == {
            ("POST", "/predictions/m", b'{"x":1}')
        }
        requests.clear()
        unasked = torchserve(f"{url}/predictions/m")
        await unasked.warm()
        await unasked.close()
        assert requests == []


async def test_torchserves_calls_go_at_once_and_end_together() -> None:
    """The server batches concurrent calls; a failure ends the others, and the next batch succeeds."""
    together = 6
    waiting: set[int] = set()
    all_there = asyncio.Event()

    async def handle(request: HttpRequest, writer: StreamWriter) -> None:
        x = request.json()["x"]
        if x < together:
            waiting.add(x)
            if len(waiting) == together:
                all_there.set()
            await all_there.wait()
            if x == together - 1:
                writer.write(answer({"code": 503, "message": "a fault of the handler"}, 503))
            else:
                await asyncio.Event().wait()
        else:
            writer.write(answer(2 * x))

    async with http_server(handle) as url:
        backend = torchserve(f"{url}/predictions/m", calls_in_flight=together)
        inputs: list[JsonObject] = [{"x": x} for x in range(together)]
        with pytest.raises(BackendBrokenError, match="answered 503: a fault of the handler"):
            await backend.infer(inputs, timeout_seconds=DEADLINE_SECONDS)
        more: list[JsonObject] = [{"x": x} for x in range(100, 200)]
        assert await backend.infer(more, timeout_seconds=DEADLINE_SECONDS) == [2 * x for x in range(100, 200)]
        await backend.close()


@pytest.mark.parametrize("body", [b"NoN", b"", b"<html>", b'{"y": ', b"[1, Infinity"])
async def test_torchserves_answer_is_json(body: bytes) -> None:
    """Whatever its content type."""
    async with answering(answer(body)) as (url, _):
        backend = torchserve(f"{url}/predictions/m")
        with pytest.raises(BackendFailedError, match="answered no JSON"):
            await backend.infer([{"x": 1}], timeout_seconds=DEADLINE_SECONDS)
        await backend.close()


@pytest.mark.parametrize("kind", ["open-inference", "tensorflow", "torchserve"])
async def test_nan_fails_its_examples_and_no_others(kind: str) -> None:
    """With many bad examples in a backlog each good one is answered, and the breaker stays closed."""

    async def handle(request: HttpRequest, writer: StreamWriter) -> None:
        if request.method == "GET":
            writer.write(answer(METADATA | {"outputs": [{"name": "y", "datatype": "FP64", "shape": [-1]}]}))
            return
        response = predicted(request, [None if x % 20 == 0 else 2.0 * x for x in asked(request)])
        if kind == "open-inference":
            response["outputs"][0]["datatype"] = "FP64"
        writer.write(answer(orjson.dumps(response).replace(b"null", b"NaN")))

    async with http_server(handle) as url:
        backend: Backend
        if kind == "open-inference":
            backend = open_inference(f"{url}/v2/models/m")
        elif kind == "tensorflow":
            backend = tensorflow(f"{url}/v1/models/m")
        else:
            backend = torchserve(f"{url}/predictions/m")
        await backend.warm()
        meter = RecordingMeter()
        dispatcher = Dispatcher(
            backend,
            name="m v1",
            max_batch=1 if kind == "torchserve" else 256,
            max_calls=8,
            timeout_seconds=DEADLINE_SECONDS,
            meter=meter,
        )
        numbers = range(400)
        outcomes = await outcomes_of(dispatcher, [{"x": x} for x in numbers])
        for x in (0, 20, 40, 60):
            (alone,) = await outcomes_of(dispatcher, [{"x": x}])
            assert isinstance(alone, NonFiniteResultError)
        await dispatcher.close()
    for x, outcome in zip(numbers, outcomes, strict=True):
        assert isinstance(outcome, NonFiniteResultError) if x % 20 == 0 else outcome == 2.0 * x
    assert meter.opened == 0
