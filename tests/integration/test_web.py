"""streams/process/http.py: paths that come while it serves, and its end with a stream open."""

import asyncio
import socket

import httpx
import pytest
from aiohttp import web

from schemas.errors import SetupError
from streams.process.http import Web
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.stack.services import MakeTopics
from tests.support.worker.process import StartWorker


async def _hello(_: web.Request) -> web.Response:
    return web.Response(text="hello")


async def test_paths_may_be_added_while_it_serves() -> None:
    shown = Web()
    async with shown.serving("127.0.0.1", 0) as port, httpx.AsyncClient(trust_env=False) as client:
        address = f"http://127.0.0.1:{port}"
        assert (await client.get(f"{address}/hello")).status_code == 404
        shown.get("/hello", _hello)
        answer = await client.get(f"{address}/hello")
        assert (answer.status_code, answer.text) == (200, "hello")
        assert answer.headers["server"] == "headrace"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert (await client.head(f"{address}/hello")).text == ""
        assert (await client.post(f"{address}/hello")).status_code == 405
        assert "/hello" in (await client.get(f"{address}/nowhere")).text


async def test_an_address_that_is_taken_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match=f"{port}.*HEADRACE_HTTP_PORT"):
            async with Web().serving("127.0.0.1", port):
                pass


async def test_an_open_stream_does_not_hold_up_the_end() -> None:
    begun = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        begun.set()
        await asyncio.Event().wait()
        return response

    shown = Web()
    shown.get("/endless", endless)
    async with asyncio.timeout(DEADLINE_SECONDS), httpx.AsyncClient(trust_env=False) as client:
        async with shown.serving("127.0.0.1", 0) as port:
            reading = asyncio.create_task(client.get(f"http://127.0.0.1:{port}/endless"))
            await begun.wait()
        with pytest.raises(httpx.HTTPError):
            await reading


async def test_a_worker_is_ready_when_its_roles_are(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    settings = await topics(1, postgres_dsn=database, http_port=0)
    worker = start_worker(settings, "predict,control,monitor,log")
    port = (await worker.logged("http served"))["port"]
    async with asyncio.timeout(DEADLINE_SECONDS), httpx.AsyncClient(trust_env=False) as client:
        while (answer := await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 503:
            assert not answer.json()["ready"]
        assert answer.json()["ready"]
        roles = {name.partition(":")[0] for name in answer.json()["conditions"]}
        assert roles == {"all roles have started", "predict", "control", "monitor", "log"}
        assert (await client.get(f"http://127.0.0.1:{port}/livez")).json() == {"alive": True}
