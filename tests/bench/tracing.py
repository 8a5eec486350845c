"""`python -m tests.bench.tracing`: what tracing costs the request path, off and on, beside the path without it.

Writes `build/bench/tracing.json`. BENCH_REPEATS is the number of rounds (100). Ends with 1 when the target is
missed. The path runs in memory, without Kafka and Redis, so that nothing hides the difference.
"""

import asyncio
import gc
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from rich.table import Table

from streams import pipeline as with_hooks
from streams import serving as serving_with_hooks
from streams.ledger import Partition, Slice
from streams.metrics import MetricsBook
from streams.pipeline import PipelineOptions
from streams.responses import OutputTopic
from streams.serving import ServedTables, ServingTable
from streams.tracing.otlp import OtlpExporter
from streams.tracing.spans import Spans
from streams.tracing.tracing import MAX_SPANS, SPANS_A_CALL
from tests.serving import FakeRecord, RecordingMeter, served_model, spec_of

from .entry import BUILD, console, entry
from .tables import ratio_table
from .tracing_figures import CONTENDERS, OFF, WITHOUT, Measured, document
from .untraced import untraced

MODEL = "m"


@dataclass(frozen=True, slots=True)
class Workload:
    """So many slices of so many records; `warm` when the cache has every answer."""

    name: str
    slices: int
    records: int
    warm: bool


WORKLOADS = (Workload("warm-500", 20, 500, warm=True), Workload("cold-1", 200, 1, warm=False))
# Of a hundred requests, how many their senders sampled.
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
    """The URL of a receiver that is a process of its own, and whose time does not count."""
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
    """So many rounds of each contender in turns; who begins changes with the round."""
    bare = untraced()
    exporter = OtlpExporter(url, headers={}, tls=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(
        # Spans are exported where their time is measured, and not some time later.
        BatchSpanProcessor(
            exporter,
            max_queue_size=MAX_SPANS,
            max_export_batch_size=SPANS_A_CALL,
            schedule_delay_millis=3_600_000,
        )
    )
    spans = Spans(provider.get_tracer("bench"), group_id="g", client_id="c")
    measured: list[Measured] = []
    for workload in workloads:
        paths = {
            name: _Path(
                workload,
                bare["streams.pipeline"] if name == WITHOUT else with_hooks,
                bare["streams.serving"] if name == WITHOUT else serving_with_hooks,
                spans if name.startswith("on") else None,
                sampled_percent=SAMPLED[name],
            )
            for name in CONTENDERS
        }
        gc.collect()
        # What is there already need not be looked through before each measurement.
        gc.freeze()
        # The first round is a rehearsal.
        for number in range(repeats + 1):
            for place in range(len(CONTENDERS)):
                name = CONTENDERS[(place + number) % len(CONTENDERS)]
                cpu_us = await paths[name].cpu_us_a_record(provider)
                if number:
                    measured.append(Measured(workload.name, name, number, cpu_us))
        report(f"{workload.name}: {repeats} rounds of each")
    gc.unfreeze()
    provider.shutdown()
    return measured


class _Path:
    """A pipeline in memory with its slices, which it answers again and again."""

    def __init__(
        self,
        workload: Workload,
        pipeline: ModuleType,
        serving: ModuleType,
        spans: Spans | None,
        *,
        sampled_percent: int,
    ) -> None:
        spec = spec_of("v1", {"type": "object"}, cache_ttl_seconds=300)
        tracer = None if spans is None else spans.calls_of(MODEL, spec)
        version = serving.ServedVersion.of(MODEL, spec, _Backend(), RecordingMeter(), tracer)
        tables = ServedTables()
        tables.swap(ServingTable(epoch=1, models={MODEL: served_model(MODEL, 1, version)}))
        self._pipeline = pipeline.Pipeline(
            serving=tables,
            is_stale=lambda: False,
            cache=_Cache(warm=workload.warm),
            output=_Output(),
            metrics=MetricsBook("w", "b", datetime.now(UTC)),
            options=PipelineOptions(OutputTopic("r", 1 << 20), OutputTopic("d", 1 << 20), 1, 1 << 20),
            tracer=spans,
        )
        self._workload = workload
        numbers = iter(range(workload.slices * workload.records))
        self._slices = [
            [_record(next(numbers), sampled_percent) for _ in range(workload.records)]
            for _ in range(workload.slices)
        ]

    async def cpu_us_a_record(self, provider: TracerProvider) -> float:
        """Processor time of all threads, the export of what was traced with it."""
        gc.collect()
        gc.disable()
        began = time.process_time()
        for records in self._slices:
            await self._pipeline.process(Slice(Partition("t", 0), records, 1, received_at=time.monotonic()))
        provider.force_flush()
        cpu_seconds = time.process_time() - began
        gc.enable()
        return cpu_seconds / (self._workload.slices * self._workload.records) * 1e6


def _record(number: int, sampled_percent: int) -> FakeRecord:
    flags = int(number % 100 < sampled_percent)
    value = (
        f'{{"request_id":"r{number}","model_name":"{MODEL}","user_id":"u{number}","input":{{"x":{number}}}}}'
    )
    # Every request is traced by its sender, which samples few of them.
    parent = f"00-{number + 1:032x}-{number + 1:016x}-{flags:02x}"
    return FakeRecord(value.encode(), offset=number, headers=[("traceparent", parent.encode())])


class _Backend:
    """Answers at once."""

    async def infer(self, inputs: Sequence[Any], *, timeout_seconds: float) -> list[Any]:  # noqa: ARG002  # the protocol's signature
        return [1] * len(inputs)

    async def warm(self) -> None:
        """There is nothing to warm."""

    async def close(self) -> None:
        """There is nothing to close."""


class _Cache:
    """Has all, or nothing."""

    def __init__(self, *, warm: bool) -> None:
        self._value = b"1" if warm else None

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self._value] * len(keys)

    async def set_many(self, items: Sequence[tuple[bytes, bytes]], ttl_seconds: int) -> None:
        """It keeps nothing."""


class _Output:
    """Takes every row."""

    def join(self, rows: Sequence[Any], *_: object) -> tuple[int, None]:
        return len(rows), None

    async def send_batch(self, *_: object) -> Any:
        raise AssertionError("every row was taken")


def _table(figures: dict[str, Any]) -> Table:
    table = Table(title="CPU µs a record", title_justify="left")
    for column in ("", *figures["cpu_us_per_record"]):
        table.add_column(column, justify="left" if column == "" else "right")
    for name in CONTENDERS:
        row = [
            f"{by_name[name]:.2f} ({figures['ratios'][workload][name]:.3f} times)"
            for workload, by_name in figures["cpu_us_per_record"].items()
        ]
        table.add_row(name, *row)
    return table


if __name__ == "__main__":
    sys.exit(entry(main))
