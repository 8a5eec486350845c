"""Metrics deltas as workers publish them."""

from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.events import MetricsDelta
from schemas.histogram import HistogramBuilder

NOON = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


def delta(
    seq: int = 0, *, at: datetime = NOON, latencies: tuple[float, ...] = (1.0,), **fields: Any
) -> MetricsDelta:
    """What a worker counted in the second that begins at `at`."""
    latency = HistogramBuilder()
    for value in latencies:
        latency.add(value)
    empty = HistogramBuilder().drain()
    count = len(latencies)
    return MetricsDelta.model_validate(
        {
            "worker": "w",
            "boot_id": "b",
            "seq": seq,
            "window_start": at.isoformat(),
            "window_end": (at + timedelta(seconds=1)).isoformat(),
            "model_name": "m",
            "model_version": "v1",
            "revision": 1,
            "requests": count,
            "ok": count,
            "errors": {},
            "cache_hits": 0,
            "cache_misses": count,
            "latency_ms": latency.drain(),
            "end_to_end_ms": empty,
            "backend_ms": empty,
            "batch_size": empty,
        }
        | fields
    )
