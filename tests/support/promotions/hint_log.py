"""The hints, connections and log events of a listener on the channel of hints, as they arrive."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from structlog.typing import EventDict, WrappedLogger

from registry.broadcast import HintListener
from registry.installation import read_installation
from registry.postgres import Database
from schemas.events import RouteHint
from tests.support.deadline import Signal


async def hint_channel(dsn: str) -> str:
    """The channel of the installation of this database."""
    database = await Database.connect(dsn)
    try:
        return (await read_installation(database)).hint_channel
    finally:
        await database.close()


class HintLog:
    """Everything so far; `connections` counts how often the listener has subscribed."""

    def __init__(self) -> None:
        self.hints: list[RouteHint] = []
        self.connections = 0
        self.logged: list[str] = []
        self._news = Signal()

    def on_hint(self, hint: RouteHint) -> None:
        self.hints.append(hint)
        self._news.notify()

    def on_connected(self) -> None:
        self.connections += 1
        self._news.notify()

    def on_log(self, _logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
        """A processor of structlog, the last one."""
        self.logged.append(line["event"])
        self._news.notify()
        raise structlog.DropEvent

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds` is true; it is evaluated after each hint, connection and log event."""
        await self._news.until(
            holds,
            lambda: f"more than {self.hints} on {self.connections} connections, logged {self.logged}",
        )


@asynccontextmanager
async def hint_log(redis_url: str, channel: str) -> AsyncIterator[HintLog]:
    """Of a listener on this channel that runs until the block ends."""
    heard = HintLog()
    before = structlog.get_config()
    structlog.configure(processors=[heard.on_log])
    listener = HintListener(
        redis_url, channel=channel, on_hint=heard.on_hint, on_connected=heard.on_connected
    )
    listening = asyncio.create_task(listener.run())
    try:
        yield heard
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        structlog.configure(**before)
