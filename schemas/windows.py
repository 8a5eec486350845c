"""PURE. Metrics of a version over windows of time, merged from the deltas of all workers.

All values of a window add up, so windows of any length are exact sums of the workers' counts. A delta belongs
to the windows in which it began. It covers one second, so the edges of a window are exact to a second.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pydantic import Field

from schemas.bounds import MAX_INT64, Count, UtcTime, is_near
from schemas.events import CountedCode, Histogram, MetricsDelta, WireModel
from schemas.histogram import SCALE, HistogramBuilder, merge, quantile

RESOLUTIONS_SECONDS = (10, 60, 3600)

# Four histograms with all their buckets, each of 2^63 - 1 values.
MAX_DELTA_BYTES = 256 * 1024
_EMPTY = HistogramBuilder().drain()
_COUNTS = ("requests", "ok", "cache_hits", "cache_misses", "load_failures", "breaker_opened", "input_faults")
_BY_CODE = ("errors", "fallbacks")
_HISTOGRAMS = ("latency_ms", "end_to_end_ms", "backend_ms", "batch_size")


class Totals(WireModel):
    """The counts of one version, as in a MetricsDelta, over any number of workers."""

    requests: Count = 0
    ok: Count = 0
    errors: dict[CountedCode, Count] = Field(default={})
    fallbacks: dict[CountedCode, Count] = Field(default={})
    cache_hits: Count = 0
    cache_misses: Count = 0
    load_failures: Count = 0
    breaker_opened: Count = 0
    input_faults: Count = 0
    latency_ms: Histogram = _EMPTY
    end_to_end_ms: Histogram = _EMPTY
    backend_ms: Histogram = _EMPTY
    batch_size: Histogram = _EMPTY

    @property
    def failed(self) -> int:
        """Errors, and requests that the production version answered instead."""
        return sum(self.errors.values()) + sum(self.fallbacks.values())

    @property
    def asked(self) -> int:
        """Requests that were routed to this version, including those that production answered."""
        return self.requests + sum(self.fallbacks.values())

    @property
    def error_share(self) -> float:
        return self.failed / self.asked if self.asked else 0.0

    @property
    def cache_hit_share(self) -> float | None:
        """None when there was no cache lookup."""
        lookups = self.cache_hits + self.cache_misses
        return self.cache_hits / lookups if lookups else None

    def latency_quantile_ms(self, q: float) -> float:
        return quantile(self.latency_ms, q)


class WindowKey(NamedTuple):
    """A window of a version; `model_version` is "" for requests that were not routed to a version."""

    resolution_seconds: int
    start: datetime
    model_name: str
    model_version: str


class Window(WireModel):
    """A window with its counts."""

    resolution_seconds: int
    start: UtcTime
    model_name: str
    model_version: str
    totals: Totals


@dataclass(frozen=True, slots=True)
class SequenceWatermark:
    """How far the deltas of one worker boot were read in one partition, where they are in order.

    `seen` deltas were read from `first_seq` to `last_seq`. The others of that range are in other partitions, or
    missing.
    """

    first_seq: int
    last_seq: int
    seen: int


WorkerBoot = tuple[str, str]
"""A worker's name and its boot_id."""


def total(parts: Iterable[Totals | MetricsDelta]) -> Totals:
    """The sum of all parts; raises ValueError when their histograms have different scales.

    A sum beyond 64 bits, which no honest worker reaches, stays at the largest number: it must be readable again.
    """
    parts = list(parts)
    summed: dict[str, Any] = {
        name: min(sum(getattr(part, name) for part in parts), MAX_INT64) for name in _COUNTS
    }
    summed |= {name: _sum_by_code(getattr(part, name) for part in parts) for name in _BY_CODE}
    summed |= {name: merge(getattr(part, name) for part in parts) for name in _HISTOGRAMS}
    return Totals.model_construct(**summed)


def read_delta(value: bytes | None, timestamp_ms: int) -> MetricsDelta:
    """Parse a record with this Kafka timestamp.

    Raises ValueError when it is not a delta, its histograms have another scale, or it is of another day.
    """
    if value is not None and len(value) > MAX_DELTA_BYTES:
        raise ValueError(f"it has {len(value)} bytes; at most {MAX_DELTA_BYTES} are read")
    delta = MetricsDelta.model_validate_json(value or b"")
    if not (is_near(delta.window_start, timestamp_ms) and is_near(delta.window_end, timestamp_ms)):
        raise ValueError("its window is more than a day from the record's timestamp")
    for name in _HISTOGRAMS:
        histogram: Histogram = getattr(delta, name)
        if histogram.count and histogram.scale != SCALE:
            raise ValueError(f"{name} is counted at scale {histogram.scale}, not {SCALE}")
    return delta


def drop_duplicates(
    deltas: Iterable[MetricsDelta], watermarks: Mapping[WorkerBoot, SequenceWatermark]
) -> tuple[list[MetricsDelta], dict[WorkerBoot, SequenceWatermark]]:
    """The deltas of one partition that were not read before, and the watermarks that they advance.

    Within a partition the deltas of a worker boot are in order, so a delta at or below its watermark is a repeat.
    """
    advanced: dict[WorkerBoot, SequenceWatermark] = {}
    new: list[MetricsDelta] = []
    for delta in deltas:
        boot = (delta.worker, delta.boot_id)
        watermark = advanced.get(boot) or watermarks.get(boot)
        if watermark is None:
            advanced[boot] = SequenceWatermark(delta.seq, delta.seq, 1)
        elif delta.seq > watermark.last_seq:
            advanced[boot] = SequenceWatermark(watermark.first_seq, delta.seq, watermark.seen + 1)
        else:
            continue
        new.append(delta)
    return new, advanced


def count_missing(watermarks: Iterable[SequenceWatermark]) -> int:
    """The number of deltas of one worker boot that were read in no partition, from its watermarks in all of them.

    A boot begins with seq 0. Deltas that are still on their way count as missing until they are read.
    """
    watermarks = list(watermarks)
    if not watermarks:
        return 0
    sent = max(watermark.last_seq for watermark in watermarks) + 1
    return sent - sum(watermark.seen for watermark in watermarks)


def windows_of(deltas: Iterable[MetricsDelta]) -> dict[WindowKey, list[MetricsDelta]]:
    """The deltas, grouped by the window of each resolution that they belong to."""
    windows: dict[WindowKey, list[MetricsDelta]] = {}
    for delta in deltas:
        for resolution in RESOLUTIONS_SECONDS:
            key = WindowKey(
                resolution,
                window_start(delta.window_start, resolution),
                delta.model_name,
                delta.model_version,
            )
            windows.setdefault(key, []).append(delta)
    return windows


def window_start(at: datetime, resolution_seconds: int) -> datetime:
    """The start of the window that contains `at`: a multiple of the resolution since 1970, UTC."""
    seconds = int(at.timestamp())
    return datetime.fromtimestamp(seconds - seconds % resolution_seconds, UTC)


def _sum_by_code(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    summed: dict[str, int] = {}
    for part in parts:
        for code, times in part.items():
            summed[code] = min(summed.get(code, 0) + times, MAX_INT64)
    return summed
