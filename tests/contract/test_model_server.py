"""workers/backends/model_server.py on a server that is slow, closes connections, or does not speak HTTP."""

import asyncio
from asyncio import StreamWriter

import pytest

from schemas.errors import (
    BackendBrokenError,
    BackendFailedError,
    BackendUnavailableError,
)
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.scripted_backend import INPUTS, answering, infer, served
from tests.support.models.served_versions import RecordingMeter, outcomes_of
from tests.support.servers.http_server import (
    HttpRequest,
    answer,
    doubled,
    http_server,
)
from workers.backends.response_room import ResponseRoom
from workers.calls.dispatch import Dispatcher

ROOM_BYTES, LARGE_BYTES, PART_BYTES = 8 << 20, 16 << 20, 1 << 18


async def test_a_long_error_is_cut() -> None:
    """A server's traceback does not reach the user."""
    async with served(answering(answer(b"Traceback " + b"x" * 100_000, 500))) as backend:
        with pytest.raises(BackendFailedError) as failure:
            await infer(backend)
    assert len(str(failure.value)) < 300


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirects_are_not_followed(status: int) -> None:
    """A server cannot direct calls to another address."""
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
    """With or without a Content-Length; the connection is closed, and the next call succeeds."""
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


async def test_responses_of_all_servers_together_are_bounded() -> None:
    """Large ones arrive in turns, and each call has its prediction."""
    room = ResponseRoom(ROOM_BYTES)
    unread = most = 0

    async def handle(request: HttpRequest, writer: StreamWriter) -> None:
        nonlocal unread, most
        content = answer(doubled(request) | {"padding": " " * LARGE_BYTES})
        for start in range(0, len(content), PART_BYTES):
            part = content[start : start + PART_BYTES]
            writer.write(part)
            await writer.drain()
            unread += len(part)
            most = max(most, unread)
        unread -= len(content)

    async with served(handle, room=room) as one, served(handle, room=room) as two:
        results = await asyncio.gather(*(infer(backend) for backend in (one, two) * 8))
    assert results == [[2, 4]] * 16
    # What the sockets of the waiting ones hold.
    assert ROOM_BYTES < most < 8 * LARGE_BYTES


async def test_a_hang_after_the_headers_ends_in_time() -> None:
    """Like a server that sends nothing."""
    for begun in (b"", b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{"):

        async def handle(request: HttpRequest, writer: StreamWriter, begun: bytes = begun) -> None:
            writer.write(begun)
            await asyncio.Event().wait()

        async with served(handle) as backend:
            with pytest.raises(BackendUnavailableError, match=r"within 0\.1 s"):
                await backend.infer(INPUTS, timeout_seconds=0.1)


async def test_an_answer_that_breaks_off_is_failed() -> None:
    """An incomplete response is no prediction, and the request is not repeated."""
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
    """Another program answers; endless header lines are not read."""
    async with served(answering(garbage)) as backend:
        with pytest.raises(BackendBrokenError, match="did not answer in HTTP"):
            await backend.infer(INPUTS, timeout_seconds=DEADLINE_SECONDS)


async def test_a_reused_connection_that_is_reset_is_tried_once_more() -> None:
    """Once on a new connection, whether it was closed or aborted."""
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
    """A request that crashes its server is not repeated."""
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
    """No more calls than `max_calls` are in flight, over as many connections."""
    in_flight, most, connections = 0, 0, set()
    numbers = list(range(105))
    # An unknown server gets two concurrent calls, and the third after a response.
    two_there, all_there = asyncio.Event(), asyncio.Event()

    async def handle(request: HttpRequest, writer: StreamWriter) -> None:
        nonlocal in_flight, most
        connections.add(request.connection)
        (number,) = request.json()["inputs"][0]["data"]
        in_flight += 1
        most = max(most, in_flight)
        if in_flight == 2:
            two_there.set()
        if in_flight == 3:
            all_there.set()
        await (two_there if number < 2 else all_there).wait()
        in_flight -= 1
        writer.write(answer(doubled(request)))

    async with served(handle) as backend:
        dispatcher = Dispatcher(
            backend,
            name="m v1",
            max_batch=1,
            max_calls=3,
            timeout_seconds=DEADLINE_SECONDS,
            meter=RecordingMeter(),
        )
        answers = await outcomes_of(dispatcher, [{"x": number} for number in numbers])
    assert answers == [2 * number for number in numbers]
    assert most == 3
    assert len(connections) == 3


async def test_the_environment_sends_us_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies of the environment are ignored."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with served(answering(lambda request: answer(doubled(request)))) as backend:
        assert await infer(backend) == [2, 4]
