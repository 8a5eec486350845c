"""streams/monitoring/live_view.py: what `headrace top` shows, from deltas that repeat, reorder and get lost."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import Histogram, MetricsDelta
from schemas.histogram import HistogramBuilder
from streams.monitoring.live_view import WINDOW_SECONDS, LiveView

AT = datetime(2026, 1, 1, tzinfo=UTC)


def histogram(*values: float) -> Histogram:
    builder = HistogramBuilder()
    for value in values:
        builder.add(value)
    return builder.drain()


def delta(
    seq: int = 0,
    *,
    worker: str = "w-1",
    boot_id: str = "b-1",
    version: str = "v1",
    latencies: tuple[float, ...] = (1.0,) * 9 + (100.0,),
    errors: dict[str, int] | None = None,
    hits: int = 3,
    misses: int = 1,
    revision: int = 1,
) -> MetricsDelta:
    failed = sum((errors or {}).values())
    return MetricsDelta(
        worker=worker,
        boot_id=boot_id,
        seq=seq,
        window_start=AT,
        window_end=AT,
        model_name="m",
        model_version=version,
        revision=revision,
        requests=len(latencies),
        ok=len(latencies) - failed,
        errors=errors or {},
        cache_hits=hits,
        cache_misses=misses,
        latency_ms=histogram(*latencies),
        end_to_end_ms=histogram(*(2 * value for value in latencies)),
        backend_ms=histogram(),
        batch_size=histogram(),
    )


def test_a_row_adds_up_all_workers() -> None:
    """Rates, shares and merged percentiles of one version over two workers."""
    view = LiveView(opened_at=0.0)
    view.add(delta(worker="w-1", errors={"INVALID_INPUT": 2}), now=1.0)
    view.add(delta(worker="w-2", revision=4, hits=0, misses=4), now=1.5)
    (row,) = view.figures(now=2.0).versions
    assert (row.model_name, row.model_version, row.revision, row.workers) == ("m", "v1", 4, 2)
    assert row.requests_per_second == 20 / 2.0
    assert row.p50_ms == pytest.approx(1.0, rel=0.02)
    assert row.p99_ms == pytest.approx(100.0, rel=0.02)
    assert row.end_to_end_p99_ms == pytest.approx(200.0, rel=0.02)
    assert row.cache_hit_share == 3 / 8
    assert (row.error_share, row.errors) == (2 / 20, {"INVALID_INPUT": 2})


def test_a_version_without_requests_has_no_figures() -> None:
    """It was loaded, and nothing was measured."""
    view = LiveView(opened_at=0.0)
    view.add(delta(latencies=(), hits=0, misses=0), now=1.0)
    (row,) = view.figures(now=2.0).versions
    assert row.requests_per_second == 0.0
    assert (row.p50_ms, row.p99_ms, row.end_to_end_p99_ms) == (None, None, None)
    assert (row.cache_hit_share, row.error_share) == (None, None)


def test_old_deltas_leave_the_window() -> None:
    """Ten seconds after its arrival a delta counts no more, and a silent version has no row."""
    view = LiveView(opened_at=0.0)
    view.add(delta(0), now=1.0)
    view.add(delta(1, version="v2"), now=5.0)
    assert [row.model_version for row in view.figures(now=10.9).versions] == ["v1", "v2"]
    assert [row.model_version for row in view.figures(now=1.0 + WINDOW_SECONDS).versions] == ["v2"]
    assert view.figures(now=100.0).versions == []


def test_the_rate_of_a_long_watch_is_over_the_window() -> None:
    """The rate is over the last ten seconds, not over the whole watch."""
    view = LiveView(opened_at=0.0)
    view.add(delta(0), now=995.0)
    (row,) = view.figures(now=1000.0).versions
    assert row.requests_per_second == 1.0


@given(st.lists(st.tuples(st.sampled_from(["b-1", "b-2"]), st.integers(0, 30)), min_size=1))
def test_a_delta_counts_once_in_any_order(arrivals: list[tuple[str, int]]) -> None:
    """Repeats change nothing, gaps are counted, whatever the order of arrival."""
    view = LiveView(opened_at=0.0)
    for boot_id, seq in arrivals:
        view.add(delta(seq, boot_id=boot_id), now=1.0)
    distinct = set(arrivals)
    (row,) = view.figures(now=1.0).versions
    assert row.requests_per_second == 10 * len(distinct)
    gaps = 0
    for boot in {boot for boot, _ in distinct}:
        seqs = [seq for of, seq in distinct if of == boot]
        gaps += max(seqs) - min(seqs) + 1 - len(seqs)
    assert view.figures(now=0.0).missing_deltas == gaps


def test_a_watch_of_days_remembers_a_bounded_number() -> None:
    """Memory does not grow with the time watched, and recent repeats are still known."""
    view = LiveView(opened_at=0.0)
    for seq in range(10_000):
        view.add(delta(seq, latencies=()), now=float(seq))
    assert sum(len(boot.recent) for boot in view._boots.values()) <= 2000
    view.add(delta(9_999), now=10_000.0)
    assert view.figures(now=0.0).missing_deltas == 0
    assert all(row.requests_per_second == 0 for row in view.figures(now=10_000.0).versions)


def test_a_version_that_asks_no_cache_has_no_hit_share() -> None:
    """No look-ups is not the same as no hits."""
    view = LiveView(opened_at=0.0)
    view.add(delta(hits=0, misses=0), now=1.0)
    assert view.figures(now=1.0).versions[0].cache_hit_share is None
