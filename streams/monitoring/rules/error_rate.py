"""PURE. The rules `error_rate` and `input_faults`."""

from schemas.alert_rules import ErrorRate, InputFaults
from streams.monitoring.rules.evaluation import RESOLVE_SHARE, Evaluation
from streams.monitoring.rules.model_view import ModelView
from streams.monitoring.series import VersionSeries

_MIN_SHORT_REQUESTS = 10


def error_rate(
    view: ModelView, version: str, series: VersionSeries, rule: ErrorRate, now: float
) -> Evaluation | None:
    """The share of failed requests against the error budget, in several pairs of windows.

    Requests that failed for their input do not count; `input_faults` is their rule.

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
    return Evaluation(
        value=worst.value,
        threshold=worst.threshold,
        window_seconds=worst.window_seconds,
        breached=worst.breached,
        cleared=cleared and not worst.breached,
    )


def input_faults(series: VersionSeries, rule: InputFaults, now: float) -> Evaluation | None:
    """The share of requests that failed for their input; None without enough requests."""
    counted = series.counted(now, rule.window_seconds)
    if counted.asked < rule.min_requests:
        return None
    share, threshold = counted.input_faults / counted.asked, rule.percent / 100
    return Evaluation(
        value=share,
        threshold=threshold,
        window_seconds=rule.window_seconds,
        breached=share > threshold,
        cleared=share <= RESOLVE_SHARE * threshold,
    )


def _failed(series: VersionSeries, now: float, seconds: float) -> int:
    counted = series.counted(now, seconds)
    return counted.failed - counted.input_faults


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
