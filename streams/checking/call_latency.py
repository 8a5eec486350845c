"""How long a backend takes for batches of one example, within a bounded time."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from schemas.events import JsonObject
from workers.backends.port import Backend

BATCH_SIZES = 1, 8, 32
# So many calls, or so long, for one size.
MAX_CALLS = 500
MAX_SECONDS = 1.0
# The part of that which goes before, uncounted: pools and buffers are filled by then.
WARM_UP = 0.1


@dataclass(frozen=True, slots=True)
class Latency:
    """What calls with `batch_size` examples each took."""

    batch_size: int
    calls: int
    median_ms: float
    p99_ms: float
    examples_per_second: float

    @classmethod
    def of(cls, batch_size: int, seconds: Sequence[float]) -> "Latency":
        """PURE. From the times of calls that were made one after another; at least one."""
        ordered = sorted(seconds)
        return cls(
            batch_size=batch_size,
            calls=len(ordered),
            median_ms=round(_percentile(ordered, 0.5) * 1000, 4),
            p99_ms=round(_percentile(ordered, 0.99) * 1000, 4),
            examples_per_second=round(batch_size * len(ordered) / sum(ordered), 1),
        )


async def measure(
    backend: Backend,
    inputs: Sequence[JsonObject],
    *,
    timeout_seconds: float,
    on_progress: Callable[[float], None],
) -> Latency:
    """Call with these inputs again and again; `on_progress` is told what part of it is done, up to 1.

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
    """By the nearest rank: a time that was measured."""
    return ordered[math.ceil(part * len(ordered)) - 1]
