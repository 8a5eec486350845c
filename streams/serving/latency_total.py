"""PURE. Latencies summed over the life of a process, in buckets with fixed bounds.

The bounds are powers of √2 ms from 0.5 ms to 2 s, then powers of 2 up to 65 s. Each is also a bound of a delta's
finer buckets (`schemas/histogram.py`), so every finer bucket falls into one bucket here as a whole. A quantile
read from them lies in the right bucket: between 0.5 ms and 2 s it is at most 41% off.
"""

import math
from bisect import bisect_left

from schemas.histogram import SCALE, HistogramBuilder

_OCTAVE = 1 << SCALE
# The upper bounds as indices of a delta's buckets plus 1: index i is the bucket up to 2^((i + 1)/32) ms.
_ENDS = (
    *range(-1 * _OCTAVE, 11 * _OCTAVE, _OCTAVE // 2),
    *range(11 * _OCTAVE, 17 * _OCTAVE, _OCTAVE),
)

BOUNDS_SECONDS: tuple[float, ...] = (*(2 ** (end / _OCTAVE) / 1000 for end in _ENDS), math.inf)
"""The upper bounds of the buckets, in seconds; the last is infinite."""


class LatencyTotal:
    """`buckets[i]` counts values above `BOUNDS_SECONDS[i - 1]`, up to and with `BOUNDS_SECONDS[i]`."""

    __slots__ = ("buckets", "count", "sum_ms")

    def __init__(self) -> None:
        self.count = 0
        self.sum_ms = 0.0
        self.buckets = [0] * len(BOUNDS_SECONDS)

    def add(self, part: HistogramBuilder) -> None:
        """Add the values of a histogram in milliseconds."""
        self.count += part.count
        self.sum_ms += part.total
        self.buckets[0] += part.zero_count
        for index, times in part.buckets.items():
            self.buckets[bisect_left(_ENDS, index + 1)] += times

    def copy(self) -> "LatencyTotal":
        """An independent copy."""
        copied = LatencyTotal()
        copied.count, copied.sum_ms, copied.buckets = self.count, self.sum_ms, self.buckets.copy()
        return copied
