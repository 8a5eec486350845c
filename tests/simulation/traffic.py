"""Simulated traffic: the metrics deltas of workers whose requests follow a plan. An hour is generated at once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from schemas.events import Alert, Histogram, MetricsDelta
from schemas.histogram import SCALE, HistogramBuilder
from streams.monitoring.engine import AlertEngine

START = datetime(2026, 11, 25, tzinfo=UTC).timestamp()
EMPTY = HistogramBuilder().drain()
HOUR = 3600
_BUCKETS = 1024
_OFFSET = 512

Plan = Callable[[np.ndarray], np.ndarray]
"""Maps an array of seconds since START to an array of values."""


def always(value: float) -> Plan:
    return lambda at: np.full(at.shape, value, dtype=float)


@dataclass
class SimulatedVersion:
    """Requests arrive as a Poisson process of `rate` per second; `slow` multiplies the backend's time.

    `code` is that of all errors. With `inputs_are_bad` they are faults of the input.
    """

    model_name: str
    version: str
    rate: Plan
    hit_share: Plan = field(default_factory=lambda: always(0.0))
    error_share: Plan = field(default_factory=lambda: always(0.0))
    slow: Plan = field(default_factory=lambda: always(1.0))
    code: str = "BACKEND_ERROR"
    inputs_are_bad: bool = False
    median_ms: float = 8.0
    sigma: float = 0.4

    def deltas(self, chance: np.random.Generator, first: int, seconds: int) -> Iterator[MetricsDelta | None]:
        """One delta for each second, None for a second without requests."""
        at = np.arange(first, first + seconds)
        asked = chance.poisson(self.rate(at))
        hits = chance.binomial(asked, self.hit_share(at))
        failed = chance.binomial(asked - hits, self.error_share(at))
        second = np.repeat(np.arange(seconds), asked)
        order = np.arange(len(second)) - np.repeat(np.cumsum(asked) - asked, asked)
        is_hit = order < hits[second]
        latency = chance.lognormal(0.0, self.sigma, len(second))
        latency *= np.where(is_hit, 0.7, self.median_ms * self.slow(at)[second])
        bucket = np.ceil(np.log2(latency) * (1 << SCALE)).astype(int) - 1 + _OFFSET
        counts = np.bincount(second * _BUCKETS + bucket, minlength=seconds * _BUCKETS)
        counts = counts.reshape(seconds, _BUCKETS)
        for index in range(seconds):
            if asked[index]:
                row = counts[index]
                yield self._delta(first + index, row, int(hits[index]), int(failed[index]))
            else:
                yield None

    def _delta(self, at: int, row: np.ndarray, hits: int, failed: int) -> MetricsDelta:
        filled = np.flatnonzero(row)
        times = row[filled].tolist()
        count = sum(times)
        latency = Histogram.model_construct(
            scale=SCALE,
            count=count,
            sum=0.0,
            min=0.0,
            max=0.0,
            zero_count=0,
            buckets={str(bucket - _OFFSET): n for bucket, n in zip(filled.tolist(), times, strict=True)},
        )
        start = datetime.fromtimestamp(START + at, UTC)
        return MetricsDelta.model_construct(
            worker="w",
            boot_id="b",
            seq=at,
            window_start=start,
            window_end=datetime.fromtimestamp(START + at + 1, UTC),
            model_name=self.model_name,
            model_version=self.version,
            revision=1,
            requests=count,
            ok=count - failed,
            errors={self.code: failed} if failed else {},
            cache_hits=hits,
            cache_misses=count - hits,
            latency_ms=latency,
            end_to_end_ms=EMPTY,
            backend_ms=EMPTY,
            batch_size=EMPTY,
            load_failures=0,
            fallbacks={},
            breaker_opened=0,
            input_faults=failed if self.inputs_are_bad else 0,
        )


Routes = Callable[[int], dict[str, tuple[dict[str, float], str]]]
"""Maps a second to the weights and the production version of each model."""


@dataclass
class Simulation:
    """An engine that gets the deltas of the versions second by second, half a second late."""

    versions: list[SimulatedVersion]
    routes: Routes
    seed: int = 1
    rollback_target: str | None = None
    engine: AlertEngine = field(default_factory=AlertEngine)
    alerts: list[Alert] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._chance = np.random.default_rng(self.seed)
        self.now = 0
        for model_name in {each.model_name for each in self.versions}:
            self.engine.begin(model_name, [])

    def run(self, seconds: int) -> list[Alert]:
        """Advance the time; returns the events of this span."""
        before = len(self.alerts)
        end = self.now + seconds
        while self.now < end:
            chunk = min(HOUR, end - self.now)
            streams = [version.deltas(self._chance, self.now, chunk) for version in self.versions]
            for second in range(self.now, self.now + chunk):
                self._second(second, [delta for stream in streams if (delta := next(stream)) is not None])
            self.now += chunk
        return self.alerts[before:]

    def _second(self, second: int, deltas: list[MetricsDelta]) -> None:
        now = START + second + 1.5
        for model_name, (weights, production) in self.routes(second).items():
            self.engine.update_route(model_name, weights, production, self.rollback_target, now)
        self.engine.observe(deltas, now)
        for model_name in self.engine.models:
            self.alerts += self.engine.evaluate(model_name, now)

    def seconds_of(self, alert: Alert) -> float:
        """The time of an event, in seconds since START."""
        return alert.at.timestamp() - START
