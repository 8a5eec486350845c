"""workers/backends/model_server.py on a busy server: which requests are repeated, when, and how often."""

import asyncio
import socket
from asyncio import StreamWriter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import repeat
from typing import Any

import pytest

from schemas.errors import AnswerError, BackendBrokenError, BackendUnavailableError
from schemas.events import JsonObject
from tests.support.deadline import deadline
from tests.support.models.backends import closed_later, open_inference, tensorflow, torchserve
from tests.support.servers.http_server import METADATA, HttpRequest, answer, doubled, http_server
from workers.backends.model_server import ModelServer
from workers.backends.port import Backend
from workers.network.endpoints import Outbound
from workers.network.retry import MAX_TRIES

INPUTS: list[JsonObject] = [{"x": 1}]
BACKENDS: dict[str, tuple[Callable[[str], Backend], str]] = {
    "open-inference": (open_inference, "/v2/models/m"),
    "tensorflow": (tensorflow, "/v1/models/m"),
    "torchserve": (torchserve, "/predictions/m"),
}


class Busy:
    """Refuses by these statuses and headers in turn, then predicts; `times` has the times of the requests."""

    def __init__(self, *refusals: tuple[int, str], for_ever: bool = False) -> None:
        self._refusals = repeat(refusals[0]) if for_ever else iter(refusals)
        self.times: list[float] = []

    async def handle(self, request: HttpRequest, writer: StreamWriter) -> None:
        if request.method == "GET":
            writer.write(answer(METADATA))
            return
        self.times.append(asyncio.get_running_loop().time())
        refusal = next(self._refusals, None)
        if refusal is None:
            writer.write(answer(doubled(request)))
        else:
            status, headers = refusal
            writer.write(answer({"error": "busy"}, status, headers))


@asynccontextmanager
async def served(busy: Busy, framework: str = "open-inference") -> AsyncIterator[Backend]:
    make, path = BACKENDS[framework]
    async with http_server(busy.handle) as url:
        backend = make(url + path)
        await backend.warm()
        yield backend
        await backend.close()


async def infer(backend: Backend, timeout_seconds: float = 30.0) -> list[Any]:
    return await backend.infer(INPUTS, timeout_seconds=timeout_seconds)


@pytest.mark.parametrize("framework", ["open-inference", "tensorflow"])
@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_server_that_is_busy_once_is_asked_again(framework: str, status: int) -> None:
    """One retry, which the caller does not notice."""
    busy = Busy((status, ""))
    async with served(busy, framework) as backend:
        assert await infer(backend) == [2]
    assert len(busy.times) == 2


async def test_a_server_that_stays_busy_is_asked_a_few_times() -> None:
    """Then it is unavailable, with the server's message."""
    busy = Busy((503, ""), for_ever=True)
    async with served(busy) as backend:
        with pytest.raises(BackendUnavailableError, match="answered 503: busy"):
            await infer(backend)
    assert len(busy.times) == MAX_TRIES


@pytest.mark.parametrize("status", [400, 404, 408, 429, 500, 501])
async def test_what_says_not_when_to_come_back_is_asked_once(status: int) -> None:
    """A processed request, and shed load without `Retry-After`."""
    busy = Busy((status, ""), for_ever=True)
    async with served(busy) as backend:
        with pytest.raises(AnswerError, match=f"answered {status}"):
            await infer(backend)
    assert len(busy.times) == 1


@pytest.mark.parametrize("status", [429, 503])
async def test_a_server_says_when_to_come_back(status: int) -> None:
    """The retry is not earlier."""
    busy = Busy((status, "retry-after: 1\r\n"))
    async with served(busy) as backend:
        assert await infer(backend) == [2]
    first, second = busy.times
    assert second - first >= 1


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("retry_after", ["601", "9" * 400])
async def test_who_would_come_back_too_late_is_told_at_once(status: int, retry_after: str) -> None:
    """A retry after the deadline is pointless."""
    busy = Busy((status, f"retry-after: {retry_after}\r\n"), for_ever=True)
    async with served(busy) as backend, deadline("an error without a wait"):
        with pytest.raises(BackendUnavailableError, match=f"answered {status}"):
            await infer(backend, timeout_seconds=600)
    assert len(busy.times) == 1


async def test_torchserves_503_is_no_word_on_load() -> None:
    """It reports a fault of the handler, so the request was processed; statuses of gateways are retried."""
    busy = Busy((503, "retry-after: 0\r\n"), (502, ""))
    async with served(busy, "torchserve") as backend:
        with pytest.raises(BackendBrokenError, match="answered 503: busy"):
            await infer(backend)
        assert len(busy.times) == 1
        assert await infer(backend) == [2]
    assert len(busy.times) == 3


@pytest.mark.parametrize("at_once", [1, 20])
async def test_retries_are_a_tenth_of_the_calls(at_once: int) -> None:
    """After the initial budget; a server that is down gets no retry storm."""
    busy = Busy((503, ""), for_ever=True)
    calls = 200
    async with served(busy) as backend:
        for _ in range(calls // at_once):
            outcomes = await asyncio.gather(*(infer(backend) for _ in range(at_once)), return_exceptions=True)
            assert all(isinstance(outcome, BackendUnavailableError) for outcome in outcomes)
    assert calls < len(busy.times) <= calls + 10 + calls // 10


async def test_a_connection_that_is_refused_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A restarting server listens a moment later; one that does not is unavailable."""
    tries = 0
    starting: asyncio.Server | None = None
    # Its port is its own from now on; connections are refused until it listens.
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    port = bound.getsockname()[1]

    async def serve(reader: asyncio.StreamReader, writer: StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer({}))
        writer.close()

    async def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        """Each try begins with it."""
        nonlocal tries, starting
        tries += 1
        if tries == 2 * MAX_TRIES:
            starting = await asyncio.start_server(serve, sock=bound)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    server = closed_later(ModelServer(f"http://127.0.0.1:{port}", Outbound()))
    until = asyncio.get_running_loop().time() + 30
    with pytest.raises(BackendUnavailableError, match="does not answer"):
        await server.predict("", b"", deadline_loop_seconds=until)
    assert tries == MAX_TRIES
    assert await server.predict("", b"", deadline_loop_seconds=until) == b"{}"
    assert tries == 2 * MAX_TRIES
    await server.close()
    assert starting is not None
    starting.close()
