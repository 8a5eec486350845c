"""PURE. The rules `latency_baseline` and `latency_production`: p99 in milliseconds against a baseline.

A short window shows a change soon, and tells it from noise only when the change is large and the requests are
many. A long window shows smaller changes, later. So a rule has several windows (steps), and each step
fires by itself. The shortest step with enough requests decides when the alert clears.
"""

from collections.abc import Callable, Sequence

from schemas.alert_rules import LatencyBaseline, LatencyProduction, LatencyStep
from streams.monitoring.metric_bin import Bin
from streams.monitoring.rules.evaluation import RESOLVE_SHARE, Evaluation, halfway_to_baseline
from streams.monitoring.rules.model_view import ModelView
from streams.monitoring.series import VersionSeries

CONSECUTIVE = 3
"""A step is breached when this many consecutive windows are: a stall of one second breaches one window."""
WITHIN = CONSECUTIVE + 2
"""The consecutive windows are searched among this many of the newest ones: the newest may lack requests."""


def latency_baseline(
    series: VersionSeries, rule: LatencyBaseline, baseline_ms: float | None, now: float
) -> Evaluation | None:
    """p99 of a version against its own baseline; None without a baseline, or with too few requests."""
    if baseline_ms is None:
        return None

    def measured(window_seconds: int) -> Sequence[tuple[float, float]]:
        return [
            (found.p99_ms, baseline_ms)
            for _, found in series.newest(window_seconds, now, WITHIN)
            if found.measured >= rule.min_requests
        ]

    return _evaluate_steps(rule.steps, measured, rule.min_difference_ms)


def latency_production(
    view: ModelView, version: str, series: VersionSeries, rule: LatencyProduction, now: float
) -> Evaluation | None:
    """p99 of a canary against that of production in the same windows; None while it warms up."""
    production = view.series.get(view.production or "")
    first = series.first_asked_at
    if production is None or production is series or not view.weights.get(version) or first is None:
        return None
    if now - first < rule.warm_up_seconds:
        return None

    def measured(window_seconds: int) -> Sequence[tuple[float, float]]:
        both: list[tuple[Bin, Bin | None]] = [
            (found, production.bin(window_seconds, number))
            for number, found in series.newest(window_seconds, now, WITHIN)
            if number * window_seconds >= first + rule.warm_up_seconds
        ]
        return [
            (mine.p99_ms, other.p99_ms)
            for mine, other in both
            if other is not None and min(mine.measured, other.measured) >= rule.min_requests
        ]

    return _evaluate_steps(rule.steps, measured, rule.min_difference_ms)


def _evaluate_steps(
    steps: Sequence[LatencyStep],
    measured: Callable[[int], Sequence[tuple[float, float]]],
    min_difference_ms: float,
) -> Evaluation | None:
    """`measured(window_seconds)` gives p99 and baseline of each window with enough requests, newest first."""

    def limit(baseline: float, factor: float, part: float = 1.0) -> float:
        return max(factor * baseline, baseline + part * min_difference_ms)

    evaluation: Evaluation | None = None
    finest_is_cleared = False
    for step in sorted(steps, key=lambda step: step.window_seconds):
        pairs = measured(step.window_seconds)[:CONSECUTIVE]
        if len(pairs) < CONSECUTIVE:
            continue
        value, baseline = pairs[0]
        threshold = limit(baseline, step.factor)
        if evaluation is None:
            cleared = [
                value <= limit(base, halfway_to_baseline(step.factor), RESOLVE_SHARE) for value, base in pairs
            ]
            finest_is_cleared = cleared[0]
            evaluation = Evaluation(
                value, threshold, step.window_seconds, breached=False, cleared=all(cleared), baseline=baseline
            )
        # Longer windows still hold the past. They do not fire once the shortest window has recovered.
        if not finest_is_cleared and all(value > limit(base, step.factor) for value, base in pairs):
            return Evaluation(
                value, threshold, step.window_seconds, breached=True, cleared=False, baseline=baseline
            )
    return evaluation
