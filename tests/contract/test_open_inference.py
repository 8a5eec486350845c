"""workers/backends/open_inference.py against a server that answers late, wrongly, too much or not at all."""

import asyncio
from asyncio import StreamWriter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from schemas.errors import (
    ArtifactError,
    BackendBrokenError,
    BackendFailedError,
    BackendUnavailableError,
    UnavailableError,
)
from schemas.events import JsonObject
from tests.support.models.backends import open_inference
from tests.support.models.served_versions import RecordingMeter
from tests.support.servers.http_server import (
    METADATA,
    Handler,
    HttpRequest,
    answer,
    doubled,
    http_server,
    serve_doubler,
)
from workers.backends.open_inference import OpenInferenceBackend
from workers.calls.dispatch import Dispatcher

INPUTS: list[JsonObject] = [{"x": 1}, {"x": 2}]


@asynccontextmanager
async def served(handler: Handler, **options: Any) -> AsyncIterator[OpenInferenceBackend]:
    """A warm backend on a server whose answers to POST are the handler's."""

    async def serve(request: HttpRequest, writer: StreamWriter) -> bool | None:
        if request.method == "GET":
            writer.write(answer(METADATA))
            return None
        return await handler(request, writer)

    async with http_server(serve) as url:
        backend = open_inference(f"{url}/v2/models/doubler", **options)
        await backend.warm()
        yield backend
        await backend.close()


def answering(response: bytes | Callable[[HttpRequest], bytes]) -> Handler:
    async def handle(request: HttpRequest, writer: StreamWriter) -> None:
        writer.write(response if isinstance(response, bytes) else response(request))

    return handle


async def infer(backend: OpenInferenceBackend) -> list[Any]:
    return await backend.infer(INPUTS, timeout_seconds=30)


async def test_what_is_sent() -> None:
    """One POST to /infer below the model's URL: JSON, an id, no credential, nothing compressed."""
    requests: list[HttpRequest] = []

    def note(request: HttpRequest) -> bytes:
        requests.append(request)
        return answer(doubled(request))

    async with served(answering(note)) as backend:
        assert await infer(backend) == [2, 4]
    (request,) = requests
    assert (request.method, request.path) == ("POST", "/v2/models/doubler/infer")
    assert request.json()["inputs"] == [{"name": "x", "datatype": "INT64", "shape": [2], "data": [1, 2]}]
    assert request.json()["id"]
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"
    assert "authorization" not in request.headers


async def test_content_decides_and_not_its_type() -> None:
    """JSON that is called text is read; a success may have no type at all."""
    kinds = iter(["content-type: text/plain\r\n", ""])
    async with served(answering(lambda request: answer(doubled(request), headers=next(kinds)))) as backend:
        assert await infer(backend) == [2, 4]
        assert await infer(backend) == [2, 4]


async def test_a_server_without_metadata_is_asked_by_the_schema() -> None:
    """405 and 501 on the model's URL: the types come from the input schema."""
    for status in (405, 501):

        async def handle(request: HttpRequest, writer: StreamWriter, status: int = status) -> None:
            writer.write(answer(b"no", status) if request.method == "GET" else answer(doubled(request)))

        async with http_server(handle) as url:
            schema = {"properties": {"x": {"type": "integer"}}}
            backend = open_inference(f"{url}/v2/models/doubler", schema)
            await backend.warm()
            assert await infer(backend) == [2, 4]
            await backend.close()


@pytest.mark.parametrize(
    ("status", "error"), [(404, ArtifactError), (503, UnavailableError), (429, UnavailableError)]
)
async def test_warming_tells_a_missing_model_from_a_busy_server(status: int, error: type[Exception]) -> None:
    """One needs an operator, the other time."""
    async with http_server(answering(answer({"error": "in its own words"}, status))) as url:
        backend = open_inference(f"{url}/v2/models/doubler")
        with pytest.raises(error, match="in its own words"):
            await backend.warm()
        await backend.close()


