"""PURE. The metrics of one version in the last seconds, minutes and hours, in memory.

Each delta is added to windows of 1 s, 10 s, 1 min and 5 min. The newest windows of each length are kept: a few
additions a second for each version, and about 100 kB. Only the newest ones keep their latencies; older ones keep
their p99. Times are Unix seconds. A delta belongs to the windows in which it began, as in PostgreSQL.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from schemas.events import MetricsDelta, caller_codes
from schemas.windows import Totals, Window
from streams.monitoring.metric_bin import Bin

KEPT_WINDOWS = {1: 20, 10: 65, 60: 375, 300: 12}
"""Window length in seconds -> how many of the newest are kept."""
_KEPT_LATENCIES = 8
_HOUR = 3600.0
# The minutes that a rule evaluates must not be in the baseline that it compares them with.
_BASELINE_ENDS_SECONDS = 300.0
_BASELINE_MINUTES = 10
_BASELINE_REQUESTS = 50


@dataclass(frozen=True, slots=True)
class Counted:
    """Sums over the last seconds."""

    asked: int
    failed: int
    refused: int
    invalid_inputs: int
    load_failures: int
    breaker_opened: int
    input_faults: int


class VersionSeries:
    """The newest windows of one version; that of requests which reached none is ""."""

    def __init__(self, model_version: str) -> None:
        self.caller_codes = caller_codes(model_version)
        self._tiers: dict[int, dict[int, Bin]] = {seconds: {} for seconds in KEPT_WINDOWS}
        self._newest = dict.fromkeys(KEPT_WINDOWS, 0)
        self._sums: dict[int, dict[float, tuple[tuple[int, int], tuple[int, ...]]]] = {
            seconds: {} for seconds in KEPT_WINDOWS
        }
        self._p99_of_minute: tuple[int, float | None] = (0, None)
        self._hits_of_minute: tuple[int, float, float | None] = (0, 0.0, None)
        self.first_asked_at: float | None = None
        self.last_asked_at: float | None = None
        """The end of the last delta that had requests."""

    def add(self, delta: MetricsDelta, now: float) -> None:
        """Add a delta; one from a worker whose clock is ahead counts as of `now`."""
        start = min(delta.window_start.timestamp(), now)
        self._put(KEPT_WINDOWS, start, min(delta.window_end.timestamp(), now), delta)

    def restore(self, window: Window) -> None:
        """Add a stored window of 10 s or 1 min."""
        seconds = window.resolution_seconds
        start = window.start.timestamp()
        self._put([60, 300] if seconds == 60 else [seconds], start, start + seconds, window.totals)

    def newest(self, seconds: int, now: float, within: int) -> Iterator[tuple[int, Bin]]:
        """The existing windows of length `seconds` among the last `within`, with their numbers, newest first.

        A window's number is its start divided by its length, the same for all versions. The first one is not
        complete yet.
        """
        tier = self._tiers[seconds]
        last = int(now // seconds)
        for number in range(last, last - within, -1):
            if (found := tier.get(number)) is not None:
                yield number, found

    def bin(self, seconds: int, number: int) -> Bin | None:
        return self._tiers[seconds].get(number)

    def counted(self, now: float, seconds: float) -> Counted:
        """The sums of the last `seconds`, in whole windows: up to one window more."""
        resolution = _resolution(seconds)
        first, last = int((now - seconds) // resolution), int(now // resolution)
        end = max(first, last - 1)
        known = self._sums[resolution].get(seconds)
        if known is None or known[0] != (first, end):
            # Rules ask twice a second. All but the newest two windows stay the same meanwhile.
            known = self._sums[resolution][seconds] = (first, end), self._sum(resolution, first, end)
        older = known[1]
        newest = self._sum(resolution, end, last + 1)
        return Counted(*(one + other for one, other in zip(older, newest, strict=True)))

    def _sum(self, resolution: int, first: int, end: int) -> tuple[int, ...]:
        tier = self._tiers[resolution]
        asked = failed = refused = invalid_inputs = load_failures = breaker_opened = input_faults = 0
        for number in range(first, end):
            if (found := tier.get(number)) is not None:
                asked += found.asked
                failed += found.failed
                refused += found.refused
                invalid_inputs += found.invalid_inputs
                load_failures += found.load_failures
                breaker_opened += found.breaker_opened
                input_faults += found.input_faults
        return asked, failed, refused, invalid_inputs, load_failures, breaker_opened, input_faults

    def causes(
        self, now: float, seconds: float, kind: str, codes: Callable[[str], bool]
    ) -> tuple[Counter[str], Counter[str]]:
        """The failed requests by those codes for which `codes` is true, and a count of each worker by its name.

        Of the last `seconds`, as `counted` takes them.
        """
        resolution = _resolution(seconds)
        tier = self._tiers[resolution]
        by_code: Counter[str] = Counter()
        by_worker: Counter[str] = Counter()
        for number in range(int((now - seconds) // resolution), int(now // resolution) + 1):
            if (found := tier.get(number)) is None:
                continue
            by_code.update({code: count for code, count in (found.codes or {}).items() if codes(code)})
            for (counted, worker), count in (found.workers or {}).items():
                if counted == kind:
                    by_worker[worker] += count
        return by_code, by_worker

    def requests_by_minute(self, start: float, end: float) -> list[int]:
        """The requests of each whole minute from `start` to before `end`."""
        tier = self._tiers[60]
        numbers = range(int(start // 60), int(end // 60))
        return [found.asked if (found := tier.get(number)) is not None else 0 for number in numbers]

    def baseline_p99_ms(self, now: float) -> float | None:
        """The median of the minutes' p99 in the last hour; None while there are too few of them.

        A median, so that a bad quarter of an hour does not become the baseline.
        """
        minute = int(now // 60)
        if self._p99_of_minute[0] != minute:
            minutes = self._baseline_minutes(now, now - _HOUR)
            values = [found.p99_ms for found in minutes if found.measured >= _BASELINE_REQUESTS]
            self._p99_of_minute = minute, _median(values)
        return self._p99_of_minute[1]

    def baseline_hit_share(self, now: float, since: float) -> float | None:
        """The median of the minutes' cache hit share in the last hour, but not before `since`."""
        minute = int(now // 60)
        if self._hits_of_minute[:2] != (minute, since):
            minutes = self._baseline_minutes(now, max(now - _HOUR, since))
            shares = [found.hit_share for found in minutes if found.lookups >= _BASELINE_REQUESTS]
            self._hits_of_minute = minute, since, _median(shares)
        return self._hits_of_minute[2]

    def _baseline_minutes(self, now: float, since: float) -> list[Bin]:
        tier = self._tiers[60]
        numbers = range(int(since // 60) + 1, int((now - _BASELINE_ENDS_SECONDS) // 60))
        return [found for number in numbers if (found := tier.get(number)) is not None]

    def _put(self, windows: Iterable[int], start: float, end: float, part: MetricsDelta | Totals) -> None:
        fallen = sum(part.fallbacks.values())
        asked, failed = part.requests + fallen, sum(part.errors.values()) + fallen
        latencies = [(int(index), times) for index, times in part.latency_ms.buckets.items()]
        for seconds in windows:
            found = self._window(seconds, int(start // seconds))
            if found is not None:
                found.add(part, asked, failed, latencies)
        if asked:
            self.first_asked_at = start if self.first_asked_at is None else min(self.first_asked_at, start)
            self.last_asked_at = end if self.last_asked_at is None else max(self.last_asked_at, end)

    def _window(self, seconds: int, number: int) -> Bin | None:
        """The window to add to; None when it is too old to be kept."""
        tier, kept, newest = self._tiers[seconds], KEPT_WINDOWS[seconds], self._newest[seconds]
        sums = self._sums[seconds]
        if sums and any(number < end for (_, end), _ in sums.values()):
            sums.clear()
        found = tier.get(number)
        if found is None and number > newest - kept:
            found = tier[number] = Bin(self.caller_codes)
            if number > newest:
                self._newest[seconds] = number
                self._age(tier, number, kept)
            elif number <= newest - _KEPT_LATENCIES:
                found.without_latencies()
        return found

    @staticmethod
    def _age(tier: dict[int, Bin], newest: int, kept: int) -> None:
        for number in [number for number in tier if number <= newest - kept]:
            del tier[number]
        for number, found in tier.items():
            if number <= newest - _KEPT_LATENCIES:
                found.without_latencies()


def _resolution(seconds: float) -> int:
    return 1 if seconds <= 15 else 10 if seconds <= 600 else 60


def _median(values: list[float]) -> float | None:
    if len(values) < _BASELINE_MINUTES:
        return None
    values.sort()
    return values[len(values) // 2]
