"""`python -m tests.bench.scrape`: what a scrape of `/metrics` costs a worker with 100 models of two versions each.

All versions have counted 5,000 requests. Beside the page a task takes its turn again and again, as slices do: how long it
waits for one is what a request may be held up. All times are of the processor. Writes `build/bench/scrape.json`.
"""

import asyncio
import json
import random
import statistics
import sys
import time
from datetime import UTC, datetime
from typing import cast

from registry.follower import EpochFollower
from registry.snapshot import RegisteredModel
from streams.prometheus.page import MetricsPage
from streams.prometheus.predict_families import PredictMetrics
from streams.serving.active_tables import ActiveTables
from streams.serving.refresh import ServingRefresher
from streams.serving.request_metrics import MetricsRegistry
from streams.serving.route_table import ServingTable
from tests.support.models.served_versions import (
    RecordingBackend,
    served_model,
    served_version,
)
from tests.support.worker.version_loading import version_loader

from .entry import BUILD, console, entry

MODELS = 100
REQUESTS = 5000
SCRAPES = 20


def main() -> None:
    measured = asyncio.run(measure())
    (BUILD / "scrape.json").write_text(json.dumps(measured, indent=1) + "\n")
    console().print(measured)


async def measure(models: int = MODELS, requests: int = REQUESTS, scrapes: int = SCRAPES) -> dict[str, float]:
    """The figures of `scrapes` scrapes of a worker whose versions have counted `requests` requests each."""
    page = MetricsPage()
    page.add(_predicting(models, requests).read)
    took_ms, longest_ms, size = [], [], 0
    for _ in range(scrapes):
        turns = _Turns()
        waiting = asyncio.create_task(turns.take())
        await asyncio.sleep(0.05)
        turns.longest_ms, begun = 0.0, time.thread_time()
        size = len(await page.text())
        took_ms.append(1000 * (time.thread_time() - begun))
        longest_ms.append(turns.longest_ms)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    return {
        "models": models,
        "versions": 2 * models,
        "scrapes": scrapes,
        "page_bytes": size,
        "page_ms": round(statistics.median(took_ms), 1),
        "longest_wait_ms": round(statistics.median(longest_ms), 2),
        "longest_wait_of_all_ms": round(max(longest_ms), 2),
    }


class _Turns:
    """Takes turns of the event loop, and notes the longest wait for one."""

    def __init__(self) -> None:
        self.longest_ms = 0.0

    async def take(self) -> None:
        # Of the thread's own time: what other programs on the machine take is not the page's.
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            self.longest_ms = max(self.longest_ms, 1000 * (now - last))
            last = now


def _predicting(count: int, requests: int) -> PredictMetrics:
    book, tables = MetricsRegistry("bench", "bench", datetime.now(UTC)), ActiveTables()
    names = [f"model-{number}" for number in range(count)]
    models = {
        name: served_model(
            name, 3, *(served_version(name, version, RecordingBackend()) for version in ("v1", "v2"))
        )
        for name in names
    }
    tables.swap(ServingTable(1, models))
    drawn = random.Random(7)
    latencies = [drawn.lognormvariate(1.5, 0.8) for _ in range(requests)]
    for name in names:
        for version in ("v1", "v2"):
            tally = book.counters_for(name, version)
            tally.ok, tally.cache_hits, tally.cache_misses = requests, requests // 2, requests // 2
            tally.failed("INVALID_INPUT")
            for histogram in (tally.latency_ms, tally.end_to_end_ms, tally.backend_ms):
                for latency in latencies:
                    histogram.add(latency)
    list(book.close_window(datetime.now(UTC)))
    for name in names:
        # The window that is open.
        book.counters_for(name, "v1").latency_ms.add(5.0)

    async def load(*_: object) -> RecordingBackend:
        return RecordingBackend()

    refresher = ServingRefresher(
        cast("EpochFollower[RegisteredModel]", None),
        tables,
        version_loader(load, on_load_failed=book.load_failed),
        poll_seconds=1.0,
        stale_after_seconds=5.0,
    )
    return PredictMetrics(
        book, tables, refresher, rejected_cache_values=lambda: 0, waiting=lambda *_: 0, unsent_bytes=lambda: 0
    )


if __name__ == "__main__":
    sys.exit(entry(main))
