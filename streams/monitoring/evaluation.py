"""PURE. The rules of a model, held against what its versions did.

Each function says of one rule what it sees now; None where there is too little to judge by. A window that
is short sees a change soon and knows it from noise only when the change is large and the requests are many, a
long one the other way round: so a rule has several, and each fires by itself. The shortest that can be judged
says when it is over.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from schemas.alert_rules import (
    CacheHits,
    ErrorRate,
    LatencyBaseline,
    LatencyProduction,
    LatencyStep,
    ModelRules,
    NoTraffic,
    Occurrences,
    ShareStep,
)
from schemas.events import Alert
from streams.monitoring.series import Bin, VersionSeries

CONSECUTIVE = 3
"""In so many windows one after the other a step must be seen: a stall of a second is none."""
_WITHIN = CONSECUTIVE + 2
_RESOLVE_SHARE = 0.5
_MIN_SHORT_REQUESTS = 10
# Of the last hour before a silence, so many minutes must have had traffic: a nightly batch may end.
_STEADY_MINUTES = 50
_HOUR = 3600.0
# A cache that has just got other users must fill before it says what is usual.
_CACHE_FILLS_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a rule sees: between `breached` and `cleared` nothing changes."""

    value: float
    threshold: float
    window_seconds: float
    breached: bool
    cleared: bool
    baseline: float | None = None


AlertName = tuple[str, str, str]
"""Model, version and rule: of these there is one alert at a time."""


@dataclass(slots=True)
class ModelView:
    """A model as its rules see it: what each version did, "" for requests that reached none, and its route.

    `weights` are shares from 0 to 1; `weights_since` says when each version was seen to get its weight.
    """

    model_name: str
    series: dict[str, VersionSeries] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    weights_since: dict[str, float] = field(default_factory=dict)
    production: str | None = None

    def route(self, weights: Mapping[str, float], production: str | None, now: float) -> None:
        """Take over the route as it is now."""
        for version in {*weights, *self.weights}:
            if weights.get(version) != self.weights.get(version) or version not in self.weights_since:
                self.weights_since[version] = now
        self.weights = weights
        self.production = production

    def requests_per_second(self, before: float) -> float:
        """What the model got before a moment, at least: over ten minutes or an hour, whichever was less."""
        hour = self._minutes(before)
        return min(sum(hour[-10:]) / 600.0, sum(hour) / _HOUR)

    def steady(self, before: float) -> bool:
        """Whether there was traffic in nearly every minute of the hour."""
        return sum(1 for asked in self._minutes(before) if asked) >= _STEADY_MINUTES

    def _minutes(self, before: float) -> list[int]:
        each = [series.minutes_asked(before - _HOUR, before) for series in self.series.values()]
        return [sum(minute) for minute in zip(*each, strict=True)]


def evaluate(
    view: ModelView, rules: ModelRules, firing: Mapping[AlertName, Alert], now: float
) -> dict[AlertName, Evaluation]:
    """The evaluations of all rules that are enabled; what cannot be judged is not in it."""
    evaluations: dict[AlertName, Evaluation] = {}
    for version in view.series:
        for rule, found in _evaluations(view, version, rules, firing, now):
            if found is not None:
                evaluations[view.model_name, version, rule] = found
    return evaluations


def _evaluations(
    view: ModelView,
    version: str,
    rules: ModelRules,
    firing: Mapping[AlertName, Alert],
    now: float,
) -> Iterator[tuple[str, Evaluation | None]]:
    series = view.series[version]

    def alert(rule: str) -> Alert | None:
        return firing.get((view.model_name, version, rule))

    if rules.error_rate.enabled:
        yield "error_rate", error_rate(view, version, series, rules.error_rate, now)
    if not version:
        return
    if rules.latency_baseline.enabled:
        fired = alert("latency_baseline")
        # What it fires against stays the measure: else a bad hour would become the usual.
        baseline = series.baseline_p99_ms(now) if fired is None else fired.baseline
        yield "latency_baseline", latency_baseline(series, rules.latency_baseline, baseline, now)
    if rules.latency_production.enabled:
        yield "latency_production", latency_production(view, version, series, rules.latency_production, now)
    if rules.cache_hits.enabled:
        fired = alert("cache_hits")
        since = view.weights_since.get(version, 0.0) + _CACHE_FILLS_SECONDS
        baseline = series.baseline_hit_share(now, since) if fired is None else fired.baseline
        yield "cache_hits", cache_hits(series, rules.cache_hits, baseline, now)
    if rules.no_traffic.enabled:
        fires = alert("no_traffic") is not None
        yield "no_traffic", no_traffic(view, version, series, rules.no_traffic, now, fires=fires)
    for rule, settings in (("load_failure", rules.load_failure), ("breaker_opened", rules.breaker_opened)):
        if settings.enabled:
            yield rule, occurrences(series, rule, settings, now)


