"""PURE. The text of an alert, for people."""

from schemas.events import Alert


def format_alert(alert: Alert) -> str:
    """One sentence with the value and the threshold."""
    whose = f"{alert.model_name} {alert.model_version}".strip()
    text = _SENTENCES.get(alert.rule, "{rule} is {value:g}, threshold {threshold:g}").format(
        rule=alert.rule,
        value=alert.value,
        threshold=alert.threshold,
        baseline=alert.baseline or 0.0,
        window=_span(alert.window_seconds),
    )
    return f"{whose}: {text}" if whose else text


def _span(seconds: float) -> str:
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= unit and seconds % unit == 0:
            return f"{seconds / unit:g} {name}"
    return f"{seconds:g} s"


_SENTENCES = {
    "error_rate": "{value:.1%} of the requests of the last {window} failed, threshold {threshold:.1%}",
    "input_faults": (
        "{value:.1%} of the requests of the last {window} failed for their input, threshold {threshold:.1%}"
    ),
    "latency_baseline": (
        "p99 of {window} is {value:.1f} ms, baseline {baseline:.1f} ms, threshold {threshold:.1f} ms"
    ),
    "latency_production": (
        "p99 of {window} is {value:.1f} ms, production's is {baseline:.1f} ms, threshold {threshold:.1f} ms"
    ),
    "cache_hits": (
        "{value:.1%} of the lookups of {window} hit the cache, baseline {baseline:.1%}, threshold {threshold:.1%}"
    ),
    "no_traffic": "no request for {value:.0f} s, though it has weight and its model had traffic",
    "load_failure": "could not be loaded {value:.0f} times in the last {window}",
    "rollback_target": (
        "could not be loaded {value:.0f} times in the last {window}; it takes no traffic, and a rollback to it would fail"
    ),
    "breaker_opened": "its circuit breaker opened {value:.0f} times in the last {window}",
    "consumer_lag": "the oldest unanswered request is {value:.0f} s old, threshold {threshold:.0f} s",
    "stale_workers": "{value:.0f} workers send no heartbeat or do not follow the registry",
    "delta_loss": "{value:.0f} metrics deltas were lost in the last {window}",
}
