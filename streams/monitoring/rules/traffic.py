"""PURE. The rules `cache_hits` and `no_traffic`: what the traffic of a version is like."""

from schemas.alert_rules import CacheHits, NoTraffic, ShareStep
from streams.monitoring.rules.evaluation import RESOLVE_SHARE, Evaluation, halfway_to_baseline
from streams.monitoring.rules.latency import CONSECUTIVE, WITHIN
from streams.monitoring.rules.model_view import ModelView
from streams.monitoring.series import VersionSeries


def cache_hits(
    series: VersionSeries, rule: CacheHits, baseline: float | None, now: float
) -> Evaluation | None:
    """The share of lookups that hit the cache against the version's own baseline; None without enough of both."""
    if baseline is None or baseline < rule.min_baseline:
        return None

    def is_cleared(share: float, step: ShareStep) -> bool:
        return share >= halfway_to_baseline(step.factor) * baseline

    evaluation: Evaluation | None = None
    finest_is_cleared = False
    for step in sorted(rule.steps, key=lambda step: step.window_seconds):
        shares = [
            found.hit_share
            for _, found in series.newest(step.window_seconds, now, WITHIN)
            if found.lookups >= rule.min_lookups
        ][:CONSECUTIVE]
        if len(shares) < CONSECUTIVE:
            continue
        threshold = step.factor * baseline
        if evaluation is None:
            finest_is_cleared = is_cleared(shares[0], step)
            evaluation = Evaluation(
                shares[0],
                threshold,
                step.window_seconds,
                breached=False,
                cleared=all(is_cleared(share, step) for share in shares),
                baseline=baseline,
            )
        if not finest_is_cleared and all(share < threshold for share in shares):
            return Evaluation(
                shares[0], threshold, step.window_seconds, breached=True, cleared=False, baseline=baseline
            )
    return evaluation


def no_traffic(
    view: ModelView, version: str, series: VersionSeries, rule: NoTraffic, now: float, *, fires: bool
) -> Evaluation | None:
    """Seconds since the last request of a version that has weight.

    Breached when the version, by its weight and the model's rate before, should have got at least
    `expected_requests` in that time. `fires` says that the alert fires already: then the expectation is not
    computed again, since the silence itself lowers it. None for a version that never had a request.
    """
    weight = view.weights.get(version, 0.0)
    if series.last_asked_at is None:
        return None
    if not weight:
        return Evaluation(0.0, rule.silent_seconds, rule.silent_seconds, breached=False, cleared=True)
    # A version that got its weight after its last request is silent only since then.
    silent_since = max(series.last_asked_at, view.weights_since.get(version, 0.0))
    silent_seconds = max(0.0, now - silent_since)
    breached = fires
    if not fires and silent_seconds >= rule.silent_seconds:
        expected = weight * view.requests_per_second(silent_since) * silent_seconds
        breached = expected >= rule.expected_requests and view.has_steady_traffic(silent_since)
    cleared = silent_seconds < RESOLVE_SHARE * rule.silent_seconds
    return Evaluation(
        value=silent_seconds,
        threshold=rule.silent_seconds,
        window_seconds=rule.silent_seconds,
        breached=breached and not cleared,
        cleared=cleared,
    )
