"""`headrace dashboard` as a process of its own, and the stream that a page is drawn from."""

import asyncio
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import orjson

from schemas.events import JsonObject
from streams.config.settings import Settings
from tests.support.deadline import DEADLINE_SECONDS, deadline
from tests.support.stack.command import HEADRACE, environment


class PageProcess:
    """A `headrace dashboard` that serves at `url`."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self._process = process
        self.url = url

    async def interrupted(self) -> int:
        """End it as Ctrl-C does; the exit code."""
        self._process.send_signal(signal.SIGINT)
        async with deadline("the end of `headrace dashboard`"):
            return await self._process.wait()

    def pause(self) -> None:
        """Let it stand still, with its connections open."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    async def killed(self) -> None:
        self._process.kill()
        await self._process.wait()

    @property
    def port(self) -> int:
        return int(self.url.rstrip("/").rpartition(":")[2])


@asynccontextmanager
async def live_page(settings: Settings, *, port: int = 0) -> AsyncIterator[PageProcess]:
    """The page of its own process, until the block ends."""
    process = await asyncio.create_subprocess_exec(
        *(HEADRACE, "dashboard", "--port", str(port)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env=environment(settings),
    )
    try:
        assert process.stdout is not None
        async with deadline("the address of the live page"):
            line = (await process.stdout.readline()).decode().strip()
        assert line.startswith("http://127.0.0.1:"), line
        yield PageProcess(process, line)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def events(url: str, *models: str) -> AsyncGenerator[tuple[str, JsonObject], None]:
    """The events of the stream with their documents, as they come."""
    address = httpx.URL(url).join("dashboard/events").copy_merge_params([("model", name) for name in models])
    name = ""
    async with (
        httpx.AsyncClient(trust_env=False, timeout=DEADLINE_SECONDS) as client,
        client.stream("GET", address) as response,
    ):
        assert response.status_code == 200, (await response.aread()).decode()
        assert response.headers["content-type"] == "text/event-stream"
        async for line in response.aiter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, orjson.loads(value)


async def until(url: str, holds: Callable[[JsonObject], Any], *models: str) -> JsonObject:
    """The first state of the page for which `holds` is true."""
    state: JsonObject = {}
    async with deadline(lambda: f"another state than {state}"), aclosing(events(url, *models)) as stream:
        async for name, state in stream:
            if name == "state" and holds(state):
                return state
    raise AssertionError("the stream ended")
