"""`python -m tests.bench.startup`: from the start of a worker's process to its first response.

The stack runs and a request waits. Writes `build/bench/startup.json`. BENCH_REPEATS is how often (5).
"""

import asyncio
import json
import os
import sys
import time
from dataclasses import replace
from statistics import median
from typing import Any

from aiokafka import AIOKafkaConsumer

from .answers import Sheet
from .broker import Broker, output_of
from .competitors import HEADRACE
from .entry import BUILD, console, entry
from .environment import Environment, prepare
from .running import DEAD_LETTERS, METRICS, run
from .workload import messages

LIMIT_SECONDS = 5.0
_GIVE_UP_SECONDS = 60.0


def evaluate(seconds: list[float]) -> dict[str, Any]:
    """PURE. Whether every start was fast enough."""
    return {
        "seconds": seconds,
        "median_seconds": median(seconds),
        "max_seconds": max(seconds),
        "limit_seconds": LIMIT_SECONDS,
        "reached": max(seconds) < LIMIT_SECONDS,
    }


def main() -> None:
    repeats = int(os.environ.get("BENCH_REPEATS") or 5)
    out = console()
    with prepare(BUILD, out.print) as environment:
        figures = evaluate(asyncio.run(measure(environment, repeats)))
    path = BUILD / "startup.json"
    path.write_text(json.dumps(figures, indent=1) + "\n")
    out.print(
        f"start to first response: median {figures['median_seconds']:.2f} s, longest "
        f"{figures['max_seconds']:.2f} s; written to {path}"
    )


async def measure(environment: Environment, repeats: int) -> list[float]:
    """Seconds from the start of a worker's process to its first response, of each start."""
    async with Broker(environment.kafka_bootstrap) as broker:
        await broker.create(DEAD_LETTERS, METRICS)
        return [await _start_once(environment, broker, number) for number in range(repeats)]


async def _start_once(environment: Environment, broker: Broker, number: int) -> float:
    source, sink = f"bench-in-{number}", f"bench-out-{number}"
    await broker.create(source, sink)
    await broker.fill(source, messages(range(1)))
    worker = replace(HEADRACE[0], records=1)
    sheet = Sheet(worker, environment.model)
    async with AIOKafkaConsumer(
        sink, bootstrap_servers=environment.kafka_bootstrap, auto_offset_reset="earliest"
    ) as consumer:
        began = time.monotonic()
        with run(worker, environment, {}, source, sink):
            record = await asyncio.wait_for(consumer.getone(), _GIVE_UP_SECONDS)
            seconds = time.monotonic() - began
    sheet.add(output_of(record))
    return seconds


if __name__ == "__main__":
    sys.exit(entry(main))
