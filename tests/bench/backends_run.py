"""One protocol of a model server, from its first call to its row: throughput, added latency, the other one's hang."""

import gc
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from registry.store import RegistryStore
from streams.config.settings import Settings
from streams.process.interpreter import GC_THRESHOLDS

from .backends_figures import Row
from .backends_targets import Target
from .backends_throughput import GRID, Grid, loads
from .backends_worker import Model, Requests, requests
from .rollback_processes import WorkerProcess

THROUGHPUT, LATENCY, HANG = FIGURES = ("throughput", "latency", "hang")


@dataclass(frozen=True, slots=True)
class Lengths:
    """How often each figure is measured, and for how many seconds; `grid` is that of the direct client."""

    repeats: int
    grid: Grid = GRID
    sweeps: int = 2
    grid_seconds: float = 1.0
    throughput_seconds: float = 3.0
    latency_seconds: float = 5.0
    hang_seconds: float = 8.0


@dataclass(frozen=True, slots=True)
class Site:
    """A stack with the topics of `settings` and an empty registry; `figures` are the ones to measure."""

    settings: Settings
    folder: Path
    lengths: Lengths
    figures: frozenset[str]
    report: Callable[[str], None]


class Harness:
    """Measures rows, with a worker that serves what they register."""

    def __init__(self, site: Site, store: RegistryStore, asking: Requests) -> None:
        self._site = site
        self._store = store
        self._requests = asking

    async def measure(self, row: Row, targets: Sequence[Target]) -> None:
        """Fill a row, with the same protocol of two servers of a kind."""
        if THROUGHPUT in self._site.figures:
            with _as_in_a_worker():
                await self._throughput(row, targets[0])
        if {LATENCY, HANG} & self._site.figures:
            model = Model(row.name, self._store, self._requests)
            await model.serve(targets[0])
            if LATENCY in self._site.figures:
                await self._latency(row, model, targets[0])
            if HANG in self._site.figures:
                await model.split(targets[1])
                await self._hang(row, model, targets)

    async def _throughput(self, row: Row, target: Target) -> None:
        lengths = self._site.lengths
        async with loads(target) as load:
            best = await load.best_batched(lengths.grid, lengths.grid_seconds, lengths.sweeps)
            row.batch, row.calls = best.group, best.callers
            await load.serve(best.group)
            for number in self._numbers():
                round_ = await load.round(best, lengths.throughput_seconds)
                row.throughput.append(round_)
                self._report_round(
                    row,
                    number,
                    f"{round_.headrace:,.0f} examples/s, directly {round_.batched:,.0f}"
                    + (f", without batches {round_.unbatched:,.0f}" if round_.unbatched else ""),
                )

    async def _latency(self, row: Row, model: Model, target: Target) -> None:
        for number in self._numbers():
            round_ = await model.latency(target, self._site.lengths.latency_seconds)
            row.latency.append(round_)
            self._report_round(
                row, number, f"p50 {round_.worker_p50_ms:.2f} ms, directly {round_.direct_p50_ms:.2f} ms"
            )

    async def _hang(self, row: Row, model: Model, targets: Sequence[Target]) -> None:
        for number in self._numbers():
            round_ = await model.hang(targets, self._site.lengths.hang_seconds)
            row.hang.append(round_)
            self._report_round(
                row,
                number,
                f"p99 {round_.well_p99_ms:.1f} ms, while the other hangs {round_.hung_p99_ms:.1f} ms; "
                f"end to end {round_.well_end_to_end_p99_ms:.1f} and {round_.hung_end_to_end_p99_ms:.1f} ms",
            )

    def _numbers(self) -> Iterator[int]:
        return iter(range(1, self._site.lengths.repeats + 1))

    def _report_round(self, row: Row, number: int, text: str) -> None:
        self._site.report(f"{row.name:24} {number}/{self._site.lengths.repeats}  {text}")


@asynccontextmanager
async def measuring_harness(site: Site) -> AsyncIterator[Harness]:
    """With a worker that runs until the block ends."""
    process = WorkerProcess("predict-1", "predict", site.settings, site.folder)
    try:
        store = await RegistryStore.connect(site.settings.postgres_dsn.get_secret_value())
        try:
            await process.logged("hints are received")
            async with requests(site.settings) as asking:
                yield Harness(site, store, asking)
        finally:
            await store.close()
    finally:
        process.kill()


@contextmanager
def _as_in_a_worker() -> Iterator[None]:
    """Set the garbage collector as the role `predict` does, for direct calls too."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
