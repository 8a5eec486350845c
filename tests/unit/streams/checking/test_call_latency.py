"""streams/checking/call_latency.py: median, p99 and throughput of measured calls."""

import pytest

from streams.checking.call_latency import Latency


def test_latency_of_measured_durations() -> None:
    """Median and p99 are measured durations; throughput counts examples, not calls."""
    latency = Latency.of(8, [0.001 * n for n in range(200, 0, -1)])
    assert (latency.calls, latency.median_ms, latency.p99_ms) == (200, 100.0, 198.0)
    assert latency.examples_per_second == pytest.approx(8 / 0.1005, abs=0.1)
    assert Latency.of(1, [0.25]) == Latency(1, 1, 250.0, 250.0, 4.0)
