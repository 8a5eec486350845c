"""PURE. Evaluates the rules of a model for each of its versions.

`docs/contributing/add-an-alert-rule.md` says how to add a rule.
"""

from collections.abc import Iterator, Mapping

from schemas.alert_rules import ModelRules, Occurrences
from schemas.events import Alert
from streams.monitoring.metric_bin import BREAKER_OPENED, LOAD_FAILURES
from streams.monitoring.rules.error_rate import (
    error_rate,
    input_faults,
    refused_requests,
    stricter_input,
    with_causes,
)
from streams.monitoring.rules.evaluation import RESOLVE_SHARE, AlertKey, Evaluation
from streams.monitoring.rules.latency import latency_baseline, latency_production
from streams.monitoring.rules.model_view import ModelView
from streams.monitoring.rules.traffic import cache_hits, no_traffic

# After a change of weights a version gets other users' requests. Their inputs are not cached for this long.
_CACHE_FILLS_SECONDS = 300.0


def evaluate(
    view: ModelView, rules: ModelRules, firing: Mapping[AlertKey, Alert], now: float
) -> dict[AlertKey, Evaluation]:
    """The evaluations of all enabled rules; a rule without enough data is left out."""
    evaluations: dict[AlertKey, Evaluation] = {}
    for version in view.series:
        for rule, found in _evaluations(view, version, rules, firing, now):
            if found is not None:
                evaluations[AlertKey(view.model_name, version, rule)] = found
    return evaluations


def _evaluations(
    view: ModelView,
    version: str,
    rules: ModelRules,
    firing: Mapping[AlertKey, Alert],
    now: float,
) -> Iterator[tuple[str, Evaluation | None]]:
    series = view.series[version]

    def alert(rule: str) -> Alert | None:
        return firing.get(AlertKey(view.model_name, version, rule))

    if rules.error_rate.enabled:
        yield "error_rate", error_rate(view, version, series, rules.error_rate, now)
    if rules.refused_requests.enabled:
        yield "refused_requests", refused_requests(view, version, series, rules.refused_requests, now)
    if not version:
        return
    if rules.input_faults.enabled:
        yield "input_faults", input_faults(series, rules.input_faults, now)
    if rules.stricter_input.enabled:
        yield "stricter_input", stricter_input(view, version, series, rules.stricter_input, now)
    if rules.latency_baseline.enabled:
        fired = alert("latency_baseline")
        # While an alert fires its baseline is kept, else the slow minutes would become the baseline.
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
    # The rollback target takes no traffic, so it has a rule of its own. What is neither is not loaded any more.
    for rule, occurrences, applies in (
        ("load_failure", rules.load_failure, bool(view.weights.get(version))),
        ("rollback_target", rules.rollback_target, version == view.rollback_target),
    ):
        if occurrences.enabled:
            failures = series.counted(now, occurrences.window_seconds).load_failures if applies else 0
            found = _occurrences(failures, occurrences)
            yield rule, with_causes(found, series, now, LOAD_FAILURES)
    if rules.breaker_opened.enabled:
        openings = series.counted(now, rules.breaker_opened.window_seconds).breaker_opened
        found = _occurrences(openings, rules.breaker_opened)
        yield "breaker_opened", with_causes(found, series, now, BREAKER_OPENED)


def _occurrences(times: int, rule: Occurrences) -> Evaluation:
    """How often something happened within the rule's window."""
    return Evaluation(
        value=float(times),
        threshold=float(rule.times),
        window_seconds=rule.window_seconds,
        breached=times >= rule.times,
        cleared=times <= RESOLVE_SHARE * rule.times,
    )
