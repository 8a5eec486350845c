"""workers/backends/model_server.py after cancelled calls: later calls succeed, whenever the cancellation was."""

import asyncio
from asyncio import StreamWriter

import pytest

from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.backends import model_server
from tests.support.servers.http_server import HttpRequest, answer, http_server


@pytest.mark.parametrize("turns", range(30))
async def test_a_call_that_is_cancelled_while_it_connects(turns: int) -> None:
    """In each loop iteration; no later call waits for the abandoned connection."""

    async def handle(request: HttpRequest, writer: StreamWriter) -> None:
        writer.write(answer({}))

    async with http_server(handle) as url:
        server = model_server(url)
        call = asyncio.create_task(server.look(within_seconds=DEADLINE_SECONDS))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        assert await server.look(within_seconds=DEADLINE_SECONDS) == (200, b"{}")
        await server.close()


async def test_a_call_that_is_cancelled_while_it_is_answered() -> None:
    """Its connection is closed, so that no later call reads the rest of its response."""
    begun, connections = asyncio.Event(), []

    async def handle(request: HttpRequest, writer: StreamWriter) -> None:
        connections.append(request.connection)
        whole = answer({"connection": request.connection})
        if request.connection == 1:
            writer.write(whole[:-5])
            begun.set()
            await asyncio.Event().wait()
        writer.write(whole)

    async with http_server(handle) as url:
        server = model_server(url)
        call = asyncio.create_task(server.look(within_seconds=DEADLINE_SECONDS))
        await asyncio.wait_for(begun.wait(), DEADLINE_SECONDS)
        call.cancel()
        await asyncio.wait([call])
        assert await server.look(within_seconds=DEADLINE_SECONDS) == (200, b'{"connection":2}')
        assert connections == [1, 2]
        await server.close()
