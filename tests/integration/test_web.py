"""streams/process/http.py: paths that come while it serves, those of another process, its end with a stream open."""

import asyncio
import socket
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from schemas.errors import SetupError
from streams.process.http import MAX_BODY_BYTES, Web
from streams.process.http_forwarding import forwarded
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


async def test_other_paths_are_answered_by_another_process(tmp_path: Path) -> None:
    """With its method, query, headers and body, as the answer comes; 503 when it is away."""
    socket_path = str(tmp_path / "other.sock")
    go_on = asyncio.Event()

    async def echo(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=201, headers={"X-Host": request.host, "X-Path": request.path_qs})
        await response.prepare(request)
        await response.write(await request.read())
        await go_on.wait()
        await response.write(b" end")
        return response

    other, shown = Web(), Web()
    other.get("/echo", _hello)
    other.post("/echo", echo)
    shown.get("/here", _hello)
    shown.other_paths(lambda request: forwarded(request, socket_path))
    async with (
        asyncio.timeout(DEADLINE_SECONDS),
        shown.serving("127.0.0.1", 0) as port,
        httpx.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{port}") as client,
    ):
        assert (await client.get("/echo")).status_code == 503
        async with other.serving_on(socket_path):
            assert (await client.get("/here")).text == "hello"
            assert (await client.get("/echo")).text == "hello"
            assert (await client.head("/echo")).text == ""
            assert (await client.get("/nowhere")).status_code == 404
            headers = {"Host": "name.example:80"}
            async with client.stream("POST", "/echo?a=%20b", headers=headers, content=b"body") as answer:
                parts = answer.aiter_raw()
                assert await anext(parts) == b"body"
                go_on.set()
                assert await anext(parts) == b" end"
            assert answer.status_code == 201
            assert answer.headers["X-Host"] == "name.example:80"
            assert answer.headers["X-Path"] == "/echo?a=%20b"
            assert answer.headers.get_list("Server") == ["headrace"]


async def test_a_body_that_is_too_large_is_refused(tmp_path: Path) -> None:
    """Also by the process that passes it on."""
    socket_path = str(tmp_path / "other.sock")

    async def read(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    other, shown = Web(), Web()
    other.post("/far", read)
    shown.post("/near", read)
    shown.other_paths(lambda request: forwarded(request, socket_path))
    async with (
        asyncio.timeout(DEADLINE_SECONDS),
        other.serving_on(socket_path),
        shown.serving("127.0.0.1", 0) as port,
        httpx.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{port}") as client,
    ):
        for path in ("/near", "/far"):
            assert (await client.post(path, content=bytes(MAX_BODY_BYTES))).text == str(MAX_BODY_BYTES)
            assert (await client.post(path, content=bytes(MAX_BODY_BYTES + 1))).status_code == 413


async def test_a_worker_is_ready_when_its_role_is(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    settings = await topics(1, postgres_dsn=database, http_port=0)
    worker = start_worker(settings)
    port = (await worker.logged("http served"))["port"]
    async with asyncio.timeout(DEADLINE_SECONDS), httpx.AsyncClient(trust_env=False) as client:
        while (answer := await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 503:
            assert not answer.json()["ready"]
        assert answer.json()["ready"]
        conditions = {name.partition(":")[0] for name in answer.json()["conditions"]}
        assert conditions == {"the role has started", "predict"}
        assert (await client.get(f"http://127.0.0.1:{port}/livez")).json() == {"alive": True}
