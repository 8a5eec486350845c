"""PURE. Base-2 exponential histograms: cheap to fill, exact to merge, with bounded error in quantiles.

Bucket `i` at scale `s` counts values in (2^(i/2^s), 2^((i+1)/2^s)], the layout of OpenTelemetry's
exponential histogram (opentelemetry.io, Metrics Data Model, "ExponentialHistogram"). At `SCALE`
5 an octave has 32 buckets, so a quantile read at a bucket's geometric middle is at most 1.1% off.
"""

import math
import sys
from collections.abc import Iterable, Mapping

from schemas.bounds import MAX_INT64
from schemas.events import Histogram

SCALE = 5
_BUCKETS_PER_OCTAVE = 1 << SCALE


class HistogramBuilder:
    """Counts non-negative values; `drain` returns the wire form and resets the counts."""

    __slots__ = ("buckets", "count", "maximum", "minimum", "total", "zero_count")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.minimum = math.inf
        self.maximum = 0.0
        self.zero_count = 0
        self.buckets: dict[int, int] = {}

    def add(self, value: float, times: int = 1) -> None:
        """Count `value` `times` times; a negative value, as from clocks that disagree, counts as zero."""
        if value <= 0.0:
            value = 0.0
            self.zero_count += times
        else:
            index = bucket_index(value)
            self.buckets[index] = self.buckets.get(index, 0) + times
        self.count += times
        self.total += value * times
        self.minimum = min(self.minimum, value)
        self.maximum = max(self.maximum, value)

    def drain(self) -> Histogram:
        """Return what was counted since the last call, and reset."""
        histogram = Histogram.model_construct(
            scale=SCALE,
            count=self.count,
            sum=self.total,
            min=self.minimum if self.count else 0.0,
            max=self.maximum,
            zero_count=self.zero_count,
            buckets={str(index): times for index, times in sorted(self.buckets.items())},
        )
        self.__init__()  # type: ignore[misc]  # the cheapest reset that keeps the object
        return histogram


def bucket_index(value: float) -> int:
    """The bucket of a positive value at `SCALE`."""
    return math.ceil(math.log2(value) * _BUCKETS_PER_OCTAVE) - 1


def merge(histograms: Iterable[Histogram]) -> Histogram:
    """Add histograms up; sums stay within what a histogram may hold. Raises ValueError when their scales differ."""
    parts = [part for part in histograms if part.count]
    if not parts:
        return HistogramBuilder().drain()
    scale = parts[0].scale
    buckets: dict[str, int] = {}
    for part in parts:
        if part.scale != scale:
            raise ValueError(f"histograms of scale {scale} and {part.scale} do not merge")
        for index, times in part.buckets.items():
            buckets[index] = min(buckets.get(index, 0) + times, MAX_INT64)
    return Histogram.model_construct(
        scale=scale,
        count=min(sum(part.count for part in parts), MAX_INT64),
        sum=min(sum(part.sum for part in parts), sys.float_info.max),
        min=min(part.min for part in parts),
        max=max(part.max for part in parts),
        zero_count=min(sum(part.zero_count for part in parts), MAX_INT64),
        buckets=buckets,
    )


def quantile(histogram: Histogram, q: float) -> float:
    """The value below or at which a share `q` (0 to 1) of the values lies; 0.0 when there are none.

    At most half a bucket off (1.1% at scale 5), and never outside `min` and `max`.
    """
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"a quantile is between 0 and 1, not {q}")
    if histogram.count == 0:
        return 0.0
    rank = max(1, math.ceil(q * histogram.count))
    if rank >= histogram.count:
        return histogram.max
    buckets = {int(index): times for index, times in histogram.buckets.items()}
    value = value_at(buckets, histogram.count - rank, scale=histogram.scale)
    return min(max(value, histogram.min), histogram.max)


def measured_quantile(histogram: Histogram, q: float) -> float | None:
    """As `quantile`, but None when there are no values."""
    return quantile(histogram, q) if histogram.count else None


def value_at(buckets: Mapping[int, int], above: int, *, scale: int = SCALE) -> float:
    """The geometric middle of the bucket of the value that has `above` values over it.

    `buckets` has the count of each bucket by its index. Returns 0.0 when there are not so many values in
    buckets: the others are zeros.
    """
    # From the highest bucket down: a p99 is near the top.
    for index in sorted(buckets, reverse=True):
        above -= buckets[index]
        if above < 0:
            middle: float = 2.0 ** ((index + 0.5) / 2.0**scale)
            return middle
    return 0.0