async def test_no_server_at_all() -> None:
    """Warming says so; so does a prediction, after the server went away."""
    async with http_server(serve_doubler) as url:
        backend = open_inference(f"{url}/v2/models/doubler")
        await backend.warm()
    with pytest.raises(BackendUnavailableError):
        await infer(backend)
    with pytest.raises(UnavailableError):
        await backend.warm()
    await backend.close()


async def test_unwarmed_it_is_unavailable() -> None:
    """Without the types of the inputs nothing is sent."""
    backend = open_inference("http://127.0.0.1:9/v2/models/doubler")
    with pytest.raises(BackendUnavailableError, match="unknown until `warm`"):
        await infer(backend)
    await backend.close()


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, BackendFailedError),
        (413, BackendFailedError),
        (422, BackendFailedError),
        (500, BackendFailedError),
        (501, BackendFailedError),
        (204, BackendFailedError),
        (401, BackendUnavailableError),
        (404, BackendUnavailableError),
        (429, BackendUnavailableError),
        (502, BackendUnavailableError),
        (503, BackendUnavailableError),
        (504, BackendUnavailableError),
    ],
)
async def test_statuses(status: int, error: type[Exception]) -> None:
    """What the server refused or broke on is failed, what nobody worked on is unavailable."""
    body = b"" if status == 204 else b'{"error": "in its own words"}'
    async with served(answering(answer(body, status))) as backend:
        with pytest.raises(error, match=f"answered {status}: {'' if status == 204 else 'in its own words'}"):
            await infer(backend)


async def test_a_long_error_is_cut() -> None:
    """A traceback of a server does not travel to whoever asked."""
    async with served(answering(answer(b"Traceback " + b"x" * 100_000, 500))) as backend:
        with pytest.raises(BackendFailedError) as failure:
            await infer(backend)
    assert len(str(failure.value)) < 300


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirects_are_not_followed(status: int) -> None:
    """A server cannot send us to another address."""
    reached: list[str] = []

    async def elsewhere(request: HttpRequest, writer: StreamWriter) -> None:
        reached.append(request.path)
        writer.write(answer(doubled(request)))

    async with http_server(elsewhere) as other:
        location = answer(b"", status, f"location: {other}/v2/models/doubler/infer\r\n")
        async with served(answering(location)) as backend:
            with pytest.raises(BackendUnavailableError, match=f"answered {status}.*not followed"):
                await infer(backend)
    assert reached == []