def error_rate(
    view: ModelView, version: str, series: VersionSeries, rule: ErrorRate, now: float
) -> Evaluation | None:
    """Multi-window, multi-burn-rate (The Site Reliability Workbook, chapter 5).

    The long window says that much of the budget is gone, the short one that it still goes. What reached no
    version is nothing but errors, so that it is held against all that the model got.
    """
    asked_of = [series] if version else list(view.series.values())
    worst: Evaluation | None = None
    cleared = True
    for burn in rule.burns:
        threshold = burn.factor * rule.budget
        long, short = (
            (
                sum(each.counted(now, seconds).asked for each in asked_of),
                series.counted(now, seconds).failed,
            )
            for seconds in (burn.long_seconds, burn.short_seconds)
        )
        share = long[1] / long[0] if long[0] else 0.0
        recent = short[1] / short[0] if short[0] else 0.0
        cleared = cleared and recent <= _RESOLVE_SHARE * threshold
        first = series.first_asked_at
        if long[0] < rule.min_requests or first is None or now - first < burn.short_seconds:
            # The first minutes of a version are neither half an hour nor six.
            continue
        breached = share > threshold and recent > threshold and short[0] >= _MIN_SHORT_REQUESTS
        if worst is None or (breached, share / threshold) > (worst.breached, worst.value / worst.threshold):
            worst = Evaluation(share, threshold, burn.long_seconds, breached, cleared=False)
    if worst is None:
        return None
    return Evaluation(
        worst.value,
        worst.threshold,
        worst.window_seconds,
        worst.breached,
        cleared=cleared and not worst.breached,
    )


def latency_baseline(
    series: VersionSeries, rule: LatencyBaseline, baseline_ms: float | None, now: float
) -> Evaluation | None:
    """p99 in milliseconds against the version's own."""
    if baseline_ms is None:
        return None

    def seen(window_seconds: int) -> Sequence[tuple[float, float]]:
        return [
            (found.p99_ms, baseline_ms)
            for _, found in series.newest(window_seconds, now, _WITHIN)
            if found.measured >= rule.min_requests
        ]

    return _slower(rule.steps, seen, rule.min_difference_ms)


def latency_production(
    view: ModelView, version: str, series: VersionSeries, rule: LatencyProduction, now: float
) -> Evaluation | None:
    """p99 of a canary in milliseconds against that of production in the same windows."""
    production = view.series.get(view.production or "")
    first = series.first_asked_at
    if production is None or production is series or not view.weights.get(version) or first is None:
        return None
    if now - first < rule.warm_up_seconds:
        return None

    def seen(window_seconds: int) -> Sequence[tuple[float, float]]:
        both: list[tuple[Bin, Bin | None]] = [
            (found, production.bin(window_seconds, number))
            for number, found in series.newest(window_seconds, now, _WITHIN)
            if number * window_seconds >= first + rule.warm_up_seconds
        ]
        return [
            (mine.p99_ms, other.p99_ms)
            for mine, other in both
            if other is not None and min(mine.measured, other.measured) >= rule.min_requests
        ]

    return _slower(rule.steps, seen, rule.min_difference_ms)


