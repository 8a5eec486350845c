"""PURE. The last 10 seconds of each model version, from the metrics deltas of all workers.

A delta counts once, even when it arrives again: it is identified by (worker, boot_id, seq). Times are seconds of
the reader's own monotonic clock, so workers' clocks need not agree.
"""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from schemas.events import MetricsDelta
from schemas.histogram import measured_quantile, merge

WINDOW_SECONDS = 10.0
_REMEMBERED_SEQS = 1000


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One model version over the window; None where nothing was measured."""

    model_name: str
    model_version: str
    revision: int
    workers: int
    requests_per_second: float
    p50_ms: float | None
    p99_ms: float | None
    end_to_end_p99_ms: float | None
    cache_hit_share: float | None
    error_share: float | None
    errors: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class LiveFigures:
    """All versions over the window, and what is missing from them.

    `missing_deltas` counts the gaps in `seq`, since the view was opened; a late delta is subtracted again.
    """

    versions: Sequence[VersionRow]
    missing_deltas: int
    unreadable_records: int


@dataclass(slots=True)
class _Boot:
    """The deltas of one worker's boot that arrived, in any order."""

    lowest: int
    highest: int
    distinct: int = 0
    recent: set[int] = field(default_factory=set)

    def is_new(self, seq: int) -> bool:
        if seq in self.recent:
            return False
        self.recent.add(seq)
        self.distinct += 1
        self.lowest, self.highest = min(self.lowest, seq), max(self.highest, seq)
        if len(self.recent) > 2 * _REMEMBERED_SEQS:
            self.recent = {kept for kept in self.recent if kept > self.highest - _REMEMBERED_SEQS}
        return True

    @property
    def missing(self) -> int:
        return self.highest - self.lowest + 1 - self.distinct


class LiveView:
    """Collects deltas, and computes the figures of the last seconds."""

    def __init__(self, opened_at: float) -> None:
        self._opened_at = opened_at
        self._arrived: deque[tuple[float, MetricsDelta]] = deque()
        self._boots: dict[tuple[str, str], _Boot] = {}
        self._unreadable = 0

    def add(self, delta: MetricsDelta, now: float) -> None:
        """Add a delta that arrived at `now`; a repeat changes nothing. `read_delta` has checked its scale."""
        boot = self._boots.setdefault((delta.worker, delta.boot_id), _Boot(delta.seq, delta.seq))
        if boot.is_new(delta.seq):
            self._arrived.append((now, delta))

    def add_unreadable(self) -> None:
        """Count a record that is not a metrics delta."""
        self._unreadable += 1

    def figures(self, now: float) -> LiveFigures:
        """The figures of each version that had requests within the window, by name."""
        while self._arrived and self._arrived[0][0] <= now - WINDOW_SECONDS:
            self._arrived.popleft()
        # A span of arrivals was counted in a span of the same length, also in the first seconds.
        seconds = min(max(now - self._opened_at, 1.0), WINDOW_SECONDS)
        by_version: dict[tuple[str, str], list[MetricsDelta]] = defaultdict(list)
        for _, delta in self._arrived:
            by_version[delta.model_name, delta.model_version].append(delta)
        return LiveFigures(
            versions=[_row(*version, by_version[version], seconds) for version in sorted(by_version)],
            missing_deltas=sum(boot.missing for boot in self._boots.values()),
            unreadable_records=self._unreadable,
        )


def _row(model_name: str, model_version: str, deltas: list[MetricsDelta], seconds: float) -> VersionRow:
    requests = sum(delta.requests for delta in deltas)
    hits = sum(delta.cache_hits for delta in deltas)
    lookups = hits + sum(delta.cache_misses for delta in deltas)
    latency = merge(delta.latency_ms for delta in deltas)
    errors: dict[str, int] = defaultdict(int)
    for delta in deltas:
        for code, times in delta.errors.items():
            errors[code] += times
    return VersionRow(
        model_name=model_name,
        model_version=model_version,
        revision=max(delta.revision for delta in deltas),
        workers=len({(delta.worker, delta.boot_id) for delta in deltas}),
        requests_per_second=requests / seconds,
        p50_ms=measured_quantile(latency, 0.5),
        p99_ms=measured_quantile(latency, 0.99),
        end_to_end_p99_ms=measured_quantile(merge(delta.end_to_end_ms for delta in deltas), 0.99),
        cache_hit_share=hits / lookups if lookups else None,
        error_share=sum(errors.values()) / requests if requests else None,
        errors=dict(sorted(errors.items())),
    )