@pytest.mark.parametrize("told", [True, False])
async def test_an_answer_that_is_too_big_is_not_read_to_its_end(told: bool) -> None:
    """Whether the server tells its size or not; the connection is given up, the next call is answered."""
    first = True

    async def handle(request: HttpRequest, writer: StreamWriter) -> bool | None:
        nonlocal first
        if not first:
            writer.write(answer(doubled(request)))
            return None
        first = False
        length = b"content-length: 1000000000000\r\n" if told else b""
        writer.write(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n")
        # Ends when the other side hangs up.
        while True:
            writer.write(b" " * 65536)
            await writer.drain()

    async with served(handle, max_response_bytes=1_000_000) as backend:
        with pytest.raises(BackendFailedError, match="more than 1000000 bytes"):
            await infer(backend)
        assert await infer(backend) == [2, 4]


async def test_a_hang_after_the_headers_ends_in_time() -> None:
    """As does a server that sends nothing at all."""
    for begun in (b"", b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{"):

        async def handle(request: HttpRequest, writer: StreamWriter, begun: bytes = begun) -> None:
            writer.write(begun)
            await asyncio.Event().wait()

        async with served(handle) as backend:
            with pytest.raises(BackendUnavailableError, match=r"within 0\.1 s"):
                await backend.infer(INPUTS, timeout_seconds=0.1)


async def test_an_answer_that_breaks_off_is_failed() -> None:
    """Half a body is no prediction, and is not asked for again."""
    calls = 0

    async def handle(request: HttpRequest, writer: StreamWriter) -> bool:
        nonlocal calls
        calls += 1
        writer.write(answer(doubled(request))[:-5])
        return False

    async with served(handle) as backend:
        with pytest.raises(BackendFailedError, match="broke off"):
            await infer(backend)
    assert calls == 1


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-server\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02F" * 20_000,
        b"HTTP/1.1 200 X\r\ncontent-length: many\r\n\r\n",
        b"HTTP/1.1 200 X\r\n" + b"x-filler: 0\r\n" * 100_000,
    ],
)
async def test_what_is_no_http_is_failed(garbage: bytes) -> None:
    """Somebody answers, and it is no model server; head lines without end are not read on."""
    async with served(answering(garbage)) as backend:
        with pytest.raises(BackendBrokenError, match="did not answer in HTTP"):
            await backend.infer(INPUTS, timeout_seconds=30)


async def test_a_reused_connection_that_is_reset_is_tried_once_more() -> None:
    """On a new connection, once, whether it is closed in order or aborted."""
    for abort in (False, True):
        served_by: list[int] = []

        async def handle(
            request: HttpRequest,
            writer: StreamWriter,
            served_by: list[int] = served_by,
            abort: bool = abort,
        ) -> bool | None:
            served_by.append(request.connection)
            if request.connection > 1:
                writer.write(answer(doubled(request)))
                return None
            if abort:
                writer.transport.abort()
            return False

        async with served(handle) as backend:
            # The metadata came over the connection that is now reset.
            assert await infer(backend) == [2, 4]
        assert served_by == [1, 2]


async def test_a_new_connection_that_is_reset_is_not_tried_again() -> None:
    """A request that ends its server is not sent to the next one."""
    calls = 0

    async def handle(request: HttpRequest, writer: StreamWriter) -> bool:
        nonlocal calls
        calls += 1
        return False

    async with served(handle) as backend:
        with pytest.raises(BackendUnavailableError, match="does not answer"):
            await infer(backend)
    # Once on the connection of the metadata, once on a new one.
    assert calls == 2


async def test_calls_in_flight_are_bounded_and_connections_kept() -> None:
    """A large batch goes out in parts, at most so many at once, over as many connections."""
    in_flight, most, connections = 0, 0, set()
    all_there = asyncio.Event()

    async def handle(request: HttpRequest, writer: StreamWriter) -> None:
        nonlocal in_flight, most
        connections.add(request.connection)
        assert len(request.json()["inputs"][0]["data"]) <= 10
        in_flight += 1
        most = max(most, in_flight)
        if in_flight == 3:
            all_there.set()
        await all_there.wait()
        in_flight -= 1
        writer.write(answer(doubled(request)))

    async with served(handle) as backend:
        dispatcher = Dispatcher(
            backend, name="m v1", max_batch=10, max_calls=3, timeout_seconds=30, meter=RecordingMeter()
        )
        numbers = list(range(205))
        answers = await dispatcher.infer([{"x": number} for number in numbers])
    assert answers == [2 * number for number in numbers]
    assert most == 3
    assert len(connections) == 3


async def test_wrong_batches_are_refused() -> None:
    """More or fewer predictions than examples are never handed to the wrong one."""
    for shape, data in (([1], [2]), ([3], [2, 4, 6]), ([2, 1], [2])):
        y = {"name": "y", "datatype": "INT64", "shape": shape, "data": data}
        async with served(answering(answer({"outputs": [y]}))) as backend:
            with pytest.raises(BackendFailedError, match="output 'y'"):
                await infer(backend)


async def test_endpoints_are_checked() -> None:
    """The backend itself refuses what is not allowed, before any call."""
    with pytest.raises(ArtifactError, match="HEADRACE_BACKEND_HOSTS"):
        open_inference("http://10.0.0.1/v2/models/m")
    with pytest.raises(ArtifactError, match="characters"):
        open_inference("http://127.0.0.1/v2/\x7f")


async def test_the_environment_sends_us_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxy variables are not followed."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with served(answering(lambda request: answer(doubled(request)))) as backend:
        assert await infer(backend) == [2, 4]
