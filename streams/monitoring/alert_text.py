"""PURE. The text of an alert, for people."""

from schemas.events import MAX_ALERT_WORKERS, Alert
from schemas.wording import listed, number_of, times


def format_alert(alert: Alert) -> str:
    """One sentence with the value and the threshold, the commonest error codes and the workers."""
    whose = f"{alert.model_name} {alert.model_version}".strip()
    many = alert.value != 1
    text = _SENTENCES.get(alert.rule, "{rule} is {value:g}, threshold {threshold:g}").format(
        rule=alert.rule,
        value=alert.value,
        threshold=alert.threshold,
        baseline=alert.baseline or 0.0,
        window=_span(alert.window_seconds),
        times=times(round(alert.value)),
        workers=number_of(round(alert.value), "worker sends", "workers send"),
        do="do" if many else "does",
        deltas=number_of(round(alert.value), "metrics delta was", "metrics deltas were"),
    )
    text += _causes(alert)
    return f"{whose}: {text}" if whose else text


def _causes(alert: Alert) -> str:
    codes = ", ".join(f"{code} {count:,}" for code, count in alert.codes.items())
    shown = alert.workers[: MAX_ALERT_WORKERS - 1]
    others = ["others"] if len(alert.workers) > len(shown) else []
    workers = f"{'worker' if len(alert.workers) == 1 else 'workers'} {listed([*shown, *others])}"
    parts = [codes] if codes else []
    parts += [workers] if alert.workers else []
    return f" ({'; '.join(parts)})" if parts else ""


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
    "refused_requests": (
        "{value:.1%} of the requests of the last {window} failed for what was sent, threshold {threshold:.1%}"
    ),
    "stricter_input": (
        "refused {value:.1%} of the inputs of the last {window}, production {baseline:.1%}, threshold {threshold:.1%}"
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
    "load_failure": "could not be loaded {times} in the last {window}",
    "rollback_target": (
        "could not be loaded {times} in the last {window}; it takes no traffic, and a rollback to it would fail"
    ),
    "breaker_opened": "its circuit breaker opened {times} in the last {window}",
    "consumer_lag": "the oldest unanswered request is {value:.0f} s old, threshold {threshold:.0f} s",
    "stale_workers": "{workers} no heartbeat or {do} not follow the registry",
    "delta_loss": "{deltas} lost in the last {window}",
}
