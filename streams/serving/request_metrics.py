"""PURE. What a worker counts, and the deltas it publishes.

A delta holds what was counted in one window for one version, in forms that add: readers merge
deltas of any workers and windows. `seq` rises by one with each delta of a worker's life, so that
a reader sees repeats and gaps. What the closed windows add up to is kept beside, for who reads totals.
"""

import copy
from collections import Counter
from collections.abc import Iterator
from datetime import datetime

from schemas.events import MetricsDelta
from schemas.histogram import HistogramBuilder
from streams.serving.latency_total import LatencyTotal


class WindowCounters:
    """The counts of one version in the current window."""

    __slots__ = (
        "backend_ms",
        "batch_size",
        "breaker_opened",
        "cache_hits",
        "cache_misses",
        "end_to_end_ms",
        "errors",
        "fallbacks",
        "latency_ms",
        "load_failures",
        "ok",
        "revision",
    )

    def __init__(self, revision: int) -> None:
        self.revision = revision
        self.ok = 0
        self.errors: dict[str, int] = {}
        self.cache_hits = 0
        self.cache_misses = 0
        self.latency_ms = HistogramBuilder()
        self.end_to_end_ms = HistogramBuilder()
        self.backend_ms = HistogramBuilder()
        self.batch_size = HistogramBuilder()
        self.load_failures = 0
        self.fallbacks: dict[str, int] = {}
        self.breaker_opened = 0

    def failed(self, code: str) -> None:
        """Count one record that got no predictions; MALFORMED_RECORD is one that got no answer at all."""
        self.errors[code] = self.errors.get(code, 0) + 1

    def fell_back(self, code: str) -> None:
        """Count one record of this version that production answered, by what had failed."""
        self.fallbacks[code] = self.fallbacks.get(code, 0) + 1

    @property
    def requests(self) -> int:
        return self.ok + sum(self.errors.values())


class LifetimeCounters:
    """What was counted of one version since the worker began; its size does not grow with time."""

    __slots__ = (
        "backend_ms",
        "breaker_opened",
        "cache_hits",
        "cache_misses",
        "called",
        "calls",
        "counted_at",
        "end_to_end_ms",
        "errors",
        "fallbacks",
        "latency_ms",
        "load_failures",
        "ok",
    )

    def __init__(self) -> None:
        self.counted_at: datetime | None = None
        """The end of the last window in which anything was."""
        self.ok = 0
        self.errors: Counter[str] = Counter()
        self.fallbacks: Counter[str] = Counter()
        self.cache_hits = 0
        self.cache_misses = 0
        self.load_failures = 0
        self.breaker_opened = 0
        self.calls = 0
        self.called = 0
        """The examples in all calls."""
        self.latency_ms = LatencyTotal()
        self.end_to_end_ms = LatencyTotal()
        self.backend_ms = LatencyTotal()

    def add(self, tally: WindowCounters) -> None:
        """Add a window, before its histograms are taken."""
        self.ok += tally.ok
        self.errors.update(tally.errors)
        self.fallbacks.update(tally.fallbacks)
        self.cache_hits += tally.cache_hits
        self.cache_misses += tally.cache_misses
        self.load_failures += tally.load_failures
        self.breaker_opened += tally.breaker_opened
        self.calls += tally.batch_size.count
        self.called += int(tally.batch_size.total)
        self.latency_ms.add(tally.latency_ms)
        self.end_to_end_ms.add(tally.end_to_end_ms)
        self.backend_ms.add(tally.backend_ms)

    def with_window(self, tally: WindowCounters | None) -> "LifetimeCounters":
        """The same with a window that is still open."""
        if tally is None:
            return self
        both = copy.copy(self)
        both.errors, both.fallbacks = self.errors.copy(), self.fallbacks.copy()
        both.latency_ms = self.latency_ms.copy()
        both.end_to_end_ms = self.end_to_end_ms.copy()
        both.backend_ms = self.backend_ms.copy()
        both.add(tally)
        return both


class MetricsRegistry:
    """The tallies of all versions that this worker answers for."""

    def __init__(self, worker: str, boot_id: str, opened_at: datetime) -> None:
        self._worker = worker
        self._boot_id = boot_id
        self._window_start = opened_at
        self._next_seq = 0
        self._tallies: dict[tuple[str, str], WindowCounters] = {}
        self._revisions: dict[tuple[str, str], int] = {}
        self._totals: dict[tuple[str, str], LifetimeCounters] = {}

    def counters_for(self, model_name: str, model_version: str, revision: int) -> WindowCounters:
        """The tally of a version; `model_version` "" is for requests that reached none."""
        key = (model_name, model_version)
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = WindowCounters(self._revisions.get(key, 0))
        if revision > tally.revision:
            tally.revision = self._revisions[key] = revision
        return tally

    def meter(self, model_name: str, model_version: str) -> "VersionMeter":
        """Counts what happens between a version and its backend."""
        return VersionMeter(self, model_name, model_version)

    def load_failed(self, model_name: str, model_version: str, revision: int) -> None:
        """Count a version that could not be loaded on this worker."""
        self.counters_for(model_name, model_version, revision).load_failures += 1

    @property
    def counted(self) -> list[tuple[str, str]]:
        """The models and versions of which there are totals."""
        return list(self._totals | self._tallies)

    def lifetime_counters(self, model_name: str, model_version: str) -> LifetimeCounters:
        """All that was counted of a version until now."""
        key = (model_name, model_version)
        return (self._totals.get(key) or LifetimeCounters()).with_window(self._tallies.get(key))

    def forget(self, model_name: str, model_version: str) -> None:
        """Keep the total of a version no longer, of which nothing more is to be counted."""
        self._totals.pop((model_name, model_version), None)

    def close_window(self, now: datetime) -> Iterator[MetricsDelta]:
        """The deltas of the window that ends now; the next window starts empty."""
        tallies, self._tallies = self._tallies, {}
        start, self._window_start = self._window_start, now
        for key, tally in tallies.items():
            total = self._totals.setdefault(key, LifetimeCounters())
            total.add(tally)
            total.counted_at = now
        for (model_name, model_version), tally in tallies.items():
            yield MetricsDelta.model_construct(
                worker=self._worker,
                boot_id=self._boot_id,
                seq=self._next_seq,
                window_start=start,
                window_end=now,
                model_name=model_name,
                model_version=model_version,
                revision=tally.revision,
                requests=tally.requests,
                ok=tally.ok,
                errors=tally.errors,
                cache_hits=tally.cache_hits,
                cache_misses=tally.cache_misses,
                latency_ms=tally.latency_ms.taken(),
                end_to_end_ms=tally.end_to_end_ms.taken(),
                backend_ms=tally.backend_ms.taken(),
                batch_size=tally.batch_size.taken(),
                load_failures=tally.load_failures,
                fallbacks=tally.fallbacks,
                breaker_opened=tally.breaker_opened,
            )
            self._next_seq += 1


class VersionMeter:
    """One version's backend, in the book; its revision is that of the requests counted last."""

    def __init__(self, book: MetricsRegistry, model_name: str, model_version: str) -> None:
        self._book = book
        self._model_name = model_name
        self._model_version = model_version

    def called(self, batch_size: int, seconds: float) -> None:
        """A batch came back, with predictions or without."""
        tally = self._tally
        tally.batch_size.add(batch_size)
        tally.backend_ms.add(seconds * 1000)

    def breaker_opened(self) -> None:
        """From now on nobody calls, for a while."""
        self._tally.breaker_opened += 1

    @property
    def _tally(self) -> WindowCounters:
        return self._book.counters_for(self._model_name, self._model_version, 0)
