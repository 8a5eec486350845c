"""streams/serving/latency_total.py: every value counts in the bucket with its bounds."""

import random
from bisect import bisect_left
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.histogram import HistogramBuilder
from streams.serving.latency_total import BOUNDS_SECONDS, LatencyTotal

# As a worker measures them: whole microseconds, negative where clocks disagree.
LATENCIES_MS = st.integers(min_value=-1000, max_value=200_000_000).map(
    lambda microseconds: microseconds / 1000
)


def total_of(*parts: list[float]) -> LatencyTotal:
    """Each part is a window."""
    total = LatencyTotal()
    for part in parts:
        builder = HistogramBuilder()
        for value in part:
            builder.add(value)
        total.add(builder)
    return total


@given(st.lists(st.lists(LATENCIES_MS)))
def test_buckets_count_what_is_within_their_bounds(windows: list[list[float]]) -> None:
    """Exactly: the finer buckets end where these do."""
    total = total_of(*windows)
    values = [max(0.0, value) for window in windows for value in window]
    # As the metrics page shows them.
    bounds_ms = [float(format(bound, ".8g")) * 1000 for bound in BOUNDS_SECONDS]
    for count, bound in zip(accumulate(total.buckets), bounds_ms, strict=True):
        assert count == sum(value <= bound + 1e-9 for value in values)
    assert total.count == len(values)
    assert total.sum_ms == pytest.approx(sum(values))


@pytest.mark.parametrize("octave", range(-1, 17))
def test_a_power_of_two_is_in_the_bucket_that_ends_with_it(octave: int) -> None:
    total = total_of([2.0**octave])
    (index,) = [index for index, count in enumerate(total.buckets) if count]
    assert BOUNDS_SECONDS[index] == 2.0**octave / 1000


def test_a_quantile_is_read_as_exactly_as_it_says() -> None:
    """As Prometheus's histogram_quantile reads it: within the right bucket, between its bounds."""
    random_ms = random.Random(5)
    values = sorted(random_ms.lognormvariate(2.5, 0.7) for _ in range(20_000))
    total = total_of(values)
    for share in (0.5, 0.9, 0.99, 0.999):
        exact = values[int(share * len(values)) - 1]
        assert read_quantile_ms(total, share) == pytest.approx(exact, rel=0.41)


def read_quantile_ms(total: LatencyTotal, share: float) -> float:
    """Prometheus's histogram_quantile."""
    cumulative = list(accumulate(total.buckets))
    rank = share * total.count
    index = bisect_left(cumulative, rank)
    start = BOUNDS_SECONDS[index - 1] if index else 0.0
    before = cumulative[index - 1] if index else 0
    part = (rank - before) / total.buckets[index]
    return 1000.0 * start + 1000.0 * (BOUNDS_SECONDS[index] - start) * part


def test_a_copy_is_added_to_by_itself() -> None:
    total = total_of([1.0])
    builder = HistogramBuilder()
    builder.add(1.0)
    total.copy().add(builder)
    assert (total.count, sum(total.buckets), total.sum_ms) == (1, 1, 1.0)
