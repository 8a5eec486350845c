"""`python -m tests.bench.tracing`: the cost of tracing on the request path, off and on, against no tracing.

Writes `build/bench/tracing.json`. BENCH_REPEATS is the number of rounds (100). Exits with 1 when the target is
missed. The path runs in memory: without Kafka and Redis the difference is large enough to measure.
"""

import asyncio
import gc
import json
import os
import random
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from rich.table import Table

from streams.kafka.offset_tracker import Partition, Slice, SliceLimits
from streams.serving.active_tables import ActiveTables
from streams.serving.output_batching import OutputTopic
from streams.serving.output_buffer import OutputBuffer
from streams.serving.pipeline_options import PipelineOptions
from streams.serving.request_metrics import MetricsRegistry
from streams.serving.route_table import ServingTable
from streams.tracing.otlp import OtlpExporter
from streams.tracing.provider import MAX_SPANS
from streams.tracing.spans import Spans
from tests.support.models.served_versions import FakeRecord, RecordingMeter, served_model, spec_of

from .entry import BUILD, console, entry
from .request_path_copies import copied
from .tables import ratio_table
from .tracing_figures import COMPETITORS, OFF, WITHOUT, Measured, document

MODEL = "m"


@dataclass(frozen=True, slots=True)
class Workload:
    """`slices` of `records` each; `warm` when the cache has predictions for every input."""

    name: str
    slices: int
    records: int
    warm: bool


WORKLOADS = (Workload("warm-500", 20, 500, warm=True), Workload("cold-1", 200, 1, warm=False))
# The percentage of requests that their senders sampled.
SAMPLED = {WITHOUT: 0, OFF: 0, "on, none sampled": 0, "on, 1% sampled": 1, "on, all sampled": 100}


def main() -> int:
    repeats = int(os.environ.get("BENCH_REPEATS") or 100)
    out = console()
    with sink() as url:
        measured = asyncio.run(measure(url, repeats=repeats, workloads=WORKLOADS, report=out.print))
    figures = document(measured)
    path = BUILD / "tracing.json"
    path.write_text(json.dumps(figures, indent=1) + "\n")
    out.print(_table(figures))
    out.print(ratio_table(figures["targets"]))
    out.print(f"written to {path}")
    return 0 if all(target["reached"] for target in figures["targets"].values()) else 1


