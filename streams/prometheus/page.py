"""The page `/metrics`, written in small steps; other tasks of the process run between them."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from http import HTTPStatus
from importlib.metadata import version

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from streams.process.background import failed_steps
from streams.prometheus import catalogue
from streams.prometheus.text_format import Part, labels, simple

# A page of many models takes longer than a request may wait, so it yields to other tasks after this time.
STEP_SECONDS = 0.001

Read = Callable[[], Iterable[Part]]
"""Returns the current metrics; those of one name may come in several parts."""


class MetricsPage:
    """The metrics that the roles add, and the client library's of the process, Python and its garbage collector."""

    def __init__(self) -> None:
        self._process = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._process)
        self._reads: list[Read] = []

    def add(self, read: Read) -> None:
        """Show these metrics too from now on."""
        self._reads.append(read)

    async def answer(self, _: web.Request) -> web.Response:
        """Answer a scrape."""
        # Every Prometheus reads the text format; OpenMetrics would add nothing.
        return web.Response(
            status=HTTPStatus.OK,
            body=await self.text(),
            headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4},
        )

    async def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        # The format requires all samples of one name together, below one # HELP and one # TYPE.
        pieces: dict[str, list[str]] = {}
        step_ends = time.perf_counter() + STEP_SECONDS
        for part in self._parts():
            pieces.setdefault(part.name, [part.head]).append(part.lines)
            if time.perf_counter() >= step_ends:
                await asyncio.sleep(0)
                step_ends = time.perf_counter() + STEP_SECONDS
        written = []
        for lines in pieces.values():
            written.append("".join(lines).encode())
            await asyncio.sleep(0)
        return b"".join([*written, generate_latest(self._process)])

    def _parts(self) -> Iterator[Part]:
        for read in self._reads:
            yield from read()


def process_metrics(worker: str, role: str) -> Iterator[Part]:
    """The metric that identifies a process by its name, its role and its release, and its background failures."""
    known = labels(worker=worker, role=role, version=_release())
    yield simple(catalogue.WORKER_INFO, [(known, 1)])
    failures = [(labels(failure=failure), count) for failure, count in sorted(failed_steps.items())]
    if failures:
        yield simple(catalogue.FAILED_STEPS, failures)


@cache
def _release() -> str:
    return version("headrace")
