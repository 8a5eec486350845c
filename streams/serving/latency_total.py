"""PURE. Latencies added up over a process's life, in buckets of fixed bounds.

The buckets end at powers of √2 milliseconds, from 0.5 ms to 2 s, and beyond at powers of 2 up to 65 s. Those are bounds of a
delta's finer buckets too, so each of these goes into one bucket here as a whole and no value is in a wrong one. A
quantile that is read from them lies in the right bucket, so from 0.5 ms to 2 s it is at most 41% off.
"""

import math
from bisect import bisect_left

from schemas.histogram import SCALE, HistogramBuilder

_OCTAVE = 1 << SCALE
# A delta's bucket `i` ends at `i` + 1, in these units: 2^(1/32) of a millisecond.
_ENDS = (
    *range(-1 * _OCTAVE, 11 * _OCTAVE, _OCTAVE // 2),
    *range(11 * _OCTAVE, 17 * _OCTAVE, _OCTAVE),
)

BOUNDS_SECONDS: tuple[float, ...] = (*(2 ** (end / _OCTAVE) / 1000 for end in _ENDS), math.inf)
"""Where the buckets end."""


class LatencyTotal:
    """`buckets[i]` counts what is above the bound before and not above `BOUNDS_SECONDS[i]`."""

    __slots__ = ("buckets", "count", "sum_ms")

    def __init__(self) -> None:
        self.count = 0
        self.sum_ms = 0.0
        self.buckets = [0] * len(BOUNDS_SECONDS)

    def add(self, part: HistogramBuilder) -> None:
        """Add what was counted, in milliseconds."""
        self.count += part.count
        self.sum_ms += part.total
        self.buckets[0] += part.zero_count
        for index, times in part.buckets.items():
            self.buckets[bisect_left(_ENDS, index + 1)] += times

    def copy(self) -> "LatencyTotal":
        """One that may be added to by itself."""
        copied = LatencyTotal()
        copied.count, copied.sum_ms, copied.buckets = self.count, self.sum_ms, self.buckets.copy()
        return copied
