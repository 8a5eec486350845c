"""`python -m tests.bench.registry_scale`: a worker beside a registry of 1,000 models with 10 versions each.

Writes `build/bench/registry.json`: how long a worker takes to load all of it and to follow a promotion, how
long its event loop stands still meanwhile, and what it costs to route a request. BENCH_REPEATS is how often
all is loaded (5).
"""

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from deploy.local.postgres import Postgres
from registry.follower import EpochFollower
from registry.migrate import migrate
from registry.store import RegistryStore
from schemas.events import JsonObject
from streams.config.settings import Settings
from streams.models.backend_loader import BackendLoader
from streams.process.interpreter import GC_THRESHOLDS, SWITCH_INTERVAL_SECONDS
from streams.process.logs import configure_logging
from streams.serving.active_tables import ActiveTables
from streams.serving.refresh import ServingRefresher
from streams.serving.request_metrics import MetricsRegistry
from streams.serving.route_table import ServedModel
from streams.serving.version_loader import LoadBackend
from tests.support.worker.version_loading import version_loader
from workers.backends.port import Backend

from .entry import BUILD, console, entry
from .recommender import Recommender
from .registry_environment import MODELS, VERSIONS, apply, fill, model_name, model_server
from .registry_figures import Registry, Watched, document
from .tables import ratio_table
from .workload import INPUT_SCHEMA, OUTPUT_SCHEMA, user_id

FOLLOWED_MODELS = 100
LOADED_VERSIONS = 20
_RECOMMENDER = "recommender"
_FIRST_SEED = 100
_ROUTED = 20_000
_ROUTING_REPEATS = 15


def main() -> None:
    repeats = int(os.environ.get("BENCH_REPEATS") or 5)
    out = console()
    with TemporaryDirectory(prefix="registry-", dir=BUILD) as name:
        folder = Path(name)
        postgres = Postgres(folder / "postgres")
        postgres.prepare()
        postgres.start()
        try:
            with (folder / "log").open("w") as log, model_server(folder) as endpoint:
                configure_logging(stream=log)
                asyncio.run(migrate(postgres.dsn))
                measured = asyncio.run(
                    measure(postgres.dsn, endpoint, folder, models=MODELS, repeats=repeats, report=out.print)
                )
        finally:
            postgres.kill()
    figures = document(measured)
    path = BUILD / "registry.json"
    path.write_text(json.dumps(figures, indent=1) + "\n")
    out.print(ratio_table(figures["targets"]))
    out.print(
        f"{MODELS:,} models with a model server are loaded in {measured.served_seconds:.1f} s; an idle event loop "
        f"stands still for up to {figures['idle_stall_ms']:.2f} ms; the worker's own part of its stalls is at most "
        f"{max(figures['refresh_stall_cpu_ms'], figures['load_stall_cpu_ms']):.2f} ms; written to {path}"
    )


