"""PURE. What a worker counts for each version, and the metrics deltas that it publishes.

A delta holds the counts of one window for one version. Deltas can be added: readers merge the deltas of any
workers and windows. `seq` rises by one with each delta of a worker's boot, so a reader can tell duplicates and
gaps. The lifetime counters keep the sums of the closed windows, for readers of totals (Prometheus).
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Generic, TypeVar

from schemas.events import MetricsDelta
from schemas.histogram import HistogramBuilder
from streams.serving.latency_total import LatencyTotal

Latencies = TypeVar("Latencies", HistogramBuilder, LatencyTotal)


class VersionCounters(Generic[Latencies]):
    """The counts of one version over some time.

    `errors` counts records without predictions by error code, `fallbacks` the requests of this version that
    production answered, by the code of this version's error. `input_faults` are those of both that failed for their
    input. `backend_ms` is the duration of backend calls.
    """

    __slots__ = (
        "backend_ms",
        "breaker_opened",
        "cache_hits",
        "cache_misses",
        "end_to_end_ms",
        "errors",
        "fallbacks",
        "input_faults",
        "latency_ms",
        "load_failures",
        "ok",
    )

    def __init__(self, latencies: Callable[[], Latencies]) -> None:
        self.ok = 0
        self.errors: Counter[str] = Counter()
        self.fallbacks: Counter[str] = Counter()
        self.cache_hits = 0
        self.cache_misses = 0
        self.load_failures = 0
        self.breaker_opened = 0
        self.input_faults = 0
        self.latency_ms: Latencies = latencies()
        self.end_to_end_ms: Latencies = latencies()
        self.backend_ms: Latencies = latencies()


class WindowCounters(VersionCounters[HistogramBuilder]):
    """The counts of the current window; `batch_size` has one value for each backend call."""

    __slots__ = ("batch_size",)

    def __init__(self) -> None:
        super().__init__(HistogramBuilder)
        self.batch_size = HistogramBuilder()

    def failed(self, code: str, *, of_input: bool = False) -> None:
        """Count one record without predictions; MALFORMED_RECORD is one without a response."""
        self.errors[code] += 1
        self.input_faults += of_input

    def fell_back(self, code: str, *, of_input: bool = False) -> None:
        """Count one request of this version that production answered, by the code of this version's error."""
        self.fallbacks[code] += 1
        self.input_faults += of_input

    @property
    def requests(self) -> int:
        """The records with a response or a dead letter of this version."""
        return self.ok + self.errors.total()


class LifetimeCounters(VersionCounters[LatencyTotal]):
    """The counts since the process began; their size does not grow with time.

    `calls` counts backend calls and `examples` the inputs in them. `counted_at` is the end of the last window
    with a count, None before the first.
    """

    __slots__ = ("calls", "counted_at", "examples")

    def __init__(self) -> None:
        super().__init__(LatencyTotal)
        self.counted_at: datetime | None = None
        self.calls = 0
        self.examples = 0

    def add(self, window: WindowCounters) -> None:
        """Add the counts of a window; its histograms must not be taken before."""
        self.ok += window.ok
        self.errors.update(window.errors)
        self.fallbacks.update(window.fallbacks)
        self.cache_hits += window.cache_hits
        self.cache_misses += window.cache_misses
        self.load_failures += window.load_failures
        self.breaker_opened += window.breaker_opened
        self.input_faults += window.input_faults
        self.calls += window.batch_size.count
        self.examples += int(window.batch_size.total)
        self.latency_ms.add(window.latency_ms)
        self.end_to_end_ms.add(window.end_to_end_ms)
        self.backend_ms.add(window.backend_ms)

    def with_window(self, window: WindowCounters | None) -> "LifetimeCounters":
        """The sum of these counts and those of the open window."""
        if window is None:
            return self
        total = copy.copy(self)
        total.errors, total.fallbacks = self.errors.copy(), self.fallbacks.copy()
        total.latency_ms = self.latency_ms.copy()
        total.end_to_end_ms = self.end_to_end_ms.copy()
        total.backend_ms = self.backend_ms.copy()
        total.add(window)
        return total


