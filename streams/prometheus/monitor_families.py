"""What the role `monitor` shows: what fires, and what it knows of the whole installation."""

import time
from collections.abc import Iterator

from streams.monitoring.monitor import Monitor
from streams.monitoring.rules.global_rules import Sample, WorkerStatus
from streams.monitoring.watch import SAMPLE_EACH_SECONDS, AlertWatch
from streams.prometheus.text_format import NO_LABELS, Part, counter, gauge, labels

# Of several monitors one samples; who has stopped to must not go on telling what it saw last.
SAMPLE_HOLDS_SECONDS = 3 * SAMPLE_EACH_SECONDS
# As long as the rule `stale_workers` misses a worker that is silent, by default.
WORKERS_HOLD_SECONDS = 600.0


class MonitorMetrics:
    """Reads a monitor and its watch."""

    def __init__(self, monitor: Monitor, watch: AlertWatch) -> None:
        self._monitor = monitor
        self._watch = watch

    def read(self) -> Iterator[Part]:
        yield gauge(
            "headrace_alert_firing",
            "1 while a rule of the monitor fires.",
            [
                (
                    labels(
                        rule=alert.rule,
                        severity=alert.severity,
                        model_name=alert.model_name,
                        model_version=alert.model_version,
                    ),
                    1,
                )
                for alert in self._watch.firing
            ],
        )
        yield gauge(
            "headrace_monitored_models",
            "Models that this monitor has had metrics of, and watches.",
            [(NO_LABELS, len(self._watch.models))],
        )
        yield counter(
            "headrace_unreadable_deltas_total",
            "Records of the topic of metrics that are none.",
            [(NO_LABELS, self._monitor.unreadable)],
        )
        sample, now = self._watch.sampled, time.time()
        if sample is not None and now - sample.at < SAMPLE_HOLDS_SECONDS:
            yield from global_families(sample, now)


def global_families(sample: Sample, now: float) -> Iterator[Part]:
    """PURE. What a sample says at the Unix time `now`."""
    yield gauge(
        "headrace_group_lag_records",
        "Requests of a partition that no worker has answered and committed yet.",
        [(labels(partition=str(number)), offsets.lag) for number, offsets in sorted(sample.offsets.items())],
    )
    yield gauge(
        "headrace_missing_deltas",
        "Metrics deltas that were sent and have not come, of the workers known; some may be on their way.",
        [(NO_LABELS, sample.missing_deltas)],
    )
    signs = _newest(sample)
    since = now - sample.at
    for name, meaning, values in (
        (
            "headrace_worker_heartbeat_age_seconds",
            "How long ago a worker last sent its heartbeat.",
            {worker: sign.age_seconds + since for worker, sign in signs.items()},
        ),
        (
            "headrace_worker_epochs_behind",
            "How many changes of the registry a worker does not serve by yet.",
            {worker: max(0, sample.epoch - sign.epoch) for worker, sign in signs.items()},
        ),
        (
            "headrace_worker_models_behind",
            "How many models a worker serves by an older route than the registry's.",
            {worker: len(sign.behind) for worker, sign in signs.items()},
        ),
    ):
        yield gauge(
            name, meaning, [(labels(worker=worker), value) for worker, value in sorted(values.items())]
        )


def _newest(sample: Sample) -> dict[str, WorkerStatus]:
    """The last sign of each worker; one that died under a name is forgotten when it lives again."""
    newest: dict[str, WorkerStatus] = {}
    for sign in sorted(sample.workers, key=lambda each: each.age_seconds):
        if sign.age_seconds < WORKERS_HOLD_SECONDS:
            newest.setdefault(sign.worker, sign)
    return newest
