"""schemas/histogram.py: exact counts, bounded error, exact merging."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import Histogram
from schemas.histogram import HistogramBuilder, bucket_index, merge, quantile

VALUES = st.lists(st.floats(min_value=1e-6, max_value=1e9), min_size=1, max_size=300)


def of(values: list[float]) -> Histogram:
    builder = HistogramBuilder()
    for value in values:
        builder.add(value)
    return builder.drain()


@given(VALUES, st.floats(min_value=0, max_value=1))
def test_quantile_is_within_its_error(values: list[float], q: float) -> None:
    """A quantile is at most 1.1% from the exact one of the same rank."""
    exact = sorted(values)[max(1, math.ceil(q * len(values))) - 1]
    assert quantile(of(values), q) == pytest.approx(exact, rel=0.011)


@given(VALUES, VALUES)
def test_merging_is_counting_together(left: list[float], right: list[float]) -> None:
    """Merged histograms equal the histogram of all values; the sum up to rounding."""
    merged, together = merge([of(left), of(right)]), of(left + right)
    assert merged.model_copy(update={"sum": 0.0}) == together.model_copy(update={"sum": 0.0})
    assert merged.sum == pytest.approx(together.sum)


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_bucket_bounds_hold(value: float) -> None:
    """A value lies in its bucket: above the lower bound, at or below the upper one."""
    index = bucket_index(value)
    assert 2 ** (index / 32) < value * (1 + 1e-12)
    assert value <= 2 ** ((index + 1) / 32) * (1 + 1e-12)


def test_zeros_and_disagreeing_clocks_count() -> None:
    """Zero and negative values count as zero and move no quantile below zero."""
    histogram = of([0.0, -5.0, 8.0])
    assert (histogram.count, histogram.zero_count, histogram.min) == (3, 2, 0.0)
    assert quantile(histogram, 0.5) == 0.0
    assert quantile(histogram, 1.0) == 8.0


def test_taking_starts_anew() -> None:
    """Drained values are not counted again."""
    builder = HistogramBuilder()
    builder.add(3.0, times=4)
    assert builder.drain().count == 4
    assert builder.drain() == merge([])


def test_scales_do_not_mix() -> None:
    """Histograms of different scales refuse to merge."""
    other = of([1.0]).model_copy(update={"scale": 3})
    with pytest.raises(ValueError, match="do not merge"):
        merge([of([1.0]), other])
