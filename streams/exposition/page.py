"""The page `/metrics`, written in small steps between which everything else of the process goes on."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

# After so long others have their turn; a page of many models takes longer than a request may wait.
STEP_SECONDS = 0.001

Read = Callable[[], Iterable[Metric]]
"""Gives the metrics as they are when it is asked; those of one name may come in several parts."""


class MetricsPage:
    """What the roles add, and what the library tells of the process, of Python and of its collector of garbage."""

    def __init__(self) -> None:
        process = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=process)
        self._reads: list[Read] = [process.collect]

    def add(self, read: Read) -> None:
        """Show this too from now on."""
        self._reads.append(read)

    async def answer(self, _: web.Request) -> web.Response:
        """Answer a scrape."""
        # Of the text format, which every Prometheus takes; the other ones hold nothing more of ours.
        return web.Response(
            status=HTTPStatus.OK,
            body=await self.text(),
            headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4},
        )

    async def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        pieces: dict[str, list[bytes]] = {}
        until = time.perf_counter() + STEP_SECONDS
        for metric in self._metrics():
            text = generate_latest(_Only(metric))
            lines = pieces.get(metric.name)
            if lines is None:
                pieces[metric.name] = [text]
            else:
                # All samples of one name stand together, below one # HELP and one # TYPE.
                lines.append(text.split(b"\n", 2)[2])
            if time.perf_counter() >= until:
                await asyncio.sleep(0)
                until = time.perf_counter() + STEP_SECONDS
        return b"".join(line for lines in pieces.values() for line in lines)

    def _metrics(self) -> Iterator[Metric]:
        for read in self._reads:
            yield from read()


class _Only(Collector):
    """One metric, as the library wants it."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return [self._metric]
