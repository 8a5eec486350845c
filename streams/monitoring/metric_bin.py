"""PURE. The counts of one version in one window of time, in memory."""

from collections import Counter
from collections.abc import Sequence

from schemas.events import ErrorCode, MetricsDelta
from schemas.histogram import value_at
from schemas.windows import Totals

# What is counted for each worker.
FAILED, REFUSED, INPUT_FAULTS = "failed", "refused", "input_faults"
LOAD_FAILURES, BREAKER_OPENED = "load_failures", "breaker_opened"

Latencies = Sequence[tuple[int, int]]
"""Pairs of a histogram bucket's index and its count."""


class Bin:
    """The counts of one window; `latencies` has counts by bucket, or is None when only `p99_ms` is kept.

    `refused` are the requests that failed with one of `caller_codes`.
    """

    __slots__ = (
        "_caller_codes",
        "_p99_ms",
        "_p99_of",
        "asked",
        "breaker_opened",
        "cache_hits",
        "codes",
        "failed",
        "input_faults",
        "invalid_inputs",
        "latencies",
        "load_failures",
        "lookups",
        "measured",
        "refused",
        "workers",
    )

    def __init__(self, caller_codes: frozenset[ErrorCode]) -> None:
        self._caller_codes = caller_codes
        self.asked = 0
        self.failed = 0
        self.refused = 0
        self.invalid_inputs = 0
        self.cache_hits = 0
        self.lookups = 0
        self.load_failures = 0
        self.breaker_opened = 0
        self.input_faults = 0
        self.measured = 0
        self.codes: Counter[str] | None = None
        """The failed requests by code; None while there are none."""
        self.workers: Counter[tuple[str, str]] | None = None
        """What each worker counted, by (`WorkerCount`, worker); None while there is nothing."""
        self.latencies: dict[int, int] | None = {}
        self._p99_ms = 0.0
        self._p99_of = 0

    def add(self, part: MetricsDelta | Totals, asked: int, failed: int, latencies: Latencies) -> None:
        """Add a delta or a stored window. The caller computes the last three from `part`, once for all windows."""
        self.asked += asked
        self.failed += failed
        self.cache_hits += part.cache_hits
        self.lookups += part.cache_hits + part.cache_misses
        self.load_failures += part.load_failures
        self.breaker_opened += part.breaker_opened
        self.input_faults += part.input_faults
        if failed or part.load_failures or part.breaker_opened:
            self._add_causes(part, failed)
        mine = self.latencies
        if mine is None:
            return
        self.measured += part.latency_ms.count
        for index, times in latencies:
            mine[index] = mine.get(index, 0) + times

    def _add_causes(self, part: MetricsDelta | Totals, failed: int) -> None:
        codes = self.codes = Counter() if self.codes is None else self.codes
        for by_code in (part.errors, part.fallbacks):
            codes.update(by_code)
        self.invalid_inputs += part.errors.get(ErrorCode.INVALID_INPUT, 0)
        refused = sum(part.errors.get(code, 0) for code in self._caller_codes)
        self.refused += refused
        # Stored windows have no worker.
        if isinstance(part, MetricsDelta):
            workers = self.workers = Counter() if self.workers is None else self.workers
            counts = {
                FAILED: failed - refused - part.input_faults,
                REFUSED: refused,
                INPUT_FAULTS: part.input_faults,
                LOAD_FAILURES: part.load_failures,
                BREAKER_OPENED: part.breaker_opened,
            }
            workers.update({(kind, part.worker): count for kind, count in counts.items() if count > 0})

    def without_latencies(self) -> None:
        """Drop the latencies, keep their p99."""
        if self.latencies is not None:
            _ = self.p99_ms
            self.latencies = None

    @property
    def p99_ms(self) -> float:
        """In milliseconds, at most 1.1% off; 0.0 when nothing was measured."""
        if self.latencies is not None and self._p99_of != self.measured:
            self._p99_ms = _p99(self.latencies, self.measured)
            self._p99_of = self.measured
        return self._p99_ms

    @property
    def hit_share(self) -> float:
        return self.cache_hits / self.lookups if self.lookups else 0.0


def _p99(latencies: dict[int, int], measured: int) -> float:
    return value_at(latencies, measured - -(-measured * 99 // 100))
