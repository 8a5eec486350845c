"""Measure the latency of a backend for batches of one example, within a limited time."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from schemas.events import JsonObject
from workers.backends.port import Backend

_BATCH_SIZES = 1, 8, 32, 128, 512, 2048
# Limits of the measurement of one batch size.
MAX_CALLS = 500
MAX_SECONDS = 1.0
# This share of the limits is spent first and not counted, to fill pools and buffers.
WARM_UP = 0.1


@dataclass(frozen=True, slots=True)
class Latency:
    """The latency of calls with `batch_size` examples each."""

    batch_size: int
    calls: int
    median_ms: float
    p99_ms: float
    examples_per_second: float

    @classmethod
    def of(cls, batch_size: int, seconds: Sequence[float]) -> "Latency":
        """PURE. Summarise the durations of sequential calls; `seconds` must not be empty."""
        ordered = sorted(seconds)
        return cls(
            batch_size=batch_size,
            calls=len(ordered),
            median_ms=round(_percentile(ordered, 0.5) * 1000, 4),
            p99_ms=round(_percentile(ordered, 0.99) * 1000, 4),
            examples_per_second=round(batch_size * len(ordered) / sum(ordered), 1),
        )


def batch_sizes(largest: int) -> list[int]:
    """PURE. The sizes to measure, in order; the last is `largest`."""
    return [*(size for size in _BATCH_SIZES if size < largest), largest]


async def measure(
    backend: Backend,
    inputs: Sequence[JsonObject],
    *,
    timeout_seconds: float,
    on_progress: Callable[[float], None],
) -> Latency:
    """Call repeatedly with these inputs; `on_progress` receives the share that is done, 0 to 1.

    Raises BackendUnavailableError and BackendFailedError.
    """
    await _repeat(backend, inputs, timeout_seconds, WARM_UP, lambda _: None)
    return Latency.of(len(inputs), await _repeat(backend, inputs, timeout_seconds, 1.0, on_progress))


async def _repeat(
    backend: Backend,
    inputs: Sequence[JsonObject],
    timeout_seconds: float,
    part: float,
    on_progress: Callable[[float], None],
) -> list[float]:
    seconds: list[float] = []
    began = time.perf_counter()
    done = 0.0
    while done < 1:
        start = time.perf_counter()
        await backend.infer(inputs, timeout_seconds=timeout_seconds)
        end = time.perf_counter()
        seconds.append(end - start)
        done = max((end - began) / (MAX_SECONDS * part), len(seconds) / (MAX_CALLS * part))
        on_progress(min(1.0, done))
    return seconds


def _percentile(ordered: Sequence[float], part: float) -> float:
    """The percentile by the nearest rank, which is one of the values; `part` is 0 to 1."""
    return ordered[math.ceil(part * len(ordered)) - 1]