def cache_hits(
    series: VersionSeries, rule: CacheHits, baseline: float | None, now: float
) -> Evaluation | None:
    """The share of lookups that were hits against the version's own."""
    if baseline is None or baseline < rule.min_baseline:
        return None

    def seen(step: ShareStep) -> Sequence[float]:
        return [
            found.hit_share
            for _, found in series.newest(step.window_seconds, now, _WITHIN)
            if found.lookups >= rule.min_lookups
        ]

    def is_cleared(share: float, step: ShareStep) -> bool:
        return share >= _midway(step.factor) * baseline

    evaluation: Evaluation | None = None
    cleared = finest_is_cleared = False
    for step in sorted(rule.steps, key=lambda step: step.window_seconds):
        shares = seen(step)[:CONSECUTIVE]
        if len(shares) < CONSECUTIVE:
            continue
        threshold = step.factor * baseline
        if evaluation is None:
            cleared = all(is_cleared(share, step) for share in shares)
            finest_is_cleared = is_cleared(shares[0], step)
            evaluation = Evaluation(shares[0], threshold, step.window_seconds, False, cleared, baseline)
        if not finest_is_cleared and all(share < threshold for share in shares):
            return Evaluation(
                shares[0], threshold, step.window_seconds, breached=True, cleared=False, baseline=baseline
            )
    return evaluation


def no_traffic(
    view: ModelView, version: str, series: VersionSeries, rule: NoTraffic, now: float, *, fires: bool
) -> Evaluation | None:
    """Seconds of silence against those in which, by its weight, enough requests should have come."""
    weight = view.weights.get(version, 0.0)
    if series.last_asked_at is None:
        return None
    if not weight:
        return Evaluation(0.0, rule.silent_seconds, rule.silent_seconds, breached=False, cleared=True)
    # It is silent since its weight changed, or never was.
    silent_since = max(series.last_asked_at, view.weights_since.get(version, 0.0))
    silent = max(0.0, now - silent_since)
    threshold = rule.silent_seconds
    breached = fires
    if not fires and silent >= rule.silent_seconds:
        expected = weight * view.requests_per_second(silent_since) * silent
        breached = expected >= rule.expected_requests and view.steady(silent_since)
    cleared = silent < _RESOLVE_SHARE * rule.silent_seconds
    return Evaluation(
        silent, threshold, rule.silent_seconds, breached=breached and not cleared, cleared=cleared
    )


def occurrences(series: VersionSeries, rule: str, settings: Occurrences, now: float) -> Evaluation:
    """How often something happened in the last seconds."""
    counted = series.counted(now, settings.window_seconds)
    times = counted.load_failures if rule == "load_failure" else counted.breaker_opened
    return Evaluation(
        value=float(times),
        threshold=float(settings.times),
        window_seconds=settings.window_seconds,
        breached=times >= settings.times,
        cleared=times <= _RESOLVE_SHARE * settings.times,
    )


def _slower(
    steps: Sequence[LatencyStep],
    seen: Callable[[int], Sequence[tuple[float, float]]],
    min_difference_ms: float,
) -> Evaluation | None:
    def limit(baseline: float, factor: float, part: float = 1.0) -> float:
        return max(factor * baseline, baseline + part * min_difference_ms)

    evaluation: Evaluation | None = None
    finest_is_cleared = False
    for step in sorted(steps, key=lambda step: step.window_seconds):
        pairs = seen(step.window_seconds)[:CONSECUTIVE]
        if len(pairs) < CONSECUTIVE:
            continue
        value, baseline = pairs[0]
        threshold = limit(baseline, step.factor)
        if evaluation is None:
            all_cleared = [
                value <= limit(base, _midway(step.factor), _RESOLVE_SHARE) for value, base in pairs
            ]
            finest_is_cleared = all_cleared[0]
            evaluation = Evaluation(value, threshold, step.window_seconds, False, all(all_cleared), baseline)
        # What is over already, in the shortest windows, does not fire by the longer ones.
        if not finest_is_cleared and all(value > limit(base, step.factor) for value, base in pairs):
            return Evaluation(
                value, threshold, step.window_seconds, breached=True, cleared=False, baseline=baseline
            )
    return evaluation


def _midway(factor: float) -> float:
    """Half the way back to the baseline."""
    return (1.0 + factor) / 2.0
