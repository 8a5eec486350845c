"""The page `/metrics`, written in small steps between which everything else of the process goes on."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from streams.prometheus.text_format import Part

# After so long others have their turn; a page of many models takes longer than a request may wait.
STEP_SECONDS = 0.001

Read = Callable[[], Iterable[Part]]
"""Gives the metrics as they are when it is asked; those of one name may come in several parts."""


class MetricsPage:
    """What the roles add, and what the library tells of the process, of Python and of its collector of garbage."""

    def __init__(self) -> None:
        self._process = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._process)
        self._reads: list[Read] = []

    def add(self, read: Read) -> None:
        """Show this too from now on."""
        self._reads.append(read)

    async def answer(self, _: web.Request) -> web.Response:
        """Answer a scrape."""
        # In the text format, which every Prometheus takes; the other ones hold nothing more of ours.
        return web.Response(
            status=HTTPStatus.OK,
            body=await self.text(),
            headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4},
        )

    async def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        # All samples of one name stand together, below one # HELP and one # TYPE.
        pieces: dict[str, list[str]] = {}
        until = time.perf_counter() + STEP_SECONDS
        for part in self._parts():
            pieces.setdefault(part.name, [part.head]).append(part.lines)
            if time.perf_counter() >= until:
                await asyncio.sleep(0)
                until = time.perf_counter() + STEP_SECONDS
        written = []
        for lines in pieces.values():
            written.append("".join(lines).encode())
            await asyncio.sleep(0)
        return b"".join([*written, generate_latest(self._process)])

    def _parts(self) -> Iterator[Part]:
        for read in self._reads:
            yield from read()
