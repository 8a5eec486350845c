"""What a listener on the channel of hints tells and logs, as it comes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from structlog.typing import EventDict, WrappedLogger

from registry.broadcast import HintListener
from schemas.events import RouteHint

# What is noticed after 2.5 s of silence, and the pause before the next connection, on a busy machine.
DEADLINE_SECONDS = 20.0


class HintLog:
    """All so far; `connections` counts how often hints could be heard (again)."""

    def __init__(self) -> None:
        self.hints: list[RouteHint] = []
        self.connections = 0
        self.logged: list[str] = []
        self._news = asyncio.Event()

    def on_hint(self, hint: RouteHint) -> None:
        self.hints.append(hint)
        self._news.set()

    def on_connected(self) -> None:
        self.connections += 1
        self._news.set()

    def on_log(self, _logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
        """A processor of structlog, the last one."""
        self.logged.append(line["event"])
        self._news.set()
        raise structlog.DropEvent

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds` is true; it is asked whenever something was told or logged."""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not holds():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(
                f"not within {DEADLINE_SECONDS:g} s; heard {self.hints} on {self.connections} connections, "
                f"logged {self.logged}"
            ) from None


@asynccontextmanager
async def hint_log(redis_url: str) -> AsyncIterator[HintLog]:
    """Of a listener that runs until the block ends."""
    told = HintLog()
    before = structlog.get_config()
    structlog.configure(processors=[told.on_log])
    listener = HintListener(redis_url, on_hint=told.on_hint, on_connected=told.on_connected)
    listening = asyncio.create_task(listener.run())
    try:
        yield told
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        structlog.configure(**before)