class MetricsRegistry:
    """The counters of all versions for which this worker responds.

    `revision_of` has the revision of the route by which a model is served now, 0 for a model that is not served. It
    may fall: a registry that was restored from a backup has older revisions.
    """

    def __init__(
        self, worker: str, boot_id: str, opened_at: datetime, revision_of: Callable[[str], int] = lambda _: 0
    ) -> None:
        self._worker = worker
        self._boot_id = boot_id
        self._revision_of = revision_of
        self._window_start = opened_at
        self._next_seq = 0
        self._windows: dict[tuple[str, str], WindowCounters] = {}
        self._lifetimes: dict[tuple[str, str], LifetimeCounters] = {}
        self.calls_ended = 0
        """The number of backend calls of all versions that have ended, with predictions or errors."""

    def counters_for(self, model_name: str, model_version: str) -> WindowCounters:
        """The counters of the current window.

        `model_version` is "" for requests without a version; `model_name` is "" too when the model is unknown.
        """
        key = (model_name, model_version)
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = WindowCounters()
        return window

    def meter(self, model_name: str, model_version: str) -> "VersionMeter":
        """What counts the backend calls of a version."""
        return VersionMeter(self, model_name, model_version)

    def load_failed(self, model_name: str, model_version: str) -> None:
        """Count a version that this worker could not load."""
        self.counters_for(model_name, model_version).load_failures += 1

    @property
    def counted(self) -> list[tuple[str, str]]:
        """The models and versions with lifetime counters."""
        return list(self._lifetimes | self._windows)

    def lifetime_counters(self, model_name: str, model_version: str) -> LifetimeCounters:
        """The counts of a version until now, with the open window."""
        key = (model_name, model_version)
        return (self._lifetimes.get(key) or LifetimeCounters()).with_window(self._windows.get(key))

    def forget(self, model_name: str, model_version: str) -> None:
        """Drop the lifetime counters of a version that takes no more requests."""
        self._lifetimes.pop((model_name, model_version), None)

    def close_window(self, now: datetime) -> Iterator[MetricsDelta]:
        """The deltas of the window that ends now; the next window starts empty."""
        windows, self._windows = self._windows, {}
        start, self._window_start = self._window_start, now
        for key, window in windows.items():
            lifetime = self._lifetimes.setdefault(key, LifetimeCounters())
            lifetime.add(window)
            lifetime.counted_at = now
        for (model_name, model_version), window in windows.items():
            yield MetricsDelta.model_construct(
                worker=self._worker,
                boot_id=self._boot_id,
                seq=self._next_seq,
                window_start=start,
                window_end=now,
                model_name=model_name,
                model_version=model_version,
                revision=self._revision_of(model_name),
                requests=window.requests,
                ok=window.ok,
                errors=window.errors,
                cache_hits=window.cache_hits,
                cache_misses=window.cache_misses,
                latency_ms=window.latency_ms.drain(),
                end_to_end_ms=window.end_to_end_ms.drain(),
                backend_ms=window.backend_ms.drain(),
                batch_size=window.batch_size.drain(),
                load_failures=window.load_failures,
                fallbacks=window.fallbacks,
                breaker_opened=window.breaker_opened,
                input_faults=window.input_faults,
            )
            self._next_seq += 1


class VersionMeter:
    """Counts the backend calls of one version."""

    def __init__(self, metrics: MetricsRegistry, model_name: str, model_version: str) -> None:
        self._metrics = metrics
        self._model_name = model_name
        self._model_version = model_version

    def called(self, batch_size: int, seconds: float) -> None:
        """Count a call that has ended, with predictions or errors."""
        self._metrics.calls_ended += 1
        counters = self._counters
        counters.batch_size.add(batch_size)
        counters.backend_ms.add(seconds * 1000)

    def breaker_opened(self) -> None:
        """Count an opening of the circuit breaker."""
        self._counters.breaker_opened += 1

    @property
    def _counters(self) -> WindowCounters:
        return self._metrics.counters_for(self._model_name, self._model_version)