@contextmanager
def sink() -> Iterator[str]:
    """The URL of a receiver in a process of its own, whose processor time is not measured."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.otlp_sink"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1/traces"
        finally:
            process.kill()


async def measure(
    url: str, *, repeats: int, workloads: Sequence[Workload], report: Callable[[str], None]
) -> list[Measured]:
    """Run the rounds; in each, the competitors answer the same slices and take turns after each slice."""
    measured: list[Measured] = []
    for workload in workloads:
        paths = {
            name: _Path(
                workload,
                copied(name, hooks=name != WITHOUT),
                url if name.startswith("on") else None,
                sampled_percent=SAMPLED[name],
            )
            for name in COMPETITORS
        }
        gc.collect()
        # The collections before each round then skip the objects that exist already.
        gc.freeze()
        # The first round warms up and is not measured.
        for number in range(repeats + 1):
            costs = await _round(paths, random.Random(number))
            if number:
                measured += [Measured(workload.name, name, number, cost) for name, cost in costs.items()]
        gc.unfreeze()
        for path in paths.values():
            path.close()
        report(f"{workload.name}: {repeats} rounds")
    return measured


async def _round(paths: Mapping[str, "_Path"], chance: random.Random) -> dict[str, float]:
    """CPU µs a record of each competitor. They take turns after each slice, so a disturbance affects all of them."""
    gc.collect()
    gc.disable()
    seconds = dict.fromkeys(paths, 0.0)
    slices, records = next((path.workload.slices, path.workload.records) for path in paths.values())
    for number in range(slices):
        # In a new order each time: the state of the processor's cache must not favour one of them.
        for name in chance.sample(list(paths), len(paths)):
            seconds[name] += await paths[name].answer(number)
    for name, path in paths.items():
        seconds[name] += path.flush()
    gc.enable()
    return {name: each / (slices * records) * 1e6 for name, each in seconds.items()}


class _Path:
    """A pipeline in memory with its slices; it exports to `url`, if given. Times cover all threads."""

    def __init__(
        self,
        workload: Workload,
        modules: Mapping[str, ModuleType],
        url: str | None,
        *,
        sampled_percent: int,
    ) -> None:
        self.workload = workload
        self._provider = None if url is None else _provider(url)
        spec = spec_of("v1", {"type": "object"}, cache_ttl_seconds=300)
        spans = tracer = None
        if self._provider is not None:
            spans = Spans(self._provider.get_tracer("bench"), group_id="g", client_id="c")
            tracer = spans.calls_of(MODEL, spec)
        version = modules["streams.serving.served_version"].served_version(
            MODEL, spec, _Backend(), RecordingMeter(), tracer=tracer
        )
        tables = ActiveTables()
        tables.swap(ServingTable(epoch=1, models={MODEL: served_model(MODEL, 1, version)}))
        self._pipeline = modules["streams.serving.pipeline"].Pipeline(
            tables=tables,
            is_stale=lambda: False,
            cache=_Cache(warm=workload.warm),
            output=_Output(),
            buffer=OutputBuffer(1 << 26),
            metrics=MetricsRegistry("w", "b", datetime.now(UTC)),
            options=PipelineOptions(OutputTopic("r", 1 << 20), OutputTopic("d", 1 << 20), 1 << 20),
            tracer=spans,
        )
        numbers = iter(range(workload.slices * workload.records))
        self._slices = [
            [_record(next(numbers), sampled_percent) for _ in range(workload.records)]
            for _ in range(workload.slices)
        ]

    async def answer(self, number: int) -> float:
        """Answer one slice; returns the processor time in seconds."""
        began = time.process_time()
        await self._pipeline.process(
            Slice(
                Partition("t", 0),
                self._slices[number],
                1,
                received_at=time.monotonic(),
                limits=SliceLimits(2000, 1024 * 1024),
            )
        )
        # Lets the tasks of the calls end, which they do after the responses.
        await asyncio.sleep(0)
        return time.process_time() - began

    def flush(self) -> float:
        """Export the spans; returns the processor time in seconds."""
        began = time.process_time()
        if self._provider is not None:
            self._provider.force_flush()
        return time.process_time() - began

    def close(self) -> None:
        if self._provider is not None:
            self._provider.shutdown()


def _provider(url: str) -> TracerProvider:
    exporter = OtlpExporter(url, headers={}, tls=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    provider = TracerProvider(shutdown_on_exit=False)
    # The schedule never exports: `flush` does, and measures it.
    provider.add_span_processor(BatchSpanProcessor(exporter, MAX_SPANS, 3_600_000, MAX_SPANS))
    return provider


def _record(number: int, sampled_percent: int) -> FakeRecord:
    flags = int(number % 100 < sampled_percent)
    value = (
        f'{{"request_id":"r{number}","model_name":"{MODEL}","user_id":"u{number}","input":{{"x":{number}}}}}'
    )
    # Every request has a trace context; the senders sample few of them.
    parent = f"00-{number + 1:032x}-{number + 1:016x}-{flags:02x}"
    return FakeRecord(value.encode(), offset=number, headers=[("traceparent", parent.encode())])


class _Backend:
    """Answers at once."""

    takes_one = False

    async def infer(self, inputs: Sequence[Any], *, timeout_seconds: float) -> list[Any]:  # noqa: ARG002  # the protocol's signature
        return [1] * len(inputs)

    async def warm(self) -> None:
        """There is nothing to warm."""

    async def close(self) -> None:
        """There is nothing to close."""


class _Cache:
    """Has an entry for every key, or for none."""

    def __init__(self, *, warm: bool) -> None:
        self._value = b"1" if warm else None

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self._value] * len(keys)

    async def set_many(self, items: Sequence[tuple[bytes, bytes]], ttl_seconds: int) -> None:
        """Keeps nothing."""


class _Output:
    """Takes every row, and has delivered it at once."""

    def __init__(self) -> None:
        self._delivered = asyncio.get_running_loop().create_future()
        self._delivered.set_result(None)

    def join(self, rows: Sequence[Any], *_: object) -> tuple[int, asyncio.Future[Any] | None]:
        return len(rows), self._delivered if rows else None

    async def send_batch(self, *_: object) -> Any:
        raise AssertionError("every row was taken")


def _table(figures: dict[str, Any]) -> Table:
    table = Table(title="CPU µs a record", title_justify="left")
    for column in ("", *figures["cpu_us_per_record"]):
        table.add_column(column, justify="left" if column == "" else "right")
    for name in COMPETITORS:
        row = [
            f"{by_name[name]:.2f} ({figures['ratios'][workload][name]:.3f} times)"
            for workload, by_name in figures["cpu_us_per_record"].items()
        ]
        table.add_row(name, *row)
    return table


if __name__ == "__main__":
    sys.exit(entry(main))
