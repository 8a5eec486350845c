"""PURE. The rules about failed requests: `error_rate`, `input_faults`, `refused_requests` and `stricter_input`."""

from dataclasses import replace

from schemas.alert_rules import ErrorRate, InputFaults, RefusedRequests, StricterInput
from schemas.events import MAX_ALERT_WORKERS, ErrorCode
from streams.monitoring.metric_bin import FAILED, INPUT_FAULTS, REFUSED
from streams.monitoring.rules.evaluation import RESOLVE_SHARE, Causes, Evaluation
from streams.monitoring.rules.model_view import ModelView
from streams.monitoring.series import Counted, VersionSeries

_MIN_SHORT_REQUESTS = 10
_MAX_CODES = 2
_NO_CODES = frozenset[str]()
_ALL_CODES = frozenset[str](ErrorCode)


def error_rate(
    view: ModelView, version: str, series: VersionSeries, rule: ErrorRate, now: float
) -> Evaluation | None:
    """The share of failed requests against the error budget, in several pairs of windows.

    Requests that failed for their input, or for what their sender sent, do not count; `input_faults` and
    `refused_requests` are their rules.

    Multi-window, multi-burn-rate alerting (The Site Reliability Workbook, chapter 5). A pair is breached when
    both its windows are over the threshold: the long window shows that the budget is being used up, the short
    window that it still is. Requests that reached no version (`version` "") all failed, so their share is
    taken of all requests of the model. None when no pair has enough requests.
    """
    denominator = [series] if version else list(view.series.values())
    worst: Evaluation | None = None
    cleared = True
    for burn in rule.burns:
        threshold = burn.factor * rule.budget
        long_asked, short_asked = (
            sum(each.counted(now, seconds).asked for each in denominator)
            for seconds in (burn.long_seconds, burn.short_seconds)
        )
        long_share = _share(_failed(series, now, burn.long_seconds), long_asked)
        short_share = _share(_failed(series, now, burn.short_seconds), short_asked)
        cleared = cleared and short_share <= RESOLVE_SHARE * threshold
        first = series.first_asked_at
        if long_asked < rule.min_requests or first is None or now - first < burn.short_seconds:
            # A version that is younger than the short window cannot fill it.
            continue
        breached = long_share > threshold and short_share > threshold and short_asked >= _MIN_SHORT_REQUESTS
        if worst is None or (breached, long_share / threshold) > (
            worst.breached,
            worst.value / worst.threshold,
        ):
            worst = Evaluation(long_share, threshold, burn.long_seconds, breached, cleared=False)
    if worst is None:
        return None
    evaluation = replace(worst, cleared=cleared and not worst.breached)
    return with_causes(evaluation, series, now, FAILED, _ALL_CODES - series.caller_codes)


def input_faults(series: VersionSeries, rule: InputFaults, now: float) -> Evaluation | None:
    """The share of requests that failed for their input; None without enough requests."""
    counted = series.counted(now, rule.window_seconds)
    if counted.asked < rule.min_requests:
        return None
    evaluation = _over(counted.input_faults / counted.asked, rule.percent / 100, rule.window_seconds)
    return with_causes(evaluation, series, now, INPUT_FAULTS, _ALL_CODES - series.caller_codes)


def refused_requests(
    view: ModelView, version: str, series: VersionSeries, rule: RefusedRequests, now: float
) -> Evaluation | None:
    """The share of requests that failed for what their sender sent; None without enough requests.

    Of requests that reached no version (`version` ""), the share is taken of all requests of the model.
    """
    denominator = [series] if version else list(view.series.values())
    asked = sum(each.counted(now, rule.window_seconds).asked for each in denominator)
    if asked < rule.min_requests:
        return None
    refused = series.counted(now, rule.window_seconds).refused
    evaluation = _over(refused / asked, rule.percent / 100, rule.window_seconds)
    return with_causes(evaluation, series, now, REFUSED, series.caller_codes)


def stricter_input(
    view: ModelView, version: str, series: VersionSeries, rule: StricterInput, now: float
) -> Evaluation | None:
    """The share of inputs that a version refuses against that of production, in the same windows.

    The shortest window that is breached decides, or else the shortest with enough requests of both. None when there
    is no such window, or nothing to compare with.
    """
    production = view.series.get(view.production or "")
    if production is None or production is series or not view.weights.get(version):
        return None
    shortest: Evaluation | None = None
    for window_seconds in sorted(rule.windows_seconds):
        mine, other = (each.counted(now, window_seconds) for each in (series, production))
        if min(mine.asked, other.asked) < rule.min_requests:
            continue
        share, baseline, points = _invalid_share(mine), _invalid_share(other), rule.percent / 100
        evaluation = Evaluation(
            value=share,
            threshold=baseline + points,
            window_seconds=window_seconds,
            breached=share > baseline + points,
            cleared=share <= baseline + RESOLVE_SHARE * points,
            baseline=baseline,
        )
        shortest = shortest or evaluation
        # What has ended is still in a longer window.
        if evaluation.breached and not shortest.cleared:
            return with_causes(evaluation, series, now, REFUSED, frozenset({ErrorCode.INVALID_INPUT}))
    return shortest


def with_causes(
    evaluation: Evaluation, series: VersionSeries, now: float, kind: str, codes: frozenset[str] = _NO_CODES
) -> Evaluation:
    """The evaluation, with the causes when it is breached: the commonest of these codes, the workers by `kind`."""
    if not evaluation.breached:
        return evaluation
    by_code, by_worker = series.causes(now, evaluation.window_seconds, kind, codes.__contains__)
    workers = [worker for worker, _ in by_worker.most_common(MAX_ALERT_WORKERS)]
    return replace(evaluation, causes=Causes(dict(by_code.most_common(_MAX_CODES)), workers))


def _over(share: float, threshold: float, window_seconds: float) -> Evaluation:
    return Evaluation(
        value=share,
        threshold=threshold,
        window_seconds=window_seconds,
        breached=share > threshold,
        cleared=share <= RESOLVE_SHARE * threshold,
    )


def _invalid_share(counted: Counted) -> float:
    return counted.invalid_inputs / counted.asked


def _failed(series: VersionSeries, now: float, seconds: float) -> int:
    counted = series.counted(now, seconds)
    return counted.failed - counted.input_faults - counted.refused


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
