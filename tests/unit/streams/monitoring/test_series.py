"""streams/monitoring/series.py: windows that are sums, the newest of them only, and baselines that are medians."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.windows import Window, total, windows_of
from streams.monitoring.series import KEPT_WINDOWS, VersionSeries
from tests.support.metrics.deltas import NOON, delta

NOW = NOON.timestamp()


def counted_at(seconds: float, **fields: Any) -> Any:
    return delta(at=NOON + timedelta(seconds=seconds), **fields)


def minutes(series: VersionSeries, count: int, latencies: tuple[float, ...], **fields: Any) -> float:
    """Add one delta for each of `count` minutes from noon; returns the end of the last one."""
    for minute in range(count):
        series.add(counted_at(60 * minute, latencies=latencies, **fields), NOW + 60 * minute + 1)
    return NOW + 60 * count


def test_what_is_counted_in_the_last_seconds_is_the_sum() -> None:
    """Errors and fallbacks are failures of requests that were routed here."""
    series = VersionSeries("v1")
    for second in range(100):
        series.add(
            counted_at(second, errors={"INTERNAL": 1}, fallbacks={"BACKEND_ERROR": 2}, load_failures=1),
            NOW + second + 1,
        )
    last = series.counted(NOW + 99.5, 5)
    assert (last.asked, last.failed, last.load_failures) == (6 * 3, 6 * 3, 6)
    assert series.counted(NOW + 99.5, 60).asked == 70 * 3
    assert series.counted(NOW + 99.5, 3600).asked == 100 * 3
    assert series.counted(NOW + 3600, 60).asked == 0
    assert (series.first_asked_at, series.last_asked_at) == (NOW, NOW + 100)


@given(st.lists(st.tuples(st.integers(0, 900), st.integers(1, 5)), min_size=1, max_size=80))
def test_sums_that_are_remembered_are_those_of_what_is_there(arrivals: list[tuple[int, int]]) -> None:
    """In whatever order deltas arrive and sums are read."""
    asking, fresh = VersionSeries("v1"), VersionSeries("v1")
    latest = 0
    for second, requests in arrivals:
        latest = max(latest, second)
        now = NOW + latest + 1
        added = counted_at(second, latencies=(1.0,) * requests)
        asking.add(added, now)
        fresh.add(added, now)
        for seconds in (5, 60, 600, 3600):
            asking.counted(now, seconds)
    for seconds in (5, 60, 600, 3600):
        assert asking.counted(NOW + latest + 1, seconds) == fresh.counted(NOW + latest + 1, seconds)


def test_old_windows_are_dropped() -> None:
    """Memory is bounded."""
    series = VersionSeries("v1")
    for second in range(0, 9 * 3600, 7):
        series.add(counted_at(second), NOW + second)
    for seconds, kept in KEPT_WINDOWS.items():
        there = list(series.newest(seconds, NOW + 9 * 3600, 10_000))
        assert len(there) <= kept
        assert sum(found.latencies is not None for _, found in there) <= 8
    series.add(counted_at(0, latencies=(1.0,) * 1000), NOW + 9 * 3600)
    assert series.counted(NOW + 9 * 3600, 21_600).asked < 4000


def test_the_p99_is_right_within_its_bound_and_stays_when_latencies_go() -> None:
    """The 99th of 100 values."""
    series = VersionSeries("v1")
    series.add(counted_at(0, latencies=(*(1.0,) * 98, 50.0, 400.0)), NOW)
    ((number, found),) = series.newest(60, NOW, 3)
    assert found.p99_ms == pytest.approx(50.0, rel=0.011)
    for minute in range(1, 12):
        series.add(counted_at(60 * minute), NOW + 60 * minute)
    old = series.bin(60, number)
    assert old is not None
    assert old.latencies is None
    assert old.p99_ms == pytest.approx(50.0, rel=0.011)


def test_a_baseline_is_the_usual_minute_of_the_hour_before() -> None:
    """A bad quarter of an hour does not become the baseline, nor do the last five minutes."""
    series = VersionSeries("v1")
    minutes(series, 50, (10.0,) * 60, cache_hits=40, cache_misses=20)
    for minute in range(50, 65):
        series.add(counted_at(60 * minute, latencies=(900.0,) * 60), NOW + 60 * minute)
    now = NOW + 65 * 60
    assert series.baseline_p99_ms(now) == pytest.approx(10.0, rel=0.011)
    assert series.baseline_hit_share(now, 0.0) == pytest.approx(2 / 3)
    assert series.baseline_hit_share(now, NOW + 55 * 60) is None


@pytest.mark.parametrize(("count", "requests", "known"), [(14, 60, False), (20, 60, True), (20, 49, False)])
def test_there_is_no_baseline_of_little(count: int, requests: int, known: bool) -> None:
    """Ten minutes with fifty requests each are needed, before the last five minutes."""
    series = VersionSeries("v1")
    now = minutes(series, count, (10.0,) * requests)
    assert (series.baseline_p99_ms(now) is not None) == known


def test_what_was_added_up_before_is_restored() -> None:
    """Windows from PostgreSQL and the deltas in them give the same minutes."""
    deltas = [counted_at(second, latencies=(5.0,) * 4) for second in range(1800)]
    lived, restored = VersionSeries("v1"), VersionSeries("v1")
    for each in deltas:
        lived.add(each, NOW + 1800)
    for key, parts in sorted(windows_of(deltas).items()):
        if key.resolution_seconds in (10, 60):
            restored.restore(
                Window(
                    resolution_seconds=key.resolution_seconds,
                    start=key.start,
                    model_name="m",
                    model_version="v1",
                    totals=total(parts),
                )
            )
    now = NOW + 1800
    for seconds in (60, 600, 3600):
        assert restored.counted(now, seconds) == lived.counted(now, seconds)
    assert restored.baseline_p99_ms(now) == lived.baseline_p99_ms(now)
    assert restored.last_asked_at == lived.last_asked_at == now
    for window in (10, 60, 300):
        assert [(number, found.p99_ms) for number, found in restored.newest(window, now, 5)] == [
            (number, found.p99_ms) for number, found in lived.newest(window, now, 5)
        ]


def test_a_clock_that_is_ahead_counts_now() -> None:
    """Otherwise its counts would be in future windows, which no rule reads yet."""
    series = VersionSeries("v1")
    series.add(counted_at(3600), NOW)
    assert series.counted(NOW, 10).asked == 1
    assert series.last_asked_at == NOW
    assert datetime.fromtimestamp(NOW, UTC) == NOON
