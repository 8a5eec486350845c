"""`python -m tests.bench.memory`: a worker's memory over two million requests with a million inputs.

Writes `build/bench/memory.json`. Flat means: after the first fifth of the requests, the resident set stays
within a tenth of its median. BENCH_MEMORY_REQUESTS is another number of requests.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from .answers import WrongAnswerError
from .broker import Broker
from .competitors import HEADRACE
from .entry import BUILD, console, entry
from .environment import Environment, prepare
from .running import DEAD_LETTERS, METRICS, run
from .workload import Message, message

WARM_UP_SHARE = 0.2
FLAT_SHARE = 0.1
_POLL_SECONDS = 0.25
_STALL_SECONDS = 60.0
# Has no common factor with a power of ten: the second half asks of every input once, in another order.
_STRIDE = 7919


@dataclass(frozen=True, slots=True)
class Sample:
    """The resident set at the time at which `answered` requests were answered."""

    seconds: float
    answered: int
    rss_bytes: int


def requests(count: int) -> Iterator[Message]:
    """PURE. `count` requests, of which the second half repeats the inputs of the first."""
    distinct = count // 2
    yield from (message(number) for number in range(distinct))
    for number in range(distinct, count):
        yield message(number, subject=number * _STRIDE % distinct)


def evaluate(samples: list[Sample], count: int) -> dict[str, Any]:
    """PURE. Whether the memory is flat, and what it was."""
    settled = [sample.rss_bytes for sample in samples if sample.answered >= WARM_UP_SHARE * count]
    typical = median(settled)
    deviation = max(max(settled) - typical, typical - min(settled)) / typical
    return {
        "requests": count,
        "distinct_inputs": count // 2,
        "seconds": samples[-1].seconds,
        "rss_median_bytes": int(typical),
        "rss_min_bytes": min(settled),
        "rss_max_bytes": max(settled),
        "rss_largest_deviation": deviation,
        "reached": deviation <= FLAT_SHARE,
        "samples": [asdict(sample) for sample in samples],
    }


def main() -> None:
    count = int(os.environ.get("BENCH_MEMORY_REQUESTS") or 2_000_000)
    out = console()
    with prepare(BUILD, out.print) as environment:
        figures = evaluate(asyncio.run(measure(environment, count, out.print)), count)
    path = BUILD / "memory.json"
    path.write_text(json.dumps(figures, indent=1) + "\n")
    out.print(
        f"resident set {figures['rss_median_bytes'] / 2**20:.0f} MiB, at most "
        f"{100 * figures['rss_largest_deviation']:.1f}% off, over {count:,} requests: "
        f"{'flat' if figures['reached'] else 'NOT flat'}; written to {path}"
    )


async def measure(environment: Environment, count: int, report: Callable[[str], None]) -> list[Sample]:
    """The resident set of a worker while it answers `count` requests, every quarter of a second."""
    source, sink = "bench-memory-in", "bench-memory-out"
    async with Broker(environment.kafka_bootstrap) as broker:
        await broker.create(DEAD_LETTERS, METRICS, source, sink)
        report(f"filling {source} with {count:,} requests")
        await broker.fill(source, requests(count))
        samples: list[Sample] = []
        with run(HEADRACE[0], environment, {}, source, sink) as running:
            began = moved = time.monotonic()
            answered = 0
            while answered < count:
                await asyncio.sleep(_POLL_SECONDS)
                now, before, answered = time.monotonic(), answered, await broker.count(sink)
                samples.append(Sample(now - began, answered, running.rss_bytes))
                if answered > before:
                    moved = now
                if now - moved > _STALL_SECONDS:
                    raise WrongAnswerError(f"the worker stands still at {answered}:\n{running.log_end}")
                if len(samples) % 20 == 0:
                    report(f"{answered:>9,} answered  {samples[-1].rss_bytes / 2**20:6.0f} MiB")
    return samples


if __name__ == "__main__":
    sys.exit(entry(main))