async def measure(
    dsn: str, endpoint: str, folder: Path, *, models: int, repeats: int, report: Callable[[str], None]
) -> Registry:
    """All of it, on an empty registry whose tables are there; artifacts go to `folder`."""
    report(f"registering {models:,} models")
    await fill(dsn, endpoint, models)
    report("loading all")
    cold_seconds = [await _cold_load(dsn) for _ in range(repeats)]
    report("loading all, with a model server")
    settings = Settings(artifact_dir=str(folder / "artifacts"))
    began = time.perf_counter()
    async with _worker(dsn, BackendLoader(settings)) as (refresher, tables):
        served_seconds = time.perf_counter() - began
        assert not tables.current.behind, tables.current.behind
        with _as_in_a_worker():
            report("routing requests")
            routing_us = _routing_us(tables.current.models, models)
            report("following promotions")
            store = await RegistryStore.connect(dsn)
            try:
                followed = min(FOLLOWED_MODELS, models // 2)
                follower = _Follower(store, refresher, tables)
                refresh_ms = [one.ms for one in await follower.promotions(range(followed), watched=False)]
                refreshes = await follower.promotions(range(followed, 2 * followed), watched=True)
                idle = [await _watch(_idle(median(refresh_ms))) for _ in refreshes]
                report("loading ONNX versions")
                loads = await follower.loads(folder)
            finally:
                await store.close()
    return Registry(
        models, VERSIONS, cold_seconds, served_seconds, refresh_ms, refreshes, loads, idle, routing_us
    )


@contextmanager
def _as_in_a_worker() -> Iterator[None]:
    """With the collector and the interpreter set as the role `predict` sets them when all is loaded."""
    before, interval_seconds = gc.get_threshold(), sys.getswitchinterval()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(interval_seconds)
        gc.set_threshold(*before)
        gc.unfreeze()


class _Prepared:
    """A backend that is there at once: what is left is the work of registry and table."""

    takes_one = False

    async def infer(self, inputs: Sequence[JsonObject], *, timeout_seconds: float) -> list[Any]:
        raise NotImplementedError

    async def warm(self) -> None:
        """It is."""

    async def close(self) -> None:
        """There is nothing to close."""


async def _prepared(*_: object) -> Backend:
    return _Prepared()


async def _cold_load(dsn: str) -> float:
    """Seconds from the first connection to all models being served."""
    began = time.perf_counter()
    async with _worker(dsn, _prepared) as (_, tables):
        seconds = time.perf_counter() - began
        assert not tables.current.behind
    return seconds


@asynccontextmanager
async def _worker(dsn: str, load: LoadBackend) -> AsyncIterator[tuple[ServingRefresher, ActiveTables]]:
    """What keeps a worker's table, with all models loaded."""
    store = await RegistryStore.connect(dsn)
    tables = ActiveTables()
    refresher = ServingRefresher(
        EpochFollower(store.epoch, store.load),
        tables,
        version_loader(load, meter_of=MetricsRegistry("bench", "bench", datetime.now(UTC)).meter),
        poll_seconds=1.0,
        stale_after_seconds=5.0,
    )
    try:
        await refresher.refresh()
        await refresher.wait_for_loads()
        yield refresher, tables
    finally:
        await refresher.close()
        await store.close()


class _Follower:
    """Has promotions applied and the worker follow each."""

    def __init__(self, store: RegistryStore, refresher: ServingRefresher, tables: ActiveTables) -> None:
        self._store = store
        self._refresher = refresher
        self._tables = tables

    async def promotions(self, numbers: range, *, watched: bool) -> list[Watched]:
        """For each model its canary is promoted and then rolled back; both versions are loaded."""
        followed = []
        for number in numbers:
            name = model_name(number)
            for action, fields in (("promote", {"version": "v2"}), ("rollback", {})):
                result = await apply(self._store, action, name, **fields)
                began = time.perf_counter()
                if watched:
                    followed.append(await _watch(self._refresher.refresh()))
                else:
                    await self._refresher.refresh()
                    followed.append(Watched((time.perf_counter() - began) * 1000, 0.0, 0.0))
                self._serves(name, result.revision)
        return followed

    async def loads(self, folder: Path) -> list[Watched]:
        """New versions of an ONNX model, each loaded to take a part of the traffic."""
        await self._register(folder, "v0", _FIRST_SEED)
        await apply(self._store, "promote", _RECOMMENDER, version="v0")
        await self._follow()
        followed = []
        for number in range(1, LOADED_VERSIONS + 1):
            await self._register(folder, f"v{number}", _FIRST_SEED + number)
            result = await apply(self._store, "canary", _RECOMMENDER, version=f"v{number}", weight=10)
            followed.append(await _watch(self._follow()))
            self._serves(_RECOMMENDER, result.revision)
            await apply(self._store, "rollback", _RECOMMENDER)
            await self._follow()
        return followed

    async def _register(self, folder: Path, version: str, seed: int) -> None:
        artifact = folder / f"{version}.onnx"
        spec = {
            "version": version,
            "framework": "onnx",
            "artifact_sha256": Recommender.random(seed).save(artifact),
            "artifact_uri": artifact.absolute().as_uri(),
            "input_schema": INPUT_SCHEMA,
            "output_schema": OUTPUT_SCHEMA,
        }
        await apply(self._store, "register", _RECOMMENDER, model=spec)

    async def _follow(self) -> None:
        await self._refresher.refresh()
        await self._refresher.wait_for_loads()

    def _serves(self, name: str, revision: int) -> None:
        table = self._tables.current
        assert not table.behind, table.behind
        assert table.models[name].revision == revision


async def _watch(work: Coroutine[Any, Any, None]) -> Watched:
    """Do the work beside a task that is always ready: the time between two of its turns is a stall."""
    longest_seconds = longest_cpu_seconds = 0.0

    async def take_turns() -> None:
        nonlocal longest_seconds, longest_cpu_seconds
        before, cpu_before = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(0)
            now, cpu_now = time.perf_counter(), time.thread_time()
            longest_seconds = max(longest_seconds, now - before)
            longest_cpu_seconds = max(longest_cpu_seconds, cpu_now - cpu_before)
            before, cpu_before = now, cpu_now

    turns = asyncio.create_task(take_turns())
    await asyncio.sleep(0)
    began = time.perf_counter()
    await work
    took_seconds = time.perf_counter() - began
    # Its last turn is after the work.
    await asyncio.sleep(0)
    turns.cancel()
    await asyncio.gather(turns, return_exceptions=True)
    return Watched(took_seconds * 1000, longest_seconds * 1000, longest_cpu_seconds * 1000)


async def _idle(ms: float) -> None:
    """As long as the work that it is compared with."""
    await asyncio.sleep(ms / 1000)


def _routing_us(served: Mapping[str, ServedModel], models: int) -> dict[int, list[float]]:
    """Microseconds of processor for the choice of one request's version, among one model and among all."""
    users = [user_id(number) for number in range(_ROUTED)]
    routed = {
        count: [(model_name(number % count), user) for number, user in enumerate(users)]
        for count in (1, models)
    }
    tables = {count: {name: served[name] for name, _ in requests} for count, requests in routed.items()}
    times: dict[int, list[float]] = {count: [] for count in routed}
    for _ in range(_ROUTING_REPEATS):
        for count, requests in routed.items():
            table = tables[count]
            began = time.thread_time()
            for name, user in requests:
                table[name].version_for(user)
            times[count].append((time.thread_time() - began) / _ROUTED * 1e6)
    return times


if __name__ == "__main__":
    sys.exit(entry(main))
